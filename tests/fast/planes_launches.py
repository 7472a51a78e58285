"""Launches of the kernels that know levels, at the sizes they are meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.certify import Finer, Pass
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS
from certkv.fast.kernels import certify, choose, encode_planes, planes, refine, score_error
from certkv.fast.plan import plan
from certkv.fast.policies import Budget
from certkv.fast.refine import FinerRead

SETTINGS = (
    ("int8+4", "int4-g32+4", torch.float16, 32, 128),
    ("int8+4", "int8+4", torch.bfloat16, 16, 256),
    ("int8", "int8-g64+4", torch.bfloat16, 24, 96),
    ("int8+4", "int4", torch.float16, 64, 64),
    ("oscar+2+4", "oscar+2+4", torch.float16, 32, 128),
    ("oscar+2+4", "oscar+2+4", torch.bfloat16, 32, 256),
)


def launches() -> None:
    for keys, values, dtype, heads, head_dim in SETTINGS:
        cache = TieredCache(1, 8, head_dim, 4096, dtype, keys=keys, values=values)
        made = plan(cache, heads, Budget(0.05))
        ws, parts, coded = made.ws, made.parts, made.coded
        q, moved = torch.zeros(1, heads, head_dim, dtype=dtype), torch.zeros(1, dtype=torch.int64)
        score_error.finer_score_error(q, coded, 0.1, parts.finer)
        seen = Pass(ws.weights, ws.reference, ws.m, ws.l, ws.output, ws.levels)
        charges, finer = made.rounding.first, Finer(parts.finer, parts.foreseen)
        certify.certify(seen, coded, parts.errors, charges, parts.terms, parts.choice.action, finer)
        found, chosen = parts.found, parts.choice
        choose.choose(parts.terms, ws.levels, ws.output, charges, "values", 0.05, 2, 128, found, chosen, made.prices)
        tiers = (cache.originals, cache.scratch)
        read = FinerRead(cache.planes, parts.finer.delta)
        state, check, sums = made._state(), made._check(), parts.corrections
        delta, missing = parts.errors.delta, parts.missing
        refine.launch(q, 0.1, coded, *tiers, delta, chosen, state, missing, moved, check, sums, None, read)
        blocks, pages = torch.zeros(2, 8, cache.block, head_dim, dtype=dtype), torch.zeros(2, dtype=torch.int32)
        if keys in PLANAR_KEY_FORMATS:
            encode_planes.encode_key_planes(blocks, pages, cache.pool, cache.planes, PLANAR_KEY_FORMATS[keys])
        if values in PLANAR_VALUE_FORMATS:
            encode_planes.encode_value_planes(blocks, pages, cache.pool, cache.planes, PLANAR_VALUE_FORMATS[values])
        planes.finish_levels(ws.levels, chosen, cache.planes, made.step().certificate)
        planes.mark(cache.planes, pages)
        planes.write_filled(cache.planes, cache.lengths, cache.lengths, cache.block)
        planes.verify_planes(coded, cache.planes, ws.levels, cache.lengths)
