"""The encoders once more, one number at a time, in rational arithmetic with every rounding spelled out.

Shares no code with the package: a number is a Fraction, a rounding is a function of a Fraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = Fraction | float  # a float only for an infinity


@dataclass(frozen=True)
class Grid:
    """precision p, exponent of the smallest subnormal, and the largest finite number's exponent."""

    p: int
    smallest: int
    top: int

    def _scaled(self, x: Fraction) -> tuple[Fraction, Fraction]:
        exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
        if abs(x) < Fraction(2) ** exponent:
            exponent -= 1  # now 2**exponent <= |x| < 2**(exponent + 1)
        unit = Fraction(2) ** max(exponent - self.p + 1, self.smallest)
        return x / unit, unit

    def nearest(self, x: Fraction) -> Number:
        if x == 0:
            return x
        scaled, unit = self._scaled(x)
        rounded = round(scaled) * unit  # Python rounds a Fraction's ties to even
        return rounded if abs(rounded) < Fraction(2) ** (self.top + 1) else math.copysign(math.inf, x)

    def up(self, x: Fraction) -> Fraction:
        if x == 0:
            return x
        scaled, unit = self._scaled(x)
        return math.ceil(scaled) * unit


F16 = Grid(11, -24, 15)
BF16 = Grid(8, -133, 127)
F32 = Grid(24, -149, 127)
GRIDS = {"float16": F16, "bfloat16": BF16}


def f32(x: Fraction) -> Fraction:
    """One binary32 rounding that must not overflow."""
    rounded = F32.nearest(x)
    if not isinstance(rounded, Fraction):
        raise OverflowError(x)
    return rounded


def clamp(code: int, low: int, high: int) -> int:
    return max(low, min(high, code))


def affine(x: Sequence[Fraction], levels: int, grid: Grid) -> tuple[list[int], Fraction, Fraction]:
    """Codes, step, minimum of the numbers that share them."""
    low, high = min(x), max(x)
    half_range = f32(f32(high / 2) - f32(low / 2))
    step = grid.up(f32(half_range / Fraction(levels, 2)))
    if step == 0:
        return [0] * len(x), step, low
    codes = [clamp(round(f32(f32(f32(k / 2) - f32(low / 2)) / f32(step / 2))), 0, levels) for k in x]
    return codes, step, low


def int8_paper(x: Sequence[Fraction]) -> tuple[list[int], Fraction, Fraction]:
    """Codes, step s, offset z of a channel."""
    low, high = min(x), max(x)
    s = f32(f32(f32(high / 2) - f32(low / 2)) / Fraction(255, 2))
    z = f32(2 * f32(f32(low / 2) + f32(64 * s)))
    if s == 0:
        return [0] * len(x), s, z
    codes = []
    for k in x:
        difference = F32.nearest(k - z)
        codes.append(
            clamp(round(f32(difference / s)), -128, 127)
            if isinstance(difference, Fraction)
            else (-128 if difference < 0 else 127)
        )
    return codes, s, z
