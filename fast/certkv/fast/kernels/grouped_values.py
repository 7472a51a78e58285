"""Weighted values of a block whose values have a step and a minimum per token and group of channels.

For the channels c of group j, with P the executed weights::

    sum_t P_t v_tc = sum_t (P_t s_tj) code_tc + sum_t P_t z_tj

Codes are operands as they are (`certkv.fast.kernels.fields`), ``code F^f 2^-24`` in field f of a byte, F = 2^bits, and
steps are folded into the weights, once per group and not per channel. A power of two 2^k brings all steps of the block
below 4, and with the inverse of ``F^f`` on top of it, per field, the products are two binary16 numbers::

    s'     = fp16(s fp16(2^k F^-f))      first = fp16(P s')      second = P s' - first

both exact, unless they are subnormal. With bfloat16 steps the product is rounded to binary32 and cut in two. Two dot
products go into one sum, that of the second parts first, which starts from zero; its result times ``2^(24 - k)`` is the
block's. Minima are multiplied with P by a dot product of their own, and reach the output after the last block.

P is read from memory, where the scores' pass has put it: so it comes in the order in which it is multiplied. No operand
may depend on a position but through what is loaded, or the compiler does not see that.
"""
# ruff: noqa: RUF005, SIM108 (Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.fields import first_columns, stack, unstack, value_fields, weight_order
from certkv.fast.kernels.operands import bfloat, operand, widen
from certkv.fast.kernels.pass_state import power_of_two

WEIGHT: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a; mul.rn.f16x2 $0, $2, $3; neg.f16x2 a, $0; fma.rn.f16x2 $1, $2, $3, a; }"
)
WEIGHT_REGISTERS: tl.constexpr = tl.constexpr("=&r,=&r,r,r")
TWO_HALVES: tl.constexpr = tl.constexpr((tl.float16, tl.float16))


@triton.jit
def step_shift(norm, BFLOAT: tl.constexpr):
    """Return the k of the power of two 2^k that brings all steps of a block below 4, from the bits of a norm, int32.

    The norm is that of the largest decoded token, in bfloat16. Two decoded numbers of a token are a step apart, so that
    a step is at most twice as much.
    """
    exponent = ((norm.to(tl.int32) >> 7) & 0xFF) - 127
    if BFLOAT:
        shift = tl.minimum(tl.maximum(-exponent, -100), 100)
    else:
        # 2^k is a binary16 number, and 65504 2^-15 is below 4
        shift = tl.minimum(tl.maximum(-exponent, -15), 15)
    return shift


@triton.jit
def folded_weights(p, step, power, FIELD_POWER: tl.constexpr, BFLOAT: tl.constexpr, INTERPRET: tl.constexpr):
    """``P s`` times powers of two as two binary16 numbers, [R, C] each; p binary16 [R, C], step [R], power [1]."""
    power = power * FIELD_POWER
    if BFLOAT:
        w = p.to(tl.float32) * (widen(step, True) * power)[:, None]
        first = w.to(tl.float16)
        second = (w - first.to(tl.float32)).to(tl.float16)
    else:
        s = tl.broadcast_to((step * power.to(tl.float16))[:, None], p.shape)
        if INTERPRET:
            first = p * s
            second = (p.to(tl.float32) * s.to(tl.float32) - first.to(tl.float32)).to(tl.float16)
        else:
            first, second = tl.inline_asm_elementwise(
                WEIGHT, WEIGHT_REGISTERS, [p, s], dtype=TWO_HALVES, is_pure=True, pack=2
            )
    return first, second


@triton.jit
def grouped_block(
    codes, steps, minima, norms, place, weights, at, factor, o, sums, G: tl.constexpr, GP: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr,
    OFFSET: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Add a block times ``factor`` [GP] to the output and to the sums of minima.

    Parameters
    ----------
    norms : pointer
        Largest norm of a decoded token, of the block.
    weights : pointer
        P of the block is at ``at`` [GP], for live heads.
    o : tensors [GC, GP]
        Per group of channels, in the order of rows of `value_fields`.
    sums : tensor [16, GP]
        As `minima_sums` returns them, times the same factors: that of P in the output is then the one in l.
    """
    F: tl.constexpr = 8 // BITS
    R: tl.constexpr = (B + F - 1) // F
    RT: tl.constexpr = max(16, triton.next_power_of_2(R))
    FULL: tl.constexpr = RT * F == B and DP == D
    GC: tl.constexpr = GROUP if GROUP < DP else DP
    NG: tl.constexpr = DP // GC
    GROUPS: tl.constexpr = (D + GROUP - 1) // GROUP
    K: tl.constexpr = F * RT
    C: tl.constexpr = max(8, GP)
    k = tl.arange(0, K)
    row = k % RT
    token = (k // RT) * R + row
    there = (row < R) & (token < B)
    r = tl.arange(0, RT)
    w = tl.arange(0, DP // 4)
    j = tl.arange(0, NG)
    words = codes + place * (R * (D // 4)) + r[:, None] * (D // 4) + w[None, :]
    metadata = place * (B * GROUPS) + token[:, None] * GROUPS + j[None, :]
    if FULL:
        word = tl.load(words)
    else:
        word = tl.load(words, mask=(r < R)[:, None] & (w < D // 4)[None, :], other=0)
    if FULL and GROUPS == NG:
        s = tl.load(steps + metadata)
        z = tl.load(minima + metadata)
    else:
        inside = there[:, None] & (j < GROUPS)[None, :]
        s = tl.load(steps + metadata, mask=inside, other=0)
        z = tl.load(minima + metadata, mask=inside, other=0)
    if FULL and G == GP:
        p = tl.load(weights + at[None, :] + token[:, None])
    else:
        live = (tl.arange(0, GP) < G)[None, :] & there[:, None]
        p = tl.load(weights + at[None, :] + token[:, None], mask=live, other=0)
    shift = step_shift(tl.load(norms + tl.arange(0, 1)), BFLOAT)
    power = power_of_two(shift)
    # a tile has eight columns, at least; of those beyond the heads the dot products are not used
    p = tl.reshape(tl.broadcast_to(p[:, :, None], [K, GP, C // GP]), [K, C])
    weights_of = unstack(tl.permute(tl.reshape(p, [F, RT, C]), (1, 2, 0)), F)
    steps_of = unstack(tl.permute(tl.reshape(s, [F, RT, NG]), (1, 2, 0)), F)
    by_group = unstack(tl.permute(tl.reshape(word, [RT, NG, GC // 4]), (0, 2, 1)), NG)
    scale = factor * power_of_two(24 - shift)
    joined = ()
    for v in tl.static_range(NG):
        if v < GROUPS:
            firsts = ()
            seconds = ()
            for f in tl.static_range(F):
                step = tl.reshape(unstack(steps_of[f][:, None, :], NG)[v], [RT])
                first, second = folded_weights(weights_of[f], step, power, 1.0 / (1 << (BITS * f)), BFLOAT, INTERPRET)
                firsts = firsts + (first,)
                seconds = seconds + (second,)
            operand_ = value_fields(by_group[v], BITS, INTERPRET)
            high = weight_order(stack(firsts, F), F, RT, C)
            low = weight_order(stack(seconds, F), F, RT, C)
            acc = tl.dot(operand_, high, tl.dot(operand_, low))
            tile = first_columns(acc, GC, GP, C)
            joined = joined + (tl.fma(tile, tl.broadcast_to(scale[None, :], [GC, GP]), o[v]),)
        else:
            joined = joined + (o[v],)
    lowest = minima_sums(z, p, NG, GP, K, C, BFLOAT, INTERPRET)
    if OFFSET > 0.0:
        below = (tl.arange(0, 16) < 8)[:, None]
        lowest = tl.fma(tl.where(below, minima_sums(s, p, NG, GP, K, C, BFLOAT, INTERPRET), 0.0), OFFSET, lowest)
    return joined, tl.fma(lowest, tl.broadcast_to(factor[None, :], [16, GP]), sums)


@triton.jit
def minima_sums(
    z, p, NG: tl.constexpr, GP: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BFLOAT: tl.constexpr,
    INTERPRET: tl.constexpr
):  # fmt: skip
    """``sum_t P_t z_tj`` in rows ``j mod NG`` below 8, ``sum_t P_t`` in the others: [16, GP].

    z is [K, NG], as stored, and p binary16 [K, C].
    """
    eight = tl.reshape(tl.broadcast_to(tl.trans(z)[None, :, :], [8 // NG, NG, K]), [8, K])
    one = 0x3F80 if BFLOAT else 1.0
    rows = tl.reshape(tl.permute(tl.join(eight, tl.full([8, K], one, eight.dtype)), (2, 0, 1)), [16, K])
    if BFLOAT:
        # two parts of 8 bits are the 11 bits of P
        rows = operand(rows, True, INTERPRET)
        wide = p.to(tl.float32)
        first = bfloat(wide)
        second = wide - first
        if not INTERPRET:
            first = first.to(tl.bfloat16)
            second = second.to(tl.bfloat16)
        total = tl.dot(rows, first, tl.dot(rows, second, input_precision="ieee"), input_precision="ieee")
    else:
        total = tl.dot(rows, p)
    return first_columns(total, 16, GP, C)


@triton.jit
def stack_all(parts, N: tl.constexpr):
    """Tensors [A, C], N of them, a power of two up to 8 -> [N A, C]."""
    if N == 8:
        low = stack((parts[0], parts[1], parts[2], parts[3]), 4)
        x = stack((low, stack((parts[4], parts[5], parts[6], parts[7]), 4)), 2)
    else:
        x = stack(parts, N)
    return x


@triton.jit
def natural_output(o, sums, GP: tl.constexpr, GC: tl.constexpr, NG: tl.constexpr):
    """Output with its sums of minima, channels in natural order, [NG GC, GP]; and the sum of P."""
    parts = ()
    for v in tl.static_range(NG):
        parts = parts + (tl.reshape(tl.permute(tl.reshape(o[v], [4, GC // 4, GP]), (1, 0, 2)), [GC, GP]),)
    row = tl.arange(0, 16)[:, None]
    once = tl.sum(tl.reshape(tl.where(row < NG, sums, 0.0), [16 // NG, NG, GP]), 0)
    x = tl.reshape(stack_all(parts, NG), [NG, GC, GP]) + once[:, None, :]
    return tl.reshape(x, [NG * GC, GP]), tl.sum(tl.where(row == 8, sums, 0.0), 0)
