"""The affine rule with an integer zero point on a tile; the twin is `certkv.fast.formats.zero_point`.

::

    s     = (hi/2 - lo/2) / (levels/2)
    zero  = rne(-lo / s)
    step  = rne_T(s), at least T's smallest number where s > 0
    shift = rne_T(-(zero s)), cut at the largest number of T;  lo where s = 0

Written operators are FP32 operations, rounded to nearest even, subnormals kept; T is the type of the originals.
"""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.affine import rounded_integer
from certkv.fast.kernels.rounding import LARGEST_BFLOAT16, LARGEST_FLOAT16, fp32, nearest, widen


@triton.jit
def zero_point(lo, hi, LEVELS: tl.constexpr, BFLOAT: tl.constexpr):
    """Return bits of the step, and the shift (float64), which is +0.0 where it is zero; as `affine.exact_minimum`."""
    LARGEST: tl.constexpr = LARGEST_BFLOAT16 if BFLOAT else LARGEST_FLOAT16
    lo = tl.where(lo == 0.0, 0.0, lo)
    hi = tl.where(hi == 0.0, 0.0, hi)
    s = fp32(fp32(0.5 * hi - 0.5 * lo) / (LEVELS / 2))
    # the range is at least an element's spacing, so the quotient is far below 2**51 wherever it counts
    zero = rounded_integer(fp32(-lo / tl.where(s > 0.0, s, 1.0)))
    step_bits = nearest(s.to(tl.float32), BFLOAT).to(tl.int32)
    # 1 is the pattern of the smallest number
    step_bits = tl.where(s > 0.0, tl.maximum(step_bits, 1), 0).to(tl.int16)
    shift = tl.where(s > 0.0, fp32(-(zero * s)), lo)
    shift = tl.minimum(tl.maximum(shift, -LARGEST), LARGEST)
    shift = widen(nearest(shift.to(tl.float32), BFLOAT), BFLOAT)
    return step_bits, tl.where(shift == 0.0, 0.0, shift)
