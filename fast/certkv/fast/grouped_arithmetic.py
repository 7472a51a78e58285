"""The rounding of attend over formats with groups: rotated queries, scores with norms, weights with steps folded in.

Theorem ``kernel_arithmetic``, "Rotated, scaled, folded" (docs/derivations/kernel_arithmetic.md); numbers of a plan, in
float64. Codes are operands as they are stored: a code's bits, shifted to its field of a byte, are a subnormal binary16
number, ``code F^f 2^-24``, and count as 2^-14 where a dot unit aligns products. So a product with a in place of ``a
code`` counts 2^10 |a|, in what a step loses by aligning, and in that alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from certkv.fast.charges import LEAST_STEP
from certkv.fast.formats.rotation import sizes
from certkv.fast.numbers import outward

U = 2.0**-24
"""Unit roundoff of binary32."""

FIELDS = 2.0**10
"""Units of 2^-24 that a code counts as."""

FLOOR = 2.0**-14
"""What a smaller operand counts as."""

LOST = 2.0**-25
"""What rounding to a subnormal binary16 number loses."""

LEAST_QUERY = 32.0
"""At most the largest number of a query as operand."""

PARTS = 1.0 + 2.0**-9
"""Two operands of a number together, relative to it."""

TOGETHER = 2.0**-60
"""More than underflow of binary32 loses, relative to `LEAST_STEP`."""


def turning(head_dim: int) -> int:
    """Return ``log2 n + 2``, n the largest block: the roundings of a rotation (theorem ``rotation``)."""
    return sizes(head_dim)[0].bit_length() + 1


def turned(head_dim: int) -> float:
    """Return gamma of so many roundings: what a rotation in binary32 is off by, relative to the norm."""
    count = turning(head_dim)
    return count * U / (1.0 - count * U) * outward(2)


def padded(size: int, least: int) -> int:
    """Return the power of two that a kernel rounds a size up to."""
    return max(least, 1 << (size - 1).bit_length())


class Keys(NamedTuple):
    """How scores are summed from codes that are operands as they are: keys of less than 8 bits.

    Attributes
    ----------
    head_dim : int
    levels : int
        Largest code.
    grouped : bool
        Whether sizes are those of `Pool.sizes`, with `LEAST_STEP`; otherwise they are summed over channels.
    bfloat16 : bool
    rotated, scaled : bool
        Whether the query is rotated, and whether a norm multiplies every score.
    """

    head_dim: int
    levels: int
    grouped: bool
    bfloat16: bool
    rotated: bool
    scaled: bool

    @property
    def products(self) -> int:
        """Products of a chain: channels, of one part after the other; side by side, chains are shorter by a half."""
        return 2 * padded(self.head_dim, 64)

    def _around(self) -> float:
        """Rotating the query, and the norm."""
        return (turned(self.head_dim) if self.rotated else 0.0) + (U if self.scaled else 0.0) + TOGETHER

    def decoded(self) -> float:
        """Return the sum of relative errors where keys are decoded first, with one rounding, and all is binary32."""
        return (self.head_dim + 2) * U + self._around()

    def coded(self, unit: float, step_error: float) -> float:
        """Return the sum of relative errors of a kernel, relative to ``||q||`` times the size of a key.

        Parameters
        ----------
        unit : float
            Growth of a chain over the channels.
        step_error : float
            Of one step.
        """
        root, levels = math.sqrt(self.head_dim), self.levels
        # what a channel loses absolutely, relative to the norms' product
        one = root / (LEAST_QUERY * LEAST_STEP * (levels + 1)) if self.grouped else 0.0
        if self.bfloat16:
            # the product, its two parts, and what they lose where the largest product is at least 2^14
            operands = U + 2.0**-22 + self.head_dim * LOST * 2.0**-14
            small = self.head_dim * 2.0 * FLOOR * 2.0**-14 * PARTS
            offset = (self.products // 16 + 8) * U
        else:
            # the query's two parts, then those of the product with a step
            query = 2.0**-22 + root * LOST / LEAST_QUERY
            operands = query + 2.0**-21 + 2.0 * LOST * levels * one
            small = 2.0 * FLOOR * one * (levels + 1) * PARTS
            # minima are operands, and count as at least the floor, which is less than `LEAST_STEP` steps
            offset = query + unit * (PARTS + root * 2.0 * FLOOR / LEAST_QUERY * PARTS) + 2.0 * U
            if not self.grouped:
                offset = max(offset, (self.products // 16 + 8) * U)
        aligned = step_error * (1.0 + unit) * FIELDS * (PARTS + small) / (levels + 1)
        codes = operands + unit * (PARTS + 2.0**-10) + aligned + U
        return (codes + offset + U + self._around()) * outward(16)

    def lost(self, unit: float, step_error: float) -> float:
        """Return what is lost absolutely where sizes say nothing of it, in units of ``|scale| max_c |q_c|``."""
        if self.grouped or self.bfloat16:
            return 0.0
        aligned = step_error * (1.0 + unit) * FIELDS * 2.0 * FLOOR * PARTS
        return self.head_dim * (2.0 * LOST * self.levels + aligned) / LEAST_QUERY * outward(8)


class Values(NamedTuple):
    """How codes of values with groups of channels are summed.

    Attributes
    ----------
    head_dim, block : int
    bits, group : int
    bfloat16, rotated : bool
    """

    head_dim: int
    block: int
    bits: int
    group: int
    bfloat16: bool
    rotated: bool

    @property
    def levels(self) -> int:
        """Largest code."""
        return int(2**self.bits) - 1

    @property
    def fields(self) -> int:
        """Tokens that share a byte."""
        return 8 // self.bits

    @property
    def rows(self) -> int:
        """Bytes of a channel."""
        return -(-self.block // self.fields)

    @property
    def products(self) -> int:
        """Tokens of a chain."""
        return self.fields * padded(self.rows, 16)

    def turning(self) -> float:
        """Rotating a split's sum back."""
        return turned(self.head_dim) if self.rotated else 0.0

    def widest(self) -> float:
        """Bound the largest ``levels step`` of a block, relative to its size ``(1 + 2 sqrt g) max ||V_hat||``.

        But for steps of few units of the smallest number, ``levels step`` is within 2^-6 of the range of a group's
        decoded values, and that is at most ``sqrt 2 ||V_hat||``. See `least`.
        """
        return math.sqrt(2.0) * (1.0 + 2.0**-6) / (1.0 + 2.0 * math.sqrt(self.group))

    def least(self) -> tuple[float, float]:
        """Return what a step may exceed that by, ``2 levels`` units of the smallest number, and the smallest 2^-k."""
        units = 2.0 * self.levels * (2.0**-133 if self.bfloat16 else 2.0**-24)
        return units, 2.0**-100 if self.bfloat16 else 2.0**-15

    def power(self) -> float:
        """Bound ``2^-k`` of a block, relative to its size: steps are multiplied with ``2^k <= 1 / max ||V_hat||``."""
        return 1.0 / (1.0 + 2.0 * math.sqrt(self.group))

    def relative(self, unit: float, step_error: float) -> tuple[float, float]:
        """Return the sum of relative errors of a tile beside its chain's, and what comes on top, to the mean size.

        Parameters
        ----------
        unit : float
            Steps of a tile's chain times the error of one.
        step_error : float
            Of one step.
        """
        # two columns are added; in bfloat16 the weight is rounded, and then its two parts; minima join at the end, and
        # are summed with two parts of 8 bits
        codes = unit * (2.0**-6 if self.bfloat16 else 2.0**-8) + U + (U + 2.0**-22 if self.bfloat16 else 0.0) + 3.0 * U
        aligned = step_error * (1.0 + 2.0 * unit) * FIELDS * PARTS * self._steps()
        # steps are rounded where they are subnormal operands, in units of 2^-k
        rounded = 0.0 if self.bfloat16 else math.sqrt(self.head_dim) * LOST * self._most() * self.levels * self.power()
        return codes + self.turning(), (aligned + rounded) * outward(8)

    def lost(self, unit: float, step_error: float, tokens: int, bias: int) -> float:
        """Return what small weights lose, of so many tokens, relative to the largest size and the largest weight."""
        root = math.sqrt(self.head_dim)
        floor = tokens * step_error * (1.0 + 2.0 * unit) * FIELDS * 2.0 * FLOOR
        parts = -(-tokens // self.block) * self.rows * self._all() * 2.0 * LOST * self.levels
        return (floor + parts) * root * self.power() * 2.0**-bias * outward(8)

    def absolute(self, unit: float, step_error: float, tokens: int, bias: int) -> float:
        """Return the same, and what comes on top of the mean, for what `least` says of steps; in the units of V."""
        root, (units, power) = math.sqrt(self.head_dim), self.least()
        mean = step_error * (1.0 + 2.0 * unit) * FIELDS * PARTS * units + LOST * self._most() * self.levels * power
        return (mean * root + self.lost(unit, step_error, tokens, bias) / self.power() * power) * outward(8)

    def _steps(self) -> float:
        """Bound the norm of a token's steps, relative to the size: ``sqrt(2 g) ||V_hat|| / levels`` in a group of g."""
        return self.widest() * math.sqrt(self.group) / self.levels

    def _most(self) -> float:
        """Largest factor of a field."""
        return float(2 ** (8 - self.bits))

    def _all(self) -> float:
        """Sum of the factors of all fields."""
        return float(sum(2 ** (self.bits * f) for f in range(self.fields)))
