"""Conversions on bits that kernels share: 16-bit originals to float64 and back, rounded in a chosen direction.

Numbers of 16 bits are passed as int16 bit patterns, since Triton's interpreter has no arithmetic of bfloat16. Between
float64 and FP32 there are only IEEE conversions, to nearest, subnormals kept (``cvt.rn.f32.f64``, ``cvt.f64.f32``; the
compile test looks for ``.ftz``). A kernel that uses these is compiled without fusion.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LARGEST_BFLOAT16 = tl.constexpr(torch.finfo(torch.bfloat16).max)
LARGEST_FLOAT16 = tl.constexpr(torch.finfo(torch.float16).max)


@triton.jit
def widen(bits, BFLOAT: tl.constexpr):
    """Return the bfloat16 or float16 numbers of int16 patterns, exactly, in float64."""
    if BFLOAT:
        single = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        single = bits.to(tl.float16, bitcast=True).to(tl.float32)
    return single.to(tl.float64)


@triton.jit
def fp32(x):
    """Round float64 to the nearest FP32 number, as float64: with one operation before it, that operation of FP32."""
    return x.to(tl.float32).to(tl.float64)


@triton.jit
def up_single(x):
    """Smallest FP32 number >= x for float64 x >= 0."""
    nearest = x.to(tl.float32)
    bits = nearest.to(tl.int32, bitcast=True)
    return tl.where(nearest.to(tl.float64) < x, bits + 1, bits).to(tl.float32, bitcast=True)


@triton.jit
def nearest(x, BFLOAT: tl.constexpr):
    """Bits of the bfloat16 or float16 numbers nearest to FP32 numbers, ties to even; int16. Nothing may overflow."""
    if BFLOAT:
        bits = x.to(tl.int32, bitcast=True)
        # half a unit of what stays, less one where the last bit that stays is 0
        bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
    else:
        bits = x.to(tl.float16).to(tl.int16, bitcast=True)
    return bits


@triton.jit
def up(x, BFLOAT: tl.constexpr):
    """Bits of the smallest bfloat16 or float16 number >= x for float64 x >= 0; int16. A NaN stays one."""
    single = up_single(x)
    if BFLOAT:
        # dropping 16 bits rounds down, so what is dropped is carried first; FP32 infinity has nothing to drop
        bits = single.to(tl.int32, bitcast=True)
        bits = tl.where(single == single, (bits + 0xFFFF) >> 16, 0x7FC0)
    else:
        nearest = single.to(tl.float16)
        bits = nearest.to(tl.int16, bitcast=True).to(tl.int32)
        bits = tl.where(nearest.to(tl.float32) < single, bits + 1, bits)
    return bits.to(tl.int16)


@triton.jit
def down_bfloat16(x):
    """Bits of the largest bfloat16 number <= x for float64 x >= 0; int16. A NaN stays one."""
    nearest = x.to(tl.float32)
    bits = nearest.to(tl.int32, bitcast=True)
    bits = tl.where(nearest.to(tl.float64) > x, bits - 1, bits)
    return tl.where(nearest == nearest, bits >> 16, 0x7FC0).to(tl.int16)


@triton.jit
def narrow(x, BFLOAT: tl.constexpr):
    """Bits of float64 numbers that are bfloat16 or float16 numbers; int16."""
    if BFLOAT:
        bits = (x.to(tl.float32).to(tl.int32, bitcast=True) >> 16).to(tl.int16)
    else:
        bits = x.to(tl.float32).to(tl.float16).to(tl.int16, bitcast=True)
    return bits
