"""Launches of attend with statistics, with and without loading ahead, and of the first tier; compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.arithmetic import H200
from certkv.fast.cache import TieredCache
from certkv.fast.coded import Coded
from certkv.fast.first_tier import Opened
from certkv.fast.kernels.attend import launch as attend
from certkv.fast.kernels.first_tier import first_tier
from certkv.fast.rounding import rounding
from certkv.fast.step import Step
from certkv.fast.totals import Totals
from certkv.fast.workspace import plan_workspace

FP16, BF16 = torch.float16, torch.bfloat16
CASES = (
    # query heads per KV head, head size, block, values, type, blocks, splits
    (4, 128, 64, "int4", FP16, 2048, 128),
    (4, 128, 64, "int4", FP16, 128, 128),
    (4, 128, 64, "int8", FP16, 2048, 132),
    (4, 128, 64, "int4-g32", FP16, 2048, 128),
    (4, 256, 64, "int8-g64", BF16, 64, 8),
    (5, 80, 16, "int8", FP16, 64, 8),
    (4, 192, 64, "int4", BF16, 64, 8),
)


def launches() -> None:
    for group, head_dim, block, values, dtype, blocks, splits in CASES:
        kv_heads, heads = 1, group
        cache = TieredCache(1, kv_heads, head_dim, blocks * block, dtype, values=values, block=block, device="cpu")
        coded = Coded(cache.pool, cache.pages.table, cache.lengths, cache.anchor, values, 1)
        ws = plan_workspace(1, heads, kv_heads, head_dim, block, blocks, splits)
        q = torch.zeros(1, heads, head_dim, dtype=dtype)
        costs = rounding(H200, cache, splits, 0, dtype)
        attend(q, coded, cache.resident, 0.1, ws, costs)
        opened = Opened.empty(torch.zeros(1, heads, dtype=torch.uint8))
        none = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
        result = Step.blank(1, heads, head_dim, dtype).result
        found = Totals.empty(1, heads)
        first_tier(q, coded, cache.resident, 0.1, costs, "values", 0.1, ws, found, opened, *none, result)
