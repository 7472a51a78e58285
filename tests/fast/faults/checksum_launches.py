"""Launches of the kernels that compare checksums, at the sizes they are meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.checksum import pool_fields
from certkv.fast.kernels import checksum
from certkv.fast.plan import plan
from certkv.fast.policies import Budget
from certkv.fast.verify import Verifier, kernels

SETTINGS = (
    ("int4", torch.float16, 32, 128),
    ("int4-g32", torch.float16, 8, 64),
    ("int8", torch.bfloat16, 64, 256),
    ("int8-g64", torch.bfloat16, 24, 96),
)


def launches() -> None:
    for values, dtype, heads, head_dim in SETTINGS:
        cache = TieredCache(1, 8, head_dim, 4096, dtype, values=values, scratch_bytes=1 << 20)
        made = plan(cache, heads, Budget(0.05), verify="step")
        sums = cache.checksums
        if made.verifier is None:
            raise SystemExit("the plan does not verify")
        checksum.totals(pool_fields(cache.pool), torch.zeros(8, dtype=torch.int64))
        checksum.add_resident(sums, cache.lengths, cache.anchor, cache.resident, 1)
        checksum.write_filled(sums, cache.pool, cache.resident, cache.lengths, cache.lengths)
        made.verifier = Verifier(kernels(), *made.verifier.tables, made.verifier.offender)
        made.verifier.before(cache, made.ws)
        made.verifier.after(cache, made.coded, made.ws, made.parts.choice, True, made.step().result)
