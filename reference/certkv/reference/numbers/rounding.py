"""Correctly rounded conversions from float64: to nearest even, upward, downward.

Casting float64 to bfloat16 by ``astype`` rounds twice (through float32) and is wrong for some arguments, and no cast
rounds in a chosen direction, so the three conversions that soundness rests on are spelled out here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers.dtypes import FLOAT32, FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray


def round_nearest(x: npt.ArrayLike, ft: FloatType) -> AnyArray:
    """Round float64 to the nearest number of a type, ties to even.

    Parameters
    ----------
    x : array_like of float64, any shape
        NaN stays NaN; beyond the largest finite number by half a unit in the last place or more becomes infinite.
    ft : FloatType

    Returns
    -------
    ndarray of ft.dtype, shape of x
    """
    x64 = np.asarray(x, dtype=np.float64)
    # Overflow to infinity and underflow are part of the definition; signalling NaNs raise "invalid".
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if ft.precision >= FLOAT32.precision - 1 or ft.name == "float16":
            return np.asarray(x64.astype(ft.dtype))  # NumPy rounds these once
        return np.asarray(_round_to_odd_float32(x64).astype(ft.dtype))


def _round_to_odd_float32(x: FloatArray) -> npt.NDArray[np.float32]:
    """Round to float32 toward zero, then set the last bit if anything was lost.

    A later rounding to nearest of at least two bits less sees exactly on which side of every tie x lies, so the two
    roundings together equal one (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    nearest = x.astype(np.float32)
    back = nearest.astype(np.float64)
    toward_zero = np.where(np.abs(back) > np.abs(x), np.nextafter(nearest, np.float32(0.0)), nearest)
    sticky = (back != x) & ~np.isnan(x)
    bits = np.asarray(toward_zero, dtype=np.float32).view(np.uint32) | sticky.astype(np.uint32)
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def next_up(y: AnyArray, ft: FloatType) -> AnyArray:
    """Return the smallest number of the type that is greater than y (``+inf`` and NaN stay).

    Works on bit patterns: positive numbers are ordered as their patterns, negative ones in reverse.
    """
    values = np.asarray(y, dtype=ft.dtype)
    one = ft.bits_dtype.type(1)
    sign = ft.bits_dtype.type(1 << (8 * ft.itemsize - 1))
    bits = values.view(ft.bits_dtype)
    negative = (bits & sign) != 0
    magnitude = bits & ~sign
    # Where negative, magnitude >= 1 unless y is -0.0, whose successor is the smallest subnormal.
    up = np.where(magnitude == 0, one, np.where(negative, (bits - negative.astype(ft.bits_dtype)), bits + one))
    with np.errstate(invalid="ignore"):  # looking at a signalling NaN
        stuck = np.isnan(values) | (np.isinf(values) & ~negative)
    return np.asarray(np.where(stuck, bits, up), dtype=ft.bits_dtype).view(ft.dtype)


def round_up(x: npt.ArrayLike, ft: FloatType) -> AnyArray:
    """Round float64 to the smallest number of a type that is not below it.

    Above the largest finite number the result is ``+inf``; below the smallest one (finite x) it is ``-max``; NaN stays.

    Returns
    -------
    ndarray of ft.dtype, shape of x
        ``result >= x`` always, with no number of the type in between.
    """
    x64 = np.asarray(x, dtype=np.float64)
    nearest = round_nearest(x64, ft)
    # The nearest number is the result or the number just below it.
    too_low = nearest.astype(np.float64) < x64
    return np.asarray(np.where(too_low, next_up(nearest, ft), nearest), dtype=ft.dtype)


def round_down(x: npt.ArrayLike, ft: FloatType) -> AnyArray:
    """Round float64 to the largest number of a type that is not above it: ``-round_up(-x)``.

    Below the smallest finite number the result is ``-inf``; above the largest one (finite x) it is ``max``; NaN stays.
    """
    return np.asarray(-round_up(-np.asarray(x, dtype=np.float64), ft), dtype=ft.dtype)
