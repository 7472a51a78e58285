"""The affine rule that every format of ours shares, and what its codes mean.

All operations are IEEE binary32, one rounding each, in the written order (never fused), without flushing subnormals:
another implementation that follows it gets the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers import FloatType, round_up
from certkv.reference.numbers.types import AnyArray, Float32Array, FloatArray

HALF = np.float32(0.5)


def extremes(x: AnyArray, axis: int) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return x in binary32, its minimum and its maximum along an axis (kept, of length 1).

    The conversion is exact.  A minimum or maximum of zero is +0.0 whatever signs its zeros have.
    """
    x32 = x.astype(np.float32)
    zero = np.float32(0.0)
    return x32, np.min(x32, axis=axis, keepdims=True) + zero, np.max(x32, axis=axis, keepdims=True) + zero


def quantize(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[npt.NDArray[np.uint8], AnyArray, AnyArray]:
    """Quantize along an axis to codes 0..levels with a step rounded up and an exact minimum.

    ::

        half_range = hi/2 - lo/2                          halves are exact, so nothing overflows
        step       = round_up_E(half_range / (levels/2))  E: type of the originals
        minimum    = lo                                   exact, an element of x (+0.0 if zero)
        code       = clamp(rne((x/2 - lo/2) / (step/2)), 0, levels)

    The step is 0 exactly when hi == lo, and then every code is 0: the smallest half range of a 16-bit type, 2**-134,
    over 127.5 is a positive binary32 number, and rounding up cannot make it zero.  It is never infinite, being at most
    ``2 max / 15`` before rounding.  The step is at least the real ``(hi - lo)/levels`` up to a factor ``1 - 2**-23``,
    so the exact error is at most ``step (1/2 + (levels + 1) 2**-23)``; docs/formats/channel.md derives it.

    Parameters
    ----------
    x : ndarray of float16 or bfloat16, finite
    axis : int
        The axis that shares a step.
    levels : int
        15 or 255.
    ft : FloatType
        Type of x, and storage type of step and minimum.

    Returns
    -------
    codes : ndarray of uint8, shape of x
    step, minimum : ndarray of ft.dtype, shape of x without the axis
    """
    x32, lo, hi = extremes(x, axis)
    half_range = HALF * hi - HALF * lo
    step32 = half_range / np.float32(levels / 2)
    step = round_up(step32.astype(np.float64), ft)
    half_step = HALF * step.astype(np.float32)
    divisor = np.where(half_step > 0, half_step, np.float32(1.0))
    quotient = (HALF * x32 - HALF * lo) / divisor
    codes = np.clip(np.rint(quotient), 0, levels).astype(np.uint8)
    return codes, np.squeeze(step, axis=axis), np.squeeze(lo.astype(ft.dtype), axis=axis)


def reconstruct(codes: AnyArray, step: AnyArray, minimum: AnyArray) -> FloatArray:
    """Return ``fl64(minimum + step * code)``; codes, step and minimum broadcast against each other.

    The product is exact in float64: a step has at most 24 significant bits and a code 8, or (levels of refinement) 11
    and 33, or (a step times a norm) 35 and 17, and it is a multiple of 2**-300.  The sum rounds once, to nearest, so
    its error is at most u times the result and at most u times the exact value, u = 2**-53.
    """
    return minimum.astype(np.float64) + step.astype(np.float64) * codes.astype(np.float64)


def reconstruction_error(codes: AnyArray, step: AnyArray, minimum: AnyArray) -> FloatArray:
    """Return ``|reconstruct - (minimum + step * code)|`` exactly (Knuth's TwoSum), zero where the sum is exact."""
    a = minimum.astype(np.float64)
    b = step.astype(np.float64) * codes.astype(np.float64)
    total = a + b
    from_b = total - a
    from_a = total - from_b
    return np.asarray(np.abs((a - from_a) + (b - from_b)))
