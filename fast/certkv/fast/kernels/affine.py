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
def exact_minimum(lo, hi, LEVELS: tl.constexpr, BFLOAT: tl.constexpr):
    """Return bits of the step, rounded up, and the minimum (float64), which is +0.0 where it is zero."""
    lo = tl.where(lo == 0.0, 0.0, lo)
    hi = tl.where(hi == 0.0, 0.0, hi)
    half_range = fp32(0.5 * hi - 0.5 * lo)
    return up(fp32(half_range / (LEVELS / 2)), BFLOAT), lo


@triton.jit
def rounded_integer(x):
    """Round float64 below 2**51 to an integer, ties to even."""
    # adding and subtracting 1.5 * 2**52 does it
    return (x + 6755399441055744.0) - 6755399441055744.0


@triton.jit
def codes_of(x, step, minimum, LEVELS: tl.constexpr):
    """Return codes (as float64) from the step and the minimum that are stored; float64, broadcast."""
    half_step = 0.5 * step
    quotient = fp32(fp32(0.5 * x - 0.5 * minimum) / tl.where(half_step > 0.0, half_step, 1.0))
    return tl.minimum(tl.maximum(rounded_integer(quotient), 0.0), LEVELS * 1.0)


@triton.jit
def quantize(x, AXIS: tl.constexpr, LEVELS: tl.constexpr, BFLOAT: tl.constexpr):
    """Quantize a tile of float64 along an axis; return codes (as float64), step (float64 and bits), minimum (float64).

    Step and minimum keep the axis with length 1. A minimum of zero is +0.0.
    """
    step_bits, minimum = exact_minimum(tl.min(x, AXIS, keep_dims=True), tl.max(x, AXIS, keep_dims=True), LEVELS, BFLOAT)
    step = widen(step_bits, BFLOAT)
    return codes_of(x, step, minimum, LEVELS), step, step_bits, minimum


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
