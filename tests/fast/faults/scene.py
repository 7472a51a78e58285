"""A small cache with everything in it, and steps over it."""

from __future__ import annotations

from typing import Any

import torch

from certkv.fast.cache import TieredCache

KV_HEADS, GROUP, HEAD_DIM, BLOCK = 2, 2, 16, 8
TOKENS = (45, 20, 5)


def filled(dtype: torch.dtype = torch.float16, tokens: tuple[int, ...] = TOKENS, **more: Any) -> TieredCache:
    """Fill a ragged batch."""
    settings: dict[str, Any] = {"values": "int4-g32", "block": BLOCK} | more
    cache = TieredCache(len(tokens), KV_HEADS, HEAD_DIM, 64, dtype, **settings)
    k, v = drawn(len(tokens), max(tokens), dtype)
    cache.append(k, v, lengths=tokens)
    return cache


def drawn(batch: int, tokens: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Draw keys and values."""
    made = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, batch, tokens, KV_HEADS, HEAD_DIM, generator=made).to(dtype))


def query(batch: int = len(TOKENS), dtype: torch.dtype = torch.float16, seed: int = 1) -> torch.Tensor:
    """Draw queries."""
    made = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, KV_HEADS * GROUP, HEAD_DIM, generator=made)).to(dtype)


def flip(tensor: torch.Tensor, bit: int) -> None:
    """Flip one bit of a contiguous tensor, counted from its first byte."""
    patterns = tensor.view(-1).view(torch.uint8)
    patterns[bit // 8] ^= 1 << bit % 8


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bytes of a tensor, to be compared."""
    return tensor.contiguous().view(-1).view(torch.uint8).clone()
