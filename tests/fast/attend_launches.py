"""Launches of attend, merge and the exact head, for the configurations that matter; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.coded import Coded
from certkv.fast.host import Originals
from certkv.fast.kernels.attend import launch as attend
from certkv.fast.kernels.exact_head import launch as exact_head
from certkv.fast.kernels.merge import launch as merge
from certkv.fast.pool import allocate
from certkv.fast.resident import Resident
from certkv.fast.scratch import Scratch
from certkv.fast.workspace import plan_workspace

FP16, BF16 = torch.float16, torch.bfloat16
CASES = (
    # query heads per KV head, head size, block, keys, values, type
    (4, 128, 64, "int8", "int4", FP16),
    (4, 128, 64, "int8", "int8", FP16),
    (4, 128, 64, "int8", "int4", BF16),
    (4, 128, 64, "int8", "int4-g32", FP16),
    (4, 128, 64, "int8", "int8-g64", BF16),
    (8, 128, 64, "int8", "int4", FP16),
    (16, 128, 64, "int8", "int4", FP16),
    (1, 64, 64, "int8", "int4", FP16),
    (5, 80, 16, "int8", "int8", FP16),
    (2, 96, 64, "int8", "int4", FP16),
    (4, 192, 64, "int8", "int4", FP16),
    (4, 256, 64, "int8", "int8", BF16),
    (4, 256, 64, "int8", "int8-g64", FP16),
    (4, 128, 128, "int8", "int4", FP16),
    (4, 128, 64, "oscar", "oscar", FP16),
    (4, 128, 64, "oscar", "oscar", BF16),
    (4, 128, 64, "oscar-4", "oscar-4", FP16),
    (5, 80, 32, "kivi", "kivi", FP16),
    (1, 64, 128, "oscar-g128", "int4", FP16),
)


def launches() -> None:
    for group, head_dim, block, keys, values, dtype in CASES:
        kv_heads, blocks = 2, 4
        pool = allocate(blocks, kv_heads, block, head_dim, dtype, values, keys=keys)
        table = torch.zeros(1, blocks, dtype=torch.int32)
        lengths = torch.zeros(1, dtype=torch.int32)
        coded = Coded(pool, table, lengths, torch.zeros(1, kv_heads, head_dim), values, 1, keys)
        resident = Resident.empty(1, kv_heads, block, head_dim, dtype, torch.device("cpu"))
        out = plan_workspace(1, group * kv_heads, kv_heads, head_dim, block, blocks, 132)
        q = torch.zeros(1, group * kv_heads, head_dim, dtype=dtype)
        attend(q, coded, resident, 0.1, out)
        cpu = torch.device("cpu")
        originals = Originals(1, kv_heads, blocks, block, head_dim, dtype, "host", cpu)
        scratch = Scratch.empty(0, 1, kv_heads, blocks, block, head_dim, dtype, cpu)
        moved = torch.zeros(1, dtype=torch.int64)
        if keys == "int8" and (values == "int8" or group > 4):
            exact_head(q, coded, resident, originals, scratch, moved, 0.1, out)
        if (block, values) == (64, "int8"):
            merge(out, None)
            merge(out, out.flags)
