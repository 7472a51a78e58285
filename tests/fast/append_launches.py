"""Launches of the kernels that append one token per sequence; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.kernels.append_one import admit, turn

SIZES = ((8, 64, 128, torch.float16), (2, 16, 80, torch.bfloat16), (1, 128, 256, torch.bfloat16))


def launches() -> None:
    for heads, block, head_dim, dtype in SIZES:
        cache = TieredCache(2, heads, head_dim, 4 * block, dtype, block=block)
        cache.reserve()
        token = torch.zeros(2, heads, head_dim, dtype=dtype)
        if cache._work is None:
            raise RuntimeError("nothing was reserved")
        admit(token, token, cache._work.everyone, cache._held(), cache._work)
        turn(cache._held(), cache._work)
