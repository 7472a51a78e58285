"""All numbers of a 16-bit type as pairs of integers, from the definition of the type and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.proofs.exhaustive.model import Array
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

TYPES = (FLOAT16, BFLOAT16)
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def patterns() -> npt.NDArray[np.uint16]:
    """Return all 65,536 patterns."""
    return np.arange(65536, dtype=np.uint16)


def integers(pattern: npt.NDArray[np.uint16], ft: FloatType) -> tuple[Int64, Int64]:
    """Return (m, e): the pattern's number is ``m 2**e`` exactly. Only for finite patterns.

    Sign, then ``16 - p`` exponent bits, then ``p - 1`` fraction bits; exponent field 0 holds the subnormals.
    """
    fraction_bits = ft.precision - 1
    bits = pattern.astype(np.int64)
    field = (bits >> fraction_bits) & ((1 << (15 - fraction_bits)) - 1)
    fraction = bits & ((1 << fraction_bits) - 1)
    m = np.where(field > 0, fraction | (1 << fraction_bits), fraction)
    e = np.maximum(field, 1) - 1 + round(np.log2(ft.smallest_subnormal))
    return np.where(bits >> 15 == 1, -m, m), e.astype(np.int64)


def is_finite(pattern: npt.NDArray[np.uint16], ft: FloatType) -> npt.NDArray[np.bool_]:
    """Whether the exponent field is not all ones."""
    fraction_bits = ft.precision - 1
    ones = (1 << (15 - fraction_bits)) - 1
    return np.asarray((pattern >> np.uint16(fraction_bits)) & np.uint16(ones) != ones)


def finite(ft: FloatType) -> tuple[Array, Float64]:
    """Return all finite numbers, as an array of the type and as float64 made from the integers (-0 included)."""
    pattern = patterns()
    pattern = pattern[is_finite(pattern, ft)]
    m, e = integers(pattern, ft)
    exact = np.ldexp(m.astype(np.float64), e)  # |m| < 2**11 and e >= -133: no rounding
    return pattern.view(ft.dtype), np.where(pattern >> 15 == 1, -np.abs(exact), exact)


def ascending(ft: FloatType) -> Float64:
    """Return all finite numbers in increasing order, zero once."""
    return np.unique(finite(ft)[1])


def positive(ft: FloatType) -> Float64:
    """Return all finite positive numbers in increasing order."""
    numbers = ascending(ft)
    return numbers[numbers > 0]
