"""The terms of a split's blocks, kernel against twin, over as many turns of the kernel's loop as there may be."""

from __future__ import annotations

import pytest
import torch

from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.coded import Coded
from certkv.fast.kernels import attend
from certkv.fast.rounding import rounding
from certkv.fast.split_terms import TERMS, split_terms
from certkv.fast.workspace import plan_workspace

KV_HEADS, HEAD_DIM, BLOCK = 2, 64, 16

APART = 128 * 2.0**-24
"""A term is a formula of fewer than 60 roundings, and the sum one of at most 33 numbers, none of them negative."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("keys", "values"), [("int8", "int4"), ("oscar", "int8-g64")])
@pytest.mark.parametrize("blocks", [1, 8, 9, 17, 33])
@pytest.mark.parametrize("group", [3, 4])
def test_every_block_is_its_own(group: int, blocks: int, keys: str, values: str) -> None:
    """Blocks are unlike each other, so that one in the place of another shows; a turn takes eight of them."""
    draw = torch.Generator().manual_seed(blocks)
    tokens = (blocks + 1) * BLOCK + 3  # the first block is resident, and so is the tail
    sizes = (1, KV_HEADS, HEAD_DIM, tokens, torch.float16)
    cache = TieredCache(*sizes, keys=keys, values=values, block=BLOCK, device="cpu")
    gain = torch.rand(1, tokens, 1, 1, generator=draw) * (4.0 + torch.arange(tokens)[None, :, None, None] / BLOCK)
    k, v = torch.randn(2, 1, tokens, KV_HEADS, HEAD_DIM, generator=draw) * gain
    cache.append((0.05 * k).half(), v.half())
    coded = Coded(cache.pool, cache.pages.table, cache.lengths, cache.anchor, values, 1, keys)
    q = torch.randn(1, KV_HEADS * group, HEAD_DIM, generator=draw).half()
    ws = plan_workspace(1, KV_HEADS * group, KV_HEADS, HEAD_DIM, BLOCK, cache.max_blocks, 1)
    costs = rounding(INTERPRETED, cache, 1, 0, torch.float16)
    attend.launch(q, coded, cache.resident, 0.2, ws, costs)
    found = ws.part_terms[..., :TERMS].clone()
    split_terms(q, coded, 0.2, costs, ws)
    torch.testing.assert_close(found, ws.part_terms[..., :TERMS], rtol=APART, atol=0.0)
