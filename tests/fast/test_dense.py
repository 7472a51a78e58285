"""Rung 4: torch's own attention of the originals, bit for bit, with a measured bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from certkv.fast import dense, float64
from certkv.fast.cache import TieredCache
from certkv.fast.errors import HostMissingError

BLOCK, CAPACITY = 4, 23


def filled(
    tokens: list[int], dtype: torch.dtype, kv_heads: int, head_dim: int, pieces: int = 1, **more: Any
) -> tuple[TieredCache, torch.Tensor, torch.Tensor]:
    """Return a cache, and the keys and values that went into it in so many appends."""
    cache = TieredCache(len(tokens), kv_heads, head_dim, CAPACITY, dtype, block=BLOCK, **more)
    made = torch.Generator().manual_seed(7)
    k, v = torch.randn(2, len(tokens), max(tokens), kv_heads, head_dim, generator=made).to(dtype)
    done = [0] * len(tokens)
    for piece in range(pieces):
        until = [n * (piece + 1) // pieces for n in tokens]
        lengths = [b - a for a, b in zip(done, until, strict=True)]
        parts = []
        for x in (k, v):
            part = torch.full((len(tokens), max(lengths), kv_heads, head_dim), float("nan")).to(dtype)
            for s, count in enumerate(lengths):
                part[s, :count] = x[s, done[s] : done[s] + count]
            parts.append(part)
        cache.append(parts[0], parts[1], lengths=lengths)
        done = until
    return cache, k, v


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("place", ["host", "device"])
def test_it_is_torchs_attention_bit_for_bit(dtype: torch.dtype, group: int, place: Any) -> None:
    """Appended tokens included, whatever the appends were; a staging buffer of NaN shows what was not written."""
    tokens, kv_heads, head_dim = [21, 3, 8], 2, 8
    cache, k, v = filled(tokens, dtype, kv_heads, head_dim, pieces=5, originals=place)
    q = torch.randn(3, kv_heads * group, head_dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    scale = 0.37
    for s, count in enumerate(tokens):
        found = dense.dense(q, cache, s, scale, dense.staging(cache).fill_(float("nan")))
        mine, keys, values = q[s][None, :, None], *(x[s, :count].transpose(0, 1)[None].contiguous() for x in (k, v))
        expected = torch.nn.functional.scaled_dot_product_attention(
            mine, keys, values, scale=scale, enable_gqa=group > 1
        )
        assert torch.equal(found.output, expected[0, :, 0])
        exact = torch.cat(
            [
                float64.attention(q[s, h * group : (h + 1) * group], keys[0, h], values[0, h], scale).output
                for h in range(kv_heads)
            ]
        )
        error = (found.output.double() - exact).norm(dim=-1)
        assert (error <= found.bound.double()).all()
        # what 16-bit weights and outputs cost, of values whose norms are below 8: far below what would be useless
        assert (found.bound < 8 * 2.0**-6).all()


def test_missing_originals_are_an_error() -> None:
    cache, _, _ = filled([21, 3], torch.float16, 2, 8)
    q = torch.zeros(2, 2, 8, dtype=torch.float16)
    cache.originals.lose(0, 1, 3)
    with pytest.raises(HostMissingError, match="sequence 0"):
        dense.dense(q, cache, 0, 1.0, dense.staging(cache))
    dense.dense(q, cache, 1, 1.0, dense.staging(cache))


def test_the_bound_is_that_of_the_output_at_hand() -> None:
    """An output that is wrong has a bound that says so; NaN has an infinite one."""
    made = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(n, 8, generator=made).half() for n in (2, 300, 300))
    exact = float64.attention(q, k, v, 1 / math.sqrt(8))
    assert (float64.distance_ub(exact.output, exact) == exact.error_ub).all()
    # 300 tokens of norms below 8: (300 + 30) u of 2 * 8 each way
    assert (exact.error_ub < 330 * 2.0**-53 * 32).all()
    wrong = exact.output.clone()
    wrong[0, 0] += 1.0
    wrong[1, 3] = float("nan")
    bound = float64.distance_ub(wrong, exact)
    assert bound[0] >= 1.0
    assert bound[1] == float("inf")
