"""The affine rule with an integer zero point, as OScaR's code has it (arXiv 2605.19660), made total.

All operations are FP32 in the written order, one rounding each, except where E, the type of the originals, is named.
Codes come from the stored step and the stored offset, not from what these were before they were rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.reference.formats.affine import HALF, extremes
from certkv.reference.numbers import FloatType, round_nearest
from certkv.reference.numbers.types import AnyArray, FloatArray


def quantize_zero_point(
    x: AnyArray, axis: int, levels: int, ft: FloatType
) -> tuple[npt.NDArray[np.uint8], AnyArray, AnyArray]:
    """Quantize along an axis to codes 0..levels.

    ::

        s     = (hi/2 - lo/2) / (levels/2)
        zero  = rne(-lo / s)                      an integer, not clamped
        step  = rne_E(s), at least E's smallest number where s > 0
        shift = rne_E(-(zero * s)), clamped to the finite numbers of E
        code  = clamp(rne((x/2 - shift/2) / (step/2)), 0, levels)

    Where hi == lo: step 0, shift lo, code 0, which is exact. The meaning is ``shift + step * code``.

    Parameters
    ----------
    x : ndarray of float16 or bfloat16, finite
    axis : int
        The axis that shares a step.
    levels : int
        3 or 15.
    ft : FloatType
        Type of x, and storage type of step and shift.

    Returns
    -------
    codes : ndarray of uint8, shape of x
    step, shift : ndarray of ft.dtype, shape of x without the axis
    """
    x32, lo, hi = extremes(x, axis)
    s = (HALF * hi - HALF * lo) / np.float32(levels / 2)
    positive = s > 0
    with np.errstate(over="ignore"):  # an infinite shift is clamped
        zero = np.rint(-lo / np.where(positive, s, np.float32(1.0)))
        shift32 = np.where(positive, -(zero * s), lo)
    step = np.where(positive, np.maximum(_rounded(s, ft), ft.smallest_subnormal), 0.0).astype(ft.dtype)
    shift = (_rounded(np.clip(shift32, -ft.max, ft.max), ft) + 0.0).astype(ft.dtype)
    half_step = HALF * step.astype(np.float32)
    divisor = np.where(positive, half_step, np.float32(1.0))
    quotient = (HALF * x32 - HALF * shift.astype(np.float32)) / divisor
    codes = np.where(positive, np.clip(np.rint(quotient), 0, levels), 0).astype(np.uint8)
    return codes, np.squeeze(step, axis=axis), np.squeeze(shift, axis=axis)


def _rounded(x: AnyArray, ft: FloatType) -> FloatArray:
    """Round to the nearest number of E, as float64."""
    return round_nearest(x.astype(np.float64), ft).astype(np.float64)
