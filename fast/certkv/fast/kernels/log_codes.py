"""Log codes of the tokens of a block, found by bisection; the twin is `certkv.fast.log_codes.encode`.

Code c means ``ratios[c] maximum``, decreasing and exact: 16 significant bits times the 8 of a bfloat16 maximum.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def encode(x, maximum, ratios):
    """Return the largest code whose meaning is at least x >= 0, float64 [R]; 0 if the maximum is infinite. int32."""
    code = tl.zeros_like(x).to(tl.int32)
    for i in tl.static_range(8):
        tried = code | (128 >> i)
        code = tl.where(tl.load(ratios + tried) * maximum >= x, tried, code)
    return tl.where(maximum == float("inf"), 0, code)
