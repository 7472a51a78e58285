"""Blocks at the edges of what an encoder must take: every one is [leading, B, d], float16 or bfloat16, finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

AnyArray = npt.NDArray[Any]

TYPES = [FLOAT16, BFLOAT16]


def random_patterns(rng: np.random.Generator, shape: tuple[int, ...], ft: FloatType) -> AnyArray:
    """Finite numbers with uniformly random bits: all exponents, subnormals and both zeros."""
    bits = rng.integers(0, 65536, size=shape, dtype=np.uint16)
    exponent_mask = np.uint16(0x7C00 if ft is FLOAT16 else 0x7F80)
    bits = np.where((bits & exponent_mask) == exponent_mask, bits & ~exponent_mask, bits)
    return np.asarray(bits, dtype=np.uint16).view(ft.dtype)


def corner_blocks(ft: FloatType) -> dict[str, AnyArray]:
    """Return the corner cases by name; small, so that rational arithmetic can judge them."""
    rng = np.random.default_rng(20605)
    big, tiny = ft.max, ft.smallest_subnormal
    normal = rng.standard_normal
    cases: dict[str, Any] = {
        "gaussian": normal((2, 8, 20)),
        "one token": normal((1, 1, 8)),
        "one element": np.array([[[-1.5]]]),
        "odd block": normal((1, 7, 8)),
        "zeros": np.zeros((1, 3, 8)),
        "negative zeros": np.full((1, 3, 8), -0.0),
        "signs of zero": np.array([[[0.0, -0.0], [-0.0, 0.0], [0.0, 1.0]]]),
        "constant channel": np.broadcast_to(normal((1, 1, 20)), (1, 5, 20)),
        "constant token": np.broadcast_to(normal((1, 5, 1)), (1, 5, 20)),
        "constant, largest": np.full((1, 3, 8), big),
        "constant, smallest": np.full((1, 3, 8), -tiny),
        "largest of both signs": rng.choice([-big, big], size=(1, 6, 20)),
        "largest range and zero": rng.choice([-big, 0.0, tiny, big], size=(1, 7, 20)),
        "largest and its neighbour": rng.choice([big, float(np.array(big) * (1 - 2.0**-11))], size=(1, 6, 20)),
        "vanishing step": rng.choice([0.0, tiny], size=(1, 6, 20)),
        "vanishing step, signs": rng.choice([-tiny, 0.0, tiny, 2 * tiny], size=(1, 6, 20)),
        "subnormals": rng.integers(-100, 100, size=(1, 9, 20)) * tiny,
        "many subnormals": rng.integers(0, 2 ** (ft.precision - 1), size=(1, 9, 20)) * tiny,
        "large offset": 1000.0 + normal((1, 8, 20)),
        "neighbours of one": 1.0 + rng.integers(0, 3, size=(1, 8, 20)) * 2.0 ** -(ft.precision - 1),
        "outlier": np.where(rng.random((1, 8, 20)) < 0.1, 300.0, 0.01) * normal((1, 8, 20)),
        "head 80": normal((1, 4, 80)),
        "head 96": normal((1, 4, 96)),
        "head 8": normal((2, 5, 8)),
        "head 20": normal((1, 5, 20)),
    }
    blocks = {name: np.asarray(case).astype(ft.dtype) for name, case in cases.items()}
    for i in range(4):
        blocks[f"any bits {i}"] = random_patterns(rng, (1, 2 + 3 * i, 20), ft)
    return blocks


CORNERS = [(ft, name, block) for ft in TYPES for name, block in corner_blocks(ft).items()]
CORNER_IDS = [f"{ft.name}-{name}" for ft, name, _ in CORNERS]
