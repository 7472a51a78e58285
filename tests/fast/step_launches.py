"""Launches of a step's own kernels at the sizes they are meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.finish import Flags
from certkv.fast.kernels import exact_terms, finish, refine, settle
from certkv.fast.plan import plan
from certkv.fast.policies import Budget

SETTINGS = (
    ("int8", "int4", torch.float16, 32, 128, torch.float16),
    ("int8", "int4-g32", torch.float16, 8, 64, torch.float32),
    ("int8", "int8", torch.bfloat16, 64, 256, torch.bfloat16),
    ("int8", "int8-g64", torch.bfloat16, 24, 96, torch.bfloat16),
    ("oscar", "oscar", torch.float16, 32, 128, torch.float16),
    ("oscar-4", "oscar-4", torch.bfloat16, 32, 80, torch.bfloat16),
)


def launches() -> None:
    for keys, values, dtype, heads, head_dim, out_dtype in SETTINGS:
        cache = TieredCache(1, 8, head_dim, 4096, dtype, keys=keys, values=values)
        made = plan(cache, heads, Budget(0.05), out_dtype=out_dtype)
        ws, parts, state = made.ws, made.parts, made._state()
        q, moved = torch.zeros(1, heads, head_dim, dtype=dtype), torch.zeros(1, dtype=torch.int64)
        flags = Flags(parts.missing, parts.dense, cache.refusals.status, cache.refusals.position)
        finish.launch_begin(ws.levels, parts.choice, flags, moved)
        for before in (None, parts.terms.partial):
            refine.launch(
                q,
                0.1,
                made.coded,
                cache.originals,
                cache.scratch,
                parts.errors.delta,
                parts.choice,
                state,
                parts.missing,
                moved,
                made._check(),
                parts.corrections,
                before,
            )
        settle.launch_keep_lost(parts.terms.partial, state, parts.choice.action)
        exact_terms.launch(
            q,
            made.coded,
            cache.resident,
            cache.originals.present,
            parts.errors.size,
            0.1,
            made.rounding.exact,
            made.rounding.first,
            ws.flags,
            ws.output,
            parts.exact_bound,
            parts.missing,
            parts.dense,
        )
        finish.launch(
            q,
            made.coded,
            ws.output,
            ws.lse,
            parts.exact_bound,
            parts.found,
            ws.levels,
            None,
            parts.choice,
            flags,
            cache.originals.block_bytes,
            made.step().result,
        )
