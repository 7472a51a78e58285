"""The affine rule on a tile, in float64 with explicit roundings to FP32; the twin is `certkv.fast.formats.affine`.

::

    half_range = hi/2 - lo/2
    step       = round_up_T(half_range / (levels/2))       T: type of the originals
    minimum    = lo
    code       = clamp(rne((x/2 - lo/2) / (step/2)), 0, levels)     0 where the step is 0

Written operators are FP32 operations, rounded to nearest even, subnormals kept.
"""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.rounding import fp32, up, widen


@triton.jit
def quantize(x, AXIS: tl.constexpr, LEVELS: tl.constexpr, BFLOAT: tl.constexpr):
    """Quantize a tile of float64 along an axis; return codes (as float64), step (float64 and bits), minimum (float64).

    Step and minimum keep the axis with length 1. A minimum of zero is +0.0.
    """
    lo = tl.min(x, AXIS, keep_dims=True)
    hi = tl.max(x, AXIS, keep_dims=True)
    lo = tl.where(lo == 0.0, 0.0, lo)
    hi = tl.where(hi == 0.0, 0.0, hi)
    half_range = fp32(0.5 * hi - 0.5 * lo)
    step_bits = up(fp32(half_range / (LEVELS / 2)), BFLOAT)
    step = widen(step_bits, BFLOAT)
    half_step = 0.5 * step
    quotient = fp32(fp32(0.5 * x - 0.5 * lo) / tl.where(half_step > 0.0, half_step, 1.0))
    # 1.5 * 2**52: adding and subtracting it rounds to an integer, ties to even, below 2**51
    rounded = (quotient + 6755399441055744.0) - 6755399441055744.0
    return tl.minimum(tl.maximum(rounded, 0.0), LEVELS * 1.0), step, step_bits, lo


@triton.jit
def reconstruct(codes, step, minimum):
    """Return ``fl64(minimum + step code)`` and the magnitude of its error (Knuth's TwoSum); the product is exact."""
    product = step * codes
    total = minimum + product
    from_product = total - minimum
    from_minimum = total - from_product
    return total, tl.abs((minimum - from_minimum) + (product - from_product))


@triton.jit
def token_of_row(row, half, B, RH: tl.constexpr):
    """Token of a row of a tile whose two halves of RH rows hold tokens 0.. and half..; whether there is one.

    Rows without a token repeat one, which changes no extreme and no largest norm.
    """
    token = tl.where(row < RH, row, half + row - RH)
    exists = ((row & (RH - 1)) < half) & (token < B)
    return tl.minimum(token, B - 1), exists
