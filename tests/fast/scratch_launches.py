"""Launches of the kernels of scratch at the sizes they are meant for; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.kernels.scratch import launch
from certkv.fast.plan import plan
from certkv.fast.policies import Budget

SETTINGS = (
    # sequences, KV heads, query heads, head size, block, blocks of scratch, type
    (1, 8, 32, 128, 64, 1 << 14, torch.float16),
    (8, 8, 8, 64, 64, 3, torch.bfloat16),
    (3, 5, 25, 80, 16, 100, torch.float16),
    (40, 8, 64, 256, 64, 1 << 12, torch.bfloat16),
)


def launches() -> None:
    for batch, kv_heads, heads, head_dim, block, slots, dtype in SETTINGS:
        cache = TieredCache(
            batch,
            kv_heads,
            head_dim,
            16 * block,
            dtype,
            block=block,
            scratch_bytes=slots * 2 * block * head_dim,
            pages=1,
        )
        made = plan(cache, heads, Budget(0.05))
        moved = torch.zeros(batch, dtype=torch.int64)
        for first in (True, False):
            launch(made.parts.choice, made.ws.levels, cache.originals, cache.scratch, moved, first)
