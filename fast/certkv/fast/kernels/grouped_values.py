"""Weighted values of a block whose values have a step and a minimum per token and group of channels.

For the channels c of group j, with P the executed weights::

    sum_t P_t v_tc = sum_t (P_t s_tj) code_tc + sum_t P_t z_tj

Codes are operands as they are (`certkv.fast.kernels.fields`), ``code F^f 2^-24`` in field f of a byte, and steps are
folded into the weights, once per group and not per channel. A power of two brings the largest step of the block to
[1, 2), and with the inverse of ``F^f`` on top of it, per token, the products are two binary16 numbers::

    s'     = fp16(s 2^k F^-f)      first = fp16(P s')      second = P s' - first

in columns side by side; both are exact, unless they are subnormal. With bfloat16 steps the product is rounded to
binary32 and cut in two. The dot product starts from zero; its result times ``2^(24 - k)`` is the block's. Minima are
multiplied with P by a dot product of their own, and reach the output after the last block.

P is read from memory, where the scores' pass has put it: it then comes in the order in which it is multiplied.
"""
# ruff: noqa: RUF005, SIM108 (Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.fields import stack, unstack, value_fields
from certkv.fast.kernels.operands import operand, pair, widen
from certkv.fast.kernels.pass_state import power_of_two

FOLD: tl.constexpr = tl.constexpr("{ .reg .b32 a; mul.rn.f16x2 a, $2, $3; fma.rn.f16x2 $0, $1, $3, a; }")
FOLD_REGISTERS: tl.constexpr = tl.constexpr("=r,r,r,r")


@triton.jit
def step_shift(steps, BFLOAT: tl.constexpr):
    """Return the k of the power of two 2^k that brings the largest step to [1, 2)."""
    exponent = (tl.max(steps).to(tl.int32, bitcast=True) >> 23) - 127
    if BFLOAT:
        shift = tl.minimum(tl.maximum(-exponent, -120), 120)
    else:
        # 2^-14 is the smallest power that binary16 has all bits of
        shift = tl.minimum(-exponent, 14)
    return shift


@triton.jit
def folded_weights(p, step, power, GP: tl.constexpr, BFLOAT: tl.constexpr, INTERPRET: tl.constexpr):
    """``P s`` times powers of two as two binary16 numbers side by side, [K, 2 GP]; p binary16 [K, GP], others [K]."""
    K: tl.constexpr = p.shape[0]
    column = tl.arange(0, 2 * GP)
    second = tl.broadcast_to((column % 2 == 1)[None, :], [K, 2 * GP])
    both = tl.reshape(tl.broadcast_to(p[:, :, None], [K, GP, 2]), [K, 2 * GP])
    if BFLOAT:
        w = both.to(tl.float32) * (step * power)[:, None]
        first = w.to(tl.float16)
        folded = tl.where(second, (w - first.to(tl.float32)).to(tl.float16), first)
    elif INTERPRET:
        s = (step * power.to(tl.float16))[:, None]
        first = both * s
        folded = tl.where(second, (both.to(tl.float32) * s.to(tl.float32) - first.to(tl.float32)).to(tl.float16), first)
    else:
        s = tl.broadcast_to((step * power.to(tl.float16))[:, None], [K, 2 * GP])
        # 0 in a column of first parts, where the product is then rounded; -P in one of second parts, where the fused
        # operation leaves what that rounding takes away
        less = both * tl.where(column % 2 == 1, -1.0, 0.0).to(tl.float16)[None, :]
        folded = tl.inline_asm_elementwise(
            FOLD, FOLD_REGISTERS, [both, less, s], dtype=tl.float16, is_pure=True, pack=2
        )
    return folded


@triton.jit
def grouped_block(
    codes, steps, minima, place, weights, at, factor, o, sums, live, GP: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr,
    OFFSET: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Add a block times ``factor`` [GP] to the output and to the sums of minima.

    Parameters
    ----------
    weights : pointer
        P of the block is at ``at`` [GP], for live heads.
    o : tensors [GC, GP]
        Per group of channels, in the order of rows of `value_fields`.
    sums : tensor [16, GP]
        Row j is group ``j mod NG``, NG the number of tensors of o.
    """
    F: tl.constexpr = 8 // BITS
    R: tl.constexpr = (B + F - 1) // F
    RT: tl.constexpr = max(16, triton.next_power_of_2(R))
    FULL: tl.constexpr = RT * F == B and DP == D
    GC: tl.constexpr = GROUP if GROUP < DP else DP
    NG: tl.constexpr = DP // GC
    GROUPS: tl.constexpr = (D + GROUP - 1) // GROUP
    K: tl.constexpr = F * RT
    k = tl.arange(0, K)
    token = (k // RT) * R + k % RT
    there = (k % RT < R) & (token < B)
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
    p = tl.load(weights + at[None, :] + token[:, None], mask=live[None, :] & there[:, None], other=0)
    shift = step_shift(widen(s, BFLOAT), BFLOAT)
    power = power_of_two(shift - BITS * (k // RT))
    scale = factor * power_of_two(24 - shift)
    by_group = unstack(tl.permute(tl.reshape(word, [RT, NG, GC // 4]), (0, 2, 1)), NG)
    step = unstack(s[:, None, :], NG)
    joined = ()
    for v in tl.static_range(NG):
        if v < GROUPS:
            one = tl.reshape(step[v], [K])
            if BFLOAT:
                one = widen(one, True)
            folded = folded_weights(p, one, power, GP, BFLOAT, INTERPRET)
            acc = tl.dot(value_fields(by_group[v], BITS, INTERPRET), folded)
            tile = tl.sum(tl.reshape(acc, [GC, GP, 2]), 2)
            joined = joined + (tl.fma(tile, tl.broadcast_to(scale[None, :], [GC, GP]), o[v]),)
        else:
            joined = joined + (o[v],)
    lowest = minima_sums(z, p, NG, GP, K, BFLOAT, INTERPRET)
    if OFFSET > 0.0:
        lowest = tl.fma(minima_sums(s, p, NG, GP, K, BFLOAT, INTERPRET), OFFSET, lowest)
    return joined, tl.fma(lowest, tl.broadcast_to(factor[None, :], [16, GP]), sums)


@triton.jit
def minima_sums(
    z, p, NG: tl.constexpr, GP: tl.constexpr, K: tl.constexpr, BFLOAT: tl.constexpr, INTERPRET: tl.constexpr
):
    """``sum_t P_t z_tj``: z [K, NG] as stored, p binary16 [K, GP] -> [16, GP], row i for group ``i mod NG``."""
    rows = tl.reshape(tl.broadcast_to(tl.trans(z)[None, :, :], [16 // NG, NG, K]), [16, K])
    if BFLOAT:
        # two parts of 8 bits are the 11 bits of P
        both = pair(p.to(tl.float32), True, INTERPRET)
        total = tl.sum(tl.reshape(tl.dot(operand(rows, True, INTERPRET), both, input_precision="ieee"), [16, GP, 2]), 2)
    else:
        both = tl.reshape(tl.broadcast_to(p[:, :, None], [K, GP, 2]), [K, 2 * GP])
        total, _ = tl.split(tl.reshape(tl.dot(rows, both), [16, GP, 2]))
    return total


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
    """Output with its sums of minima, channels in natural order, [NG GC, GP]."""
    parts = ()
    for v in tl.static_range(NG):
        parts = parts + (tl.reshape(tl.permute(tl.reshape(o[v], [4, GC // 4, GP]), (1, 0, 2)), [GC, GP]),)
    rows = tl.reshape(sums, [16 // NG, NG, GP])
    once = tl.sum(tl.where((tl.arange(0, 16 // NG) == 0)[:, None, None], rows, 0.0), 0)
    x = tl.reshape(stack_all(parts, NG), [NG, GC, GP]) + once[:, None, :]
    return tl.reshape(x, [NG * GC, GP])
