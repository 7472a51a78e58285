"""Rotation, norm and the rule with a zero point once more, one number at a time, every rounding spelled out.

Shares no code with the package: numbers are Fractions, or Python floats where float64 is meant; H is its definition,
entry by entry, wherever no order of operations is prescribed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from .scalar_definition import F32, GRIDS, clamp, f32

Row = list[Fraction]
Rounding = Callable[[Fraction], Fraction]

BITS = 200


def root_below(n: Fraction) -> Fraction:
    """``sqrt(n)`` to within ``2**-BITS``, from below."""
    return Fraction(math.isqrt(n.numerator * 4**BITS // n.denominator), 2**BITS)


def blocks(head_dim: int) -> list[int]:
    """80 -> [64, 16]; nothing above 256."""
    found = []
    while head_dim:
        size = min(256, 2 ** (head_dim.bit_length() - 1))
        found.append(size)
        head_dim -= size
    return found


def sign(i: int, j: int) -> int:
    return -1 if bin(i & j).count("1") % 2 else 1


def rotated_sums(x: Sequence[Fraction]) -> list[tuple[Fraction, int]]:
    """Every channel of H x as (s, n), which means ``s / sqrt(n)``."""
    out, start = [], 0
    for size in blocks(len(x)):
        part = x[start : start + size]
        start += size
        out += [(sum((sign(i, j) * v for j, v in enumerate(part)), Fraction(0)), size) for i in range(size)]
    return out


def butterflies(x: Sequence[Fraction]) -> Row:
    """``2**-8 H x`` in binary32, in the prescribed order."""
    out: Row = []
    start = 0
    for size in blocks(len(x)):
        y = [v / 256 for v in x[start : start + size]]
        start += size
        h = 1
        while h < size:
            for i in range(size):
                if not i & h:
                    y[i], y[i + h] = f32(y[i] + y[i + h]), f32(y[i] - y[i + h])
            h *= 2
        # 200 bits are enough to round a root that is no tie
        factor = f32(root_below(Fraction(1, size)))
        out += [f32(v * factor) for v in y]
    return out


def sum_of_squares(y: Sequence[Fraction]) -> float:
    """Halves, then halves again, in float64."""
    width = 1
    while width < len(y):
        width *= 2
    squares = [float(v) * float(v) for v in y] + [0.0] * (width - len(y))
    while width > 1:
        width //= 2
        squares = [squares[i] + squares[i + width] for i in range(width)]
    return squares[0]


def norm(heads: Sequence[Sequence[Fraction]]) -> Fraction:
    """``2**-8`` times the norm of one token, of all its heads."""
    total = 0.0
    for head in heads:
        total += sum_of_squares(head)
    rounded = F32.nearest(Fraction(math.sqrt(total)))
    largest = (2 - Fraction(2) ** -23) * Fraction(2) ** 119
    return min(rounded, largest) if isinstance(rounded, Fraction) else largest


def scaled(y: Sequence[Fraction], n: Fraction, dtype: str) -> Row:
    """``y / n`` in binary32, then in E."""
    return [Fraction(0) if n == 0 else finite(dtype)(f32(v / n)) for v in y]


def plain(y: Sequence[Fraction], dtype: str) -> Row:
    """``2**8 y`` in E, cut off at the largest number."""
    grid = GRIDS[dtype]
    largest = (2 - Fraction(2) ** (1 - grid.p)) * Fraction(2) ** grid.top
    return [finite(dtype)(max(-largest, min(largest, 256 * v))) for v in y]


def finite(dtype: str) -> Rounding:
    def rounded(x: Fraction) -> Fraction:
        y = GRIDS[dtype].nearest(x)
        if not isinstance(y, Fraction):
            raise OverflowError(x)
        return y

    return rounded


def single(x: Fraction) -> Fraction:
    """Binary32; what overflows stays as large as it is, to be cut."""
    y = F32.nearest(x)
    return y if isinstance(y, Fraction) else x


def exactly(x: Fraction) -> Fraction:
    return x


def zero_point(
    x: Sequence[Fraction], levels: int, single: Rounding = exactly, stored: Rounding = exactly, dtype: str | None = None
) -> tuple[list[int], Fraction, Fraction]:
    """Codes, step, shift; with both roundings left out, in exact arithmetic."""
    low, high = min(x), max(x)
    s = single(single(high / 2 - low / 2) / Fraction(levels, 2))
    if s == 0:
        return [0] * len(x), s, low
    zero = round(single(-low / s))
    step, shift = stored(s), -zero * s
    if dtype:
        grid = GRIDS[dtype]
        largest = (2 - Fraction(2) ** (1 - grid.p)) * Fraction(2) ** grid.top
        step = max(step, Fraction(2) ** grid.smallest)
        shift = max(-largest, min(largest, shift))
        shift = stored(max(-largest, min(largest, single(shift))))
    codes = [clamp(round(single(single(v / 2 - shift / 2) / (step / 2))), 0, levels) for v in x]
    return codes, step, shift
