"""Exact norms of blocks in rational arithmetic, and the comparisons with stored FP32 bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.reference.formats import Encoded

AnyArray = npt.NDArray[Any]

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
SMALLEST_FLOAT32 = Fraction(2) ** -149

GROUP = {"int4-g16": 16, "int4-g32": 32, "int8-g64": 64}
FOUR_BIT = {"int4", "int4-g16", "int4-g32"}


def exact_blocks(x: AnyArray) -> AnyArray:
    """Object array of Fractions."""
    return np.array([Fraction(float(e)) for e in x.ravel()], dtype=object).reshape(x.shape)


def exact_meaning(encoded: Encoded) -> tuple[AnyArray, AnyArray]:
    """Return minimum + step code, and the step, of every element of one block [B, d], as Fractions."""
    block, head_dim = encoded.block, encoded.head_dim
    if encoded.format_name == "dense":
        return exact_blocks(encoded.codes), exact_blocks(np.zeros((block, head_dim)))
    half = -(-block // 2)
    meaning, steps = (np.empty((block, head_dim), dtype=object) for _ in range(2))
    step, minimum = exact_blocks(encoded.step), exact_blocks(encoded.minimum)
    for t in range(block):
        for c in range(head_dim):
            place = (t, c // GROUP[encoded.format_name]) if encoded.format_name in GROUP else (c,)
            if encoded.format_name in FOUR_BIT:
                code = int(encoded.codes[t % half, c]) >> (4 * (t // half)) & 15
            else:
                code = int(encoded.codes[t, c])
            steps[t, c] = step[place]
            meaning[t, c] = minimum[place] + step[place] * code
    return meaning, steps


def squared_norms(x: AnyArray) -> list[Fraction]:
    return [sum((e * e for e in row), Fraction(0)) for row in x]


def root(x: Fraction) -> tuple[Fraction, Fraction]:
    """Enclose a square root to 200 bits."""
    if x == 0:
        return x, x
    shift = 400 + 2 * max(0, x.denominator.bit_length() - x.numerator.bit_length())
    below = math.isqrt((x.numerator << shift) // x.denominator)
    scale = Fraction(1, 2 ** (shift // 2))
    return below * scale, (below + 1) * scale


def mean_norm(x: AnyArray) -> tuple[Fraction, Fraction]:
    """Enclose the mean of the norms of the rows."""
    bounds = [root(squared) for squared in squared_norms(x)]
    return sum((b[0] for b in bounds), Fraction(0)) / len(bounds), sum((b[1] for b in bounds), Fraction(0)) / len(
        bounds
    )


def is_upper(bound: Any, squared: Fraction) -> bool:
    """Whether a stored bound is at least the root of an exact number."""
    return bool(np.isinf(bound)) or (bool(bound >= 0) and Fraction(float(bound)) ** 2 >= squared)


def check_upper(bound: Any, squared: Fraction, charged: float) -> None:
    """At least the exact root, and above it by no more than its roundings and what was charged for decoding.

    Rounding up to FP32 costs a factor 1 + 2**-23 or one smallest subnormal; all float64 work (norms of at most 128
    channels: 2 (128 + 10) 2**-53, and outward factors) costs less than another 2**-23.
    """
    assert is_upper(bound, squared)
    if np.isinf(bound):
        limit = Fraction(LARGEST_FLOAT32)
        assert squared * (1 + Fraction(2) ** -22) ** 2 > limit**2
        return
    shaved = (Fraction(float(bound)) - SMALLEST_FLOAT32) / (1 + Fraction(2) ** -22) - Fraction(charged)
    assert shaved <= 0 or shaved**2 <= squared


def check_lower(bound: Any, exact: tuple[Fraction, Fraction]) -> None:
    """At most the exact number, and below it by no more than its roundings (see `check_upper`) or the FP32 range."""
    stored = Fraction(float(bound))
    assert 0 <= stored <= exact[0]
    tight = (stored + SMALLEST_FLOAT32) * (1 + Fraction(2) ** -22)
    assert tight >= min(exact[1], Fraction(LARGEST_FLOAT32))
