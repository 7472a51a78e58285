"""Blocks at the edges of what an encoder must take, [B, d], finite, in both 16-bit types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType
from certkv.reference.numbers.types import AnyArray

TYPES = (FLOAT16, BFLOAT16)


@dataclass(frozen=True, eq=False)
class Corner:
    """One block with a name for messages."""

    name: str
    block: AnyArray


def corners(shapes: Sequence[tuple[int, int]]) -> list[Corner]:
    """Return every corner for every shape (tokens, channels) and type."""
    found = []
    for b, d in shapes:
        for ft in TYPES:
            for name, data in _data(ft, b, d).items():
                block = np.broadcast_to(np.asarray(data), (b, d)).astype(ft.dtype)
                found.append(Corner(f"{name} ({ft.name}, {b} x {d})", np.ascontiguousarray(block)))
    return found


def _data(ft: FloatType, b: int, d: int) -> dict[str, Any]:
    rng = np.random.default_rng([b, d, ft.precision])
    big, tiny = ft.max, ft.smallest_subnormal
    normal = rng.standard_normal
    needle = 0.01 * normal((b, d))
    needle[b // 2, d // 2] = 100.0
    return {
        "normal": normal((b, d)),
        "zeros": 0.0,
        "negative zeros": -0.0,
        "signs of zero": np.where(rng.random((b, d)) < 0.5, 0.0, -0.0),
        "all equal": 0.7,
        "channels constant": normal((1, d)),
        "tokens constant": normal((b, 1)),
        "all the largest": big,
        "all the smallest": -tiny,
        "largest of both signs": rng.choice([-big, big], size=(b, d)),
        "largest and smallest": rng.choice([-big, -tiny, 0.0, tiny, big], size=(b, d)),
        "zero and the smallest": rng.choice([0.0, tiny], size=(b, d)),
        "subnormals": rng.integers(-100, 101, size=(b, d)) * tiny,
        "two values": rng.choice(normal(2), size=(b, d)),
        "large offset": 1000.0 + normal((b, d)),
        "neighbours of one": 1.0 + rng.integers(0, 3, size=(b, d)) * 2.0 ** -(ft.precision - 1),
        "outliers": np.where(rng.random((b, d)) < 0.1, 300.0, 0.01) * normal((b, d)),
        "needle": needle,
        "small integers": rng.integers(-3, 4, size=(b, d)),
        "any bits": _any_bits(rng, ft, (b, d)),
    }


def _any_bits(rng: np.random.Generator, ft: FloatType, shape: tuple[int, int]) -> AnyArray:
    """Finite numbers with uniformly random bits: all exponents, subnormals and both zeros."""
    bits = rng.integers(0, 65536, size=shape, dtype=np.uint16)
    mask = np.uint16(0x7C00 if ft is FLOAT16 else 0x7F80)
    bits = np.where((bits & mask) == mask, bits & ~mask, bits).astype(np.uint16)
    return np.asarray(bits.view(ft.dtype))
