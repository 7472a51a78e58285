"""Tensor cores by the registers of a lane: tensors [32] are a register of each lane of one warp, lane 4 r + x.

Where a program is one warp, a tensor of 32 numbers is one register, and what ``mma.m16n8k16`` wants of whom is written
down and not found out by a compiler. A, B and C of it, with pairs of binary16 numbers in int32::

    A[r + 8 i][2 x + b + 8 c]     half b of register a_{i + 2 c}        16 rows, 16 k
    B[2 x + b + 8 c][r]           half b of register b_c                16 k, 8 columns
    C[r + 8 i][2 x + b]           register c_{2 i + b}, binary32        16 rows, 8 columns
"""
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

MMA: tl.constexpr = tl.constexpr(
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
    "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
)
MMA_REGISTERS: tl.constexpr = tl.constexpr("=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f")
FOUR_FLOATS: tl.constexpr = tl.constexpr((tl.float32,) * 4)
PRODUCT: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a, b; mul.rn.f16x2 a, $1, $3; neg.f16x2 b, a; fma.rn.f16x2 b, $1, $3, b; fma.rn.f16x2 $0, $2, $3, b; }"
)
TIMES: tl.constexpr = tl.constexpr("mul.rn.f16x2 $0, $1, $2;")
ROUND: tl.constexpr = tl.constexpr("cvt.rn.f16x2.f32 $0, $2, $1;")
SELECTED: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, $3;")
REMAINDER: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a; mul.rn.f16x2 a, $1, $3; neg.f16x2 a, a; fma.rn.f16x2 $0, $2, $3, a; }"
)


@triton.jit
def halves(x):
    """Two binary16 numbers of an int32."""
    return (x & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True), (x >> 16).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def packed(low, high):
    """Two binary16 numbers as an int32."""
    return (low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) | (high.to(tl.int16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def _matrix(x):
    low, high = halves(x)
    return tl.reshape(tl.join(low, high), [8, 4, 2])


@triton.jit
def mma(a, b0, b1, c, INTERPRET: tl.constexpr):
    """Return ``A B + C``; registers of a and c are four, of b two."""
    if INTERPRET:
        rows = tl.join(tl.join(_matrix(a[0]), _matrix(a[2])), tl.join(_matrix(a[1]), _matrix(a[3])))
        left = tl.reshape(tl.permute(rows, (4, 0, 3, 1, 2)), [16, 16])
        right = tl.reshape(tl.permute(tl.join(_matrix(b0), _matrix(b1)), (3, 1, 2, 0)), [16, 8])
        start = tl.join(tl.reshape(tl.join(c[0], c[1]), [8, 4, 2]), tl.reshape(tl.join(c[2], c[3]), [8, 4, 2]))
        y = tl.dot(left, right, tl.reshape(tl.permute(start, (3, 0, 1, 2)), [16, 8]))
        y = tl.reshape(tl.permute(tl.reshape(y, [2, 8, 4, 2]), (1, 2, 3, 0)), [32, 2, 2])
        upper, lower = tl.split(y)
        d0, d1 = tl.split(upper)
        d2, d3 = tl.split(lower)
    else:
        d0, d1, d2, d3 = tl.inline_asm_elementwise(
            MMA, MMA_REGISTERS, [a[0], a[1], a[2], a[3], b0, b1, c[0], c[1], c[2], c[3]], dtype=FOUR_FLOATS,
            is_pure=True, pack=1,
        )  # fmt: skip
    return d0, d1, d2, d3


@triton.jit
def bytes_of(x, y, SELECT: tl.constexpr, TEXT: tl.constexpr, INTERPRET: tl.constexpr):
    """``prmt``: bytes of two words, the one at digit i of ``SELECT`` (8 is none); ``TEXT`` is the instruction."""
    if INTERPRET:
        z = tl.zeros_like(x)
        for i in tl.static_range(4):
            AT: tl.constexpr = (SELECT >> (4 * i)) & 15
            if AT < 4:
                z = z | (((x >> (8 * AT)) & 0xFF) << (8 * i))
            elif AT < 8:
                z = z | (((y >> (8 * (AT - 4))) & 0xFF) << (8 * i))
    else:
        z = tl.inline_asm_elementwise(TEXT, "=r,r,r", [x, y], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def one_of(x, y, upper, INTERPRET: tl.constexpr):
    """Upper or lower halves of two words, in a word."""
    if INTERPRET:
        z = tl.where(upper, bytes_of(x, y, 0x7632, "", INTERPRET), bytes_of(x, y, 0x5410, "", INTERPRET))
    else:
        select = tl.where(upper, 0x7632, 0x5410)
        z = tl.inline_asm_elementwise(SELECTED, "=r,r,r,r", [x, y, select], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def scaled(whole, part, step, INTERPRET: tl.constexpr):
    """Multiply a query's part with steps, both in pairs: ``fp16(part step + (whole step - fp16(whole step)))``.

    For the first part ``whole`` is 0, and for the second it is the first part.
    """
    if INTERPRET:
        x0, x1 = halves(whole)
        y0, y1 = halves(part)
        s0, s1 = halves(step)
        z = packed(_scaled_half(x0, y0, s0), _scaled_half(x1, y1, s1))
    else:
        z = tl.inline_asm_elementwise(PRODUCT, "=&r,r,r,r", [whole, part, step], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def _scaled_half(x, y, s):
    left = (x.to(tl.float64) * s.to(tl.float64) - (x * s).to(tl.float64)).to(tl.float16)
    return (y.to(tl.float64) * s.to(tl.float64) + left.to(tl.float64)).to(tl.float16)


@triton.jit
def folded(whole, p, step, INTERPRET: tl.constexpr):
    """Return parts of weights times steps, in pairs: ``fp16(p step - fp16(whole step))``.

    For the first part ``whole`` is 0, and for the second it is p.
    """
    if INTERPRET:
        x0, x1 = halves(whole)
        p0, p1 = halves(p)
        s0, s1 = halves(step)
        z = packed(
            (p0.to(tl.float32) * s0.to(tl.float32) - (x0 * s0).to(tl.float32)).to(tl.float16),
            (p1.to(tl.float32) * s1.to(tl.float32) - (x1 * s1).to(tl.float32)).to(tl.float16),
        )
    else:
        z = tl.inline_asm_elementwise(REMAINDER, "=&r,r,r,r", [whole, p, step], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def times(x, y, INTERPRET: tl.constexpr):
    """Products of pairs of binary16 numbers."""
    if INTERPRET:
        x0, x1 = halves(x)
        y0, y1 = halves(y)
        z = packed(x0 * y0, x1 * y1)
    else:
        z = tl.inline_asm_elementwise(TIMES, "=r,r,r", [x, y], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def rounded_pair(x, y, INTERPRET: tl.constexpr):
    """Two binary32 numbers rounded to binary16, the first in the low half."""
    if INTERPRET:
        z = packed(x.to(tl.float16), y.to(tl.float16))
    else:
        z = tl.inline_asm_elementwise(ROUND, "=r,f,f", [x, y], dtype=tl.int32, is_pure=True, pack=1)
    return z


@triton.jit
def load_four(at):
    """Four words that follow each other, from each lane's address on."""
    x = tl.load(at[:, None] + tl.arange(0, 4)[None, :])
    even, odd = tl.split(tl.reshape(x, [32, 2, 2]))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def per_lane(x):
    """Numbers of four heads, [4], for lanes 4 r + head."""
    return tl.reshape(tl.broadcast_to(x[None, :], [8, 4]), [32])


@triton.jit
def top_of_rows(x):
    """Return the largest of the lanes of every head, for all of them."""
    return per_lane(tl.max(tl.reshape(x, [8, 4]), 0))


@triton.jit
def sum_of_rows(x):
    """Add up the lanes of every head, for all of them."""
    return per_lane(tl.sum(tl.reshape(x, [8, 4]), 0))


@triton.jit
def nothing():
    """Four sums of 0."""
    x = tl.zeros([32], tl.float32)
    return x, x, x, x
