"""What an adversary knows of a cache: what its codes mean, hence every residual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.proofs.campaign.setting import Setting, to_dtype
from certkv.reference import Cache
from certkv.reference.formats import Format, key_format, value_format
from certkv.reference.numbers.types import FloatArray


@dataclass(frozen=True, eq=False)
class Coded:
    """Tokens of full blocks, and what is stored of them; float64 [coded tokens, kv_heads, d]."""

    original: FloatArray
    decoded: FloatArray

    @property
    def residual(self) -> FloatArray:
        """Original minus decoded."""
        return self.original - self.decoded


def encode(x: FloatArray, fmt: Format, s: Setting) -> Coded:
    """Quantize as the cache will: tokens [n, kv_heads, d], rounded to the setting's type first."""
    full = len(x) // s.block
    stored = to_dtype(x[: full * s.block], s.dtype).reshape(full, s.block, s.kv_heads, s.head_dim).transpose(0, 2, 1, 3)
    if full == 0:
        empty = np.empty((0, s.kv_heads, s.head_dim))
        return Coded(empty, empty)
    decoded = fmt.decode(fmt.encode(np.ascontiguousarray(stored)))

    def tokens(blocks: FloatArray) -> FloatArray:
        return blocks.transpose(0, 2, 1, 3).reshape(-1, s.kv_heads, s.head_dim)

    return Coded(tokens(stored.astype(np.float64)), tokens(decoded))


def encode_keys(k: FloatArray, s: Setting) -> Coded:
    """Quantize keys."""
    return encode(k, key_format(s.keys), s)


def encode_values(v: FloatArray, s: Setting) -> Coded:
    """Quantize values."""
    return encode(v, value_format(s.values), s)


def read_keys(cache: Cache) -> Coded:
    """Read a filled cache's keys, original and as stored."""
    original, decoded = [], []
    for kv_head in range(cache.kv_heads):
        view = cache.view(kv_head)
        if view.blocks == 0:
            empty = np.empty((0, cache.kv_heads, cache.head_dim))
            return Coded(empty, empty)
        original.append(view.resident("keys", np.arange(view.blocks)).reshape(-1, cache.head_dim))
        decoded.append(view.decoded("keys").reshape(-1, cache.head_dim))
    return Coded(np.stack(original, axis=1), np.stack(decoded, axis=1))
