"""Kernels that do nothing but round, to look at the functions that kernels share."""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.log_codes import encode
from certkv.fast.kernels.rounding import down_bfloat16, narrow, up, widen


@triton.jit
def rounding_kernel(x, patterns, upward, downward, widened, narrowed, N: tl.constexpr, BFLOAT: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    number = tl.load(x + i)
    tl.store(upward + i, up(number, BFLOAT))
    tl.store(downward + i, down_bfloat16(number))
    wide = widen(tl.load(patterns + i), BFLOAT)
    tl.store(widened + i, wide)
    tl.store(narrowed + i, narrow(wide, BFLOAT))


@triton.jit
def log_codes_kernel(x, maxima, ratios, codes, N: tl.constexpr):
    row = tl.program_id(0)
    i = row * N + tl.arange(0, N)
    code = encode(tl.load(x + i), widen(tl.load(maxima + row), True), ratios)
    tl.store(codes + i, code.to(tl.uint8))
