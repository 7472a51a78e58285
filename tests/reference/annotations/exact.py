"""Exact norms of blocks in rational arithmetic, and the comparisons with stored bfloat16 bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from flint import fmpq, fmpq_mat

from certkv.reference.formats import Encoded
from certkv.reference.numbers import BFLOAT16

AnyArray = npt.NDArray[Any]

LARGEST = BFLOAT16.max
SMALLEST = Fraction(BFLOAT16.smallest_subnormal)
STORED = 1 + Fraction(2) ** -7 + Fraction(2) ** -23
"""Rounding to bfloat16 costs a factor of at most 1 + 2**-7 or one smallest subnormal; all float64 work (norms of at
most 128 channels: 2 (128 + 10) 2**-53, and outward factors) costs less than the rest."""

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
    """At least the exact root, and above it by no more than its roundings and what was charged for decoding."""
    assert is_upper(bound, squared)
    if np.isinf(bound):
        assert squared * STORED**2 > Fraction(LARGEST) ** 2
        return
    shaved = (Fraction(float(bound)) - SMALLEST) / STORED - Fraction(charged)
    assert shaved <= 0 or shaved**2 <= squared


def check_lower(bound: Any, exact: tuple[Fraction, Fraction]) -> None:
    """At most the exact number, and below it by no more than its roundings (see `STORED`) or the range."""
    stored = Fraction(float(bound))
    assert 0 <= stored <= exact[0]
    tight = (stored + SMALLEST) * STORED
    assert tight >= min(exact[1], Fraction(LARGEST))


def operator_at_most(x: AnyArray, bound: Fraction) -> bool:
    """Whether the operator norm of a rational matrix is at most a rational number: all of it exact.

    It is so iff ``bound^2 I - X X^T`` has no negative eigenvalue, that is iff elimination meets no negative pivot, and
    no pivot 0 in a row that is not 0.
    """
    if bound < 0:
        return False
    if x.shape[0] > x.shape[1]:
        x = x.T
    n = x.shape[0]
    rows = fmpq_mat([[fmpq(e.numerator, e.denominator) for e in row] for row in x.tolist()])
    gram = rows * rows.transpose()
    square = fmpq(bound.numerator, bound.denominator) ** 2
    rest = [[(square if i == j else fmpq(0)) - gram[i, j] for j in range(n)] for i in range(n)]
    for k in range(n):
        pivot = rest[k][k]
        if pivot < 0 or (pivot == 0 and any(rest[k][j] != 0 for j in range(k + 1, n))):
            return False
        for i in range(k + 1, n) if pivot > 0 else ():
            factor = rest[i][k] / pivot
            for j in range(i, n):
                rest[i][j] = rest[j][i] = rest[i][j] - factor * rest[k][j]
    return True


def check_operator(bound: Any, x: AnyArray, charged: float) -> None:
    """At least the operator norm of the rows, and at most ``min(B, d)^(1/16)`` times it, but for roundings."""
    if np.isinf(bound):
        assert not operator_at_most(x, Fraction(LARGEST) / STORED**2)
        return
    assert operator_at_most(x, Fraction(float(bound)))
    trace_power = Fraction(min(x.shape) ** (1 / 16) * (1 + 2.0**-40))
    shaved = ((Fraction(float(bound)) - SMALLEST) / STORED - Fraction(charged)) / trace_power
    assert shaved <= 0 or not operator_at_most(x, shaved * (1 - Fraction(2) ** -60))


def quotients(x: AnyArray, unit: AnyArray) -> AnyArray:
    """``x / unit`` element by element, 0/0 = 0; a number over 0 is an error."""
    out = np.empty(x.shape, dtype=object)
    for i in np.ndindex(x.shape):
        assert unit[i] or not x[i]
        out[i] = x[i] / unit[i] if unit[i] else Fraction(0)
    return out
