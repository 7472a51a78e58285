"""Launches of the certificate's kernels at the sizes they are meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.certify import Pass, Terms
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.choose import Choice
from certkv.fast.coded import Coded
from certkv.fast.kernels.certify import certify
from certkv.fast.kernels.choose import choose
from certkv.fast.kernels.resident_terms import resident_terms
from certkv.fast.kernels.score_error import score_error
from certkv.fast.pool import allocate
from certkv.fast.resident_terms import ResidentPass
from certkv.fast.score_error import ScoreErrors
from certkv.fast.totals import UNITS, Totals

SCORE = ScoreCharge(1e-5, 1e-3)
CHARGES = Charges(2.0**-14, SCORE, SCORE, SCORE, 1.001, 1e-10, 0.999, 1e-9, 1e-5, 1e-6, 1e-5, 1e-9).rounded()


def launches() -> None:
    for keys, values, dtype in (
        ("int8", "int4-g32", torch.float16),
        ("int8", "int8", torch.bfloat16),
        ("int8", "int4", torch.float16),
        ("oscar", "oscar", torch.float16),
    ):
        batch, heads, kv_heads, head_dim, block, blocks = 1, 32, 8, 128, 64, 2048
        coded = Coded(
            allocate(4, kv_heads, block, head_dim, dtype, values, keys=keys),
            torch.zeros(batch, blocks, dtype=torch.int32),
            torch.zeros(batch, dtype=torch.int32),
            torch.zeros(batch, kv_heads, head_dim),
            values,
            1,
            keys,
        )
        per_block = torch.zeros(batch, heads, blocks)
        per_head = torch.zeros(batch, heads)
        q, output = torch.zeros(batch, heads, head_dim, dtype=dtype), torch.zeros(batch, heads, head_dim)
        errors = ScoreErrors(*(per_block.clone() for _ in range(3)))
        score_error(q, coded, 0.1, 2.0**-14, errors)
        terms = Terms.empty(batch, heads, blocks)
        active = torch.ones(batch, heads, dtype=torch.uint8)
        levels = per_block.to(torch.uint8)
        weights = torch.zeros(batch, heads, blocks, block, dtype=torch.float16)
        certify(Pass(weights, per_block, per_head, per_head, output, levels), coded, errors, CHARGES, terms, active)
        kept = torch.zeros(batch, kv_heads, 2, block, head_dim, dtype=dtype)
        pair = torch.zeros(batch, heads, 2)
        seen = ResidentPass(q, kept, kept, weights[:, :, :2].clone(), pair, per_head, per_head, output)
        resident_terms(seen, coded, 0.1, CHARGES, pair.clone(), terms, active)
        for unit in UNITS if values == "int4" else UNITS[:1]:
            choice = Choice.empty(batch, heads, kv_heads, blocks)
            choose(terms, levels, output, CHARGES, unit, 0.05, 2, 100, Totals.empty(batch, heads), choice)
