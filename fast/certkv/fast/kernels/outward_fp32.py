"""Device functions of theorem ``outward_fp32``; formulas and constants as in `certkv.fast.outward_fp32`.

Quotients and roots are correctly rounded, ``exp2`` is the device's (2 ulp). Kernels that use these are compiled without
fusion, and replace NaN before every minimum, which would let it pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

FACTOR = tl.constexpr(1.0 + 2.0**-12)
LOST = tl.constexpr(2.0**-100)
EXP_UP = tl.constexpr(1.0 + 2.0**-16)
EXP_DOWN = tl.constexpr(1.0 - 2.0**-16)
UP = tl.constexpr(1.0 + 2.0**-20)
DOWN = tl.constexpr(1.0 - 2.0**-20)
TINY = tl.constexpr(2.0**-126)
SQUARE_LOST = tl.constexpr(2.0**-125)
PSI_SWITCH = tl.constexpr(0.1)
LARGEST_ARGUMENT = tl.constexpr(80.0)
SIXTH = tl.constexpr(1.0 / 6.0)
TWENTY_SECOND = tl.constexpr(1.0 / 22.0)
LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
LOWERED = tl.constexpr(1.0 - 2.0**-10)
LOWERED_LOST = tl.constexpr(2.0**-55)


@triton.jit
def known(x):
    """Replace NaN by infinity."""
    return tl.where(x == x, x, INFINITY)


@triton.jit
def not_negative(x):
    """Replace NaN and negative numbers by infinity."""
    return tl.where(x >= 0.0, x, INFINITY)


@triton.jit
def inflate(x):
    """Upper bound of what was computed from non-negative numbers."""
    return x * FACTOR + LOST


@triton.jit
def root_of_squares(sum_of_squares, ADDENDS: tl.constexpr):
    """Root of a sum of squares that may have been flushed to zero."""
    return tl.sqrt_rn(sum_of_squares + (ADDENDS + 1) * SQUARE_LOST)


@triton.jit
def lowered(norm_ub):
    """Lower bound from an inflated norm, or a mean of such."""
    return tl.maximum(norm_ub * LOWERED - LOWERED_LOST, 0.0)


@triton.jit
def _polynomial(x):
    small = tl.minimum(x, PSI_SWITCH)
    return (0.5 + small * (SIXTH + small * TWENTY_SECOND)) * UP


@triton.jit
def _expm1(x):
    return (tl.exp2(x * LOG2_E) - 1.0) * EXP_UP


@triton.jit
def psi_ub(x):
    """Upper bound of ``(e^x - 1 - x)/x^2``, x >= 0; x is not NaN."""
    large = tl.minimum(tl.maximum(x, PSI_SWITCH), LARGEST_ARGUMENT)
    closed = tl.div_rn(_expm1(large) - large, large * large) * UP
    return tl.where(x <= PSI_SWITCH, _polynomial(x), tl.where(x <= LARGEST_ARGUMENT, closed, INFINITY))


@triton.jit
def expm1_ub(x):
    """Upper bound of ``e^x - 1``, x >= 0; x is not NaN."""
    small = tl.minimum(x, PSI_SWITCH)
    near = (small + small * small * _polynomial(x)) * UP + TINY
    far = _expm1(tl.minimum(tl.maximum(x, PSI_SWITCH), LARGEST_ARGUMENT))
    return tl.where(x <= PSI_SWITCH, near, tl.where(x <= LARGEST_ARGUMENT, far, INFINITY))


@triton.jit
def exp_ub(x):
    """Upper bound of ``e^x``, x >= 0; ``+inf`` above 80 and for NaN."""
    return tl.where(x <= LARGEST_ARGUMENT, tl.exp2(x * LOG2_E) * EXP_UP, INFINITY)


@triton.jit
def exp_minus_lb(x):
    """Lower bound of ``e^-x``, x >= 0; x is not NaN."""
    near = tl.exp2(-tl.minimum(x, LARGEST_ARGUMENT) * LOG2_E) * EXP_DOWN
    return tl.where(x < LARGEST_ARGUMENT, near, 0.0)


@triton.jit
def load16(pointer, mask, BFLOAT: tl.constexpr):
    """Load bfloat16 or float16 numbers, given as int16 patterns, as float32; 0 where masked."""
    bits = tl.load(pointer, mask=mask, other=0)
    if BFLOAT:
        x = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = bits.to(tl.float16, bitcast=True).to(tl.float32)
    return x
