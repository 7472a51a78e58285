"""Launches of the ladder at the sizes it is meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.passes import kernels
from certkv.fast.plan import plan
from certkv.fast.policies import Budget

SETTINGS = (
    # keys, values, type, query heads, head size, capacity, bytes of scratch
    ("int8", "int4", torch.float16, 32, 128, 131072, 1 << 20),
    ("oscar", "oscar", torch.float16, 32, 128, 131072, 0),
    ("oscar-4", "oscar-4", torch.bfloat16, 64, 256, 4096, 0),
    ("int8+4", "int4-g32+4", torch.float16, 32, 128, 131072, 0),
    ("oscar+2+4", "oscar+2+4", torch.float16, 32, 128, 131072, 0),
)


def nothing(*_: object) -> None:
    """Compile nothing: this part has launches of its own."""


def launches() -> None:
    for keys, values, dtype, heads, head_dim, capacity, scratch_bytes in SETTINGS:
        sizes = (1, 8, head_dim, capacity, dtype)
        cache = TieredCache(*sizes, keys=keys, values=values, scratch_bytes=scratch_bytes, pages=4)
        cache.append(*torch.zeros(2, 1, 1, 8, head_dim, dtype=dtype))
        made = plan(cache, heads, Budget(0.05))
        made.passes = kernels()._replace(attend=nothing, first_tier=nothing)
        made.run(torch.zeros(1, heads, head_dim, dtype=dtype), made.step())
