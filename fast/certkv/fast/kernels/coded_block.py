"""One coded block of int8 keys and values per channel; the formulas stand in `certkv.fast.kernels.attend`."""
# ruff: noqa: E741, RUF005, SIM108 (l is the softmax state's name; Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.operands import (
    channel_order,
    key_operand,
    key_order,
    pair,
    token_order,
    value_codes,
    value_operand,
    widen,
)
from certkv.fast.kernels.pass_state import softmax_tile


@triton.jit
def scaled_query(query, step, GP: tl.constexpr, INTERPRET: tl.constexpr):
    """``q s`` as the sum of two binary16 numbers, side by side, exact unless the second is subnormal; and the first."""
    q = query.to(tl.float16)
    s = tl.broadcast_to(step[:, None], [64, GP])
    first = q * s
    if INTERPRET:  # it has no fused operation
        second = (q.to(tl.float32) * s.to(tl.float32) - first.to(tl.float32)).to(tl.float16)
    else:
        second = tl.fma(q, s, -first)
    return tl.reshape(tl.join(first, second), [64, 2 * GP]), first


@triton.jit
def key_scores(
    words,
    steps,
    minima,
    query,
    rows,
    GP: tl.constexpr,
    D: tl.constexpr,
    BP: tl.constexpr,
    FULL: tl.constexpr,
    BFLOAT: tl.constexpr,
    STATISTICS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Scores of a block's tokens in units of the scaled query, [BP, GP]; ``rows``: which word rows exist.

    With ``STATISTICS`` also ``||s q||^2`` in those units, [GP]; otherwise zeros.
    """
    KC: tl.constexpr = (D + 63) // 64
    ch = tl.arange(0, 64)
    w = tl.arange(0, 16)
    offset = tl.zeros([64, GP], tl.float32)
    largest = tl.zeros([GP], tl.float32)
    squares = tl.zeros([64, GP], tl.float32)
    products = ()
    codes = ()
    for k in tl.static_range(KC):
        if FULL and 64 * (k + 1) <= D:
            word = tl.load(words + 16 * k)
        else:
            word = tl.load(words + 16 * k, mask=rows & (w + 16 * k < D // 4)[None, :], other=0)
        codes = codes + (word,)
    for k in tl.static_range(KC):
        inside = ch + 64 * k < D
        stored = tl.load(steps + ch + 64 * k, mask=inside, other=0)
        s = widen(stored, BFLOAT)
        minimum = widen(tl.load(minima + ch + 64 * k, mask=inside, other=0), BFLOAT)
        z = tl.fma(s, 128.0, minimum)
        offset = tl.fma(query[k], tl.broadcast_to(z[:, None], [64, GP]), offset)
        if BFLOAT:
            product = query[k] * s[:, None]
            largest = tl.maximum(largest, tl.max(tl.abs(product), 0))
            rounded = product
        else:
            product, first = scaled_query(query[k], stored, GP, INTERPRET)
            rounded = first.to(tl.float32)
        if STATISTICS:
            squares = tl.fma(rounded, rounded, squares)
        products = products + (product,)
    # two short sums: 8 and 8 additions on a path, not 64
    offset = tl.sum(tl.sum(tl.reshape(offset, [8, 8, GP]), 1), 0)
    x2 = tl.zeros([BP, 2 * GP], tl.float32)
    if BFLOAT:
        exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127
        shift = tl.minimum(tl.maximum(14 - exponent, -120), 100)
        up = ((shift + 127) << 23).to(tl.float32, bitcast=True)
        down = ((127 - shift) << 23).to(tl.float32, bitcast=True)
    for k in tl.static_range(KC):
        if BFLOAT:
            both = pair(products[k] * up[None, :], False, INTERPRET)
        else:
            both = products[k]
        x2 = tl.dot(key_operand(codes[k], BP, INTERPRET), key_order(both, 2 * GP), x2)
    x = tl.sum(tl.reshape(x2, [BP, GP, 2]), 2)
    if BFLOAT:
        x = x * down[None, :]
    return x + offset[None, :], tl.sum(tl.sum(tl.reshape(squares, [8, 8, GP]), 1), 0)


@triton.jit
def load_channel_values(
    codes,
    place,
    D: tl.constexpr,
    VC: tl.constexpr,
    B: tl.constexpr,
    RP: tl.constexpr,
    BITS: tl.constexpr,
):
    """Words of two tokens and four channels each, in the order of `value_operand`, per tile of channels."""
    R: tl.constexpr = (B + 1) // 2
    FULL: tl.constexpr = 2 * RP == B
    ROWS: tl.constexpr = R if BITS == 4 else B
    rhi = tl.arange(0, RP // 4)[:, None, None, None]
    gg = tl.arange(0, 8)[None, :, None, None]
    rlo = tl.arange(0, 4)[None, None, :, None]
    wlo = tl.arange(0, VC // 32)[None, None, None, :]
    r = rhi * 4 + rlo
    words = codes + place * (ROWS * D // 4) + r * (D // 4) + gg * (VC // 32) + wlo
    loaded = ()
    for v in tl.static_range((D + VC - 1) // VC):
        inside = (gg * (VC // 32) + wlo + VC // 4 * v < D // 4) & (r < R)
        if FULL and VC * (v + 1) <= D:
            first = tl.load(words + VC // 4 * v)
        else:
            first = tl.load(words + VC // 4 * v, mask=inside, other=0)
        second = first
        if BITS == 8:
            if FULL and VC * (v + 1) <= D:
                second = tl.load(words + VC // 4 * v + R * (D // 4))
            else:
                second = tl.load(words + VC // 4 * v + R * (D // 4), mask=inside & (r + R < B), other=0)
        loaded = loaded + ((first, second),)
    return loaded


@triton.jit
def channel_tiles(
    loaded,
    steps,
    minima,
    place,
    p,
    total,
    GP: tl.constexpr,
    D: tl.constexpr,
    VC: tl.constexpr,
    BP: tl.constexpr,
    BITS: tl.constexpr,
    BFLOAT: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Weighted values of a block, tensors [VC, GP] in `channel_order`."""
    HALF: tl.constexpr = 8.0 if BITS == 4 else 128.0
    tiles = ()
    for v in tl.static_range((D + VC - 1) // VC):
        codes = value_codes(loaded[v][0], loaded[v][1], BITS, INTERPRET)
        both = tl.reshape(tl.broadcast_to(p[:, :, None], [BP, GP, 2]), [BP, 2 * GP])
        acc2 = tl.dot(value_operand(codes, BP // 2, VC), token_order(both, BP // 2, 2 * GP))
        acc, _ = tl.split(tl.reshape(acc2, [VC, GP, 2]))
        cd = tl.arange(0, VC) + VC * v
        s = widen(tl.load(steps + place * D + cd, mask=cd < D, other=0), BFLOAT)
        minimum = widen(tl.load(minima + place * D + cd, mask=cd < D, other=0), BFLOAT)
        z = tl.fma(s, HALF, minimum)
        s, z = channel_order(s, VC), channel_order(z, VC)
        tile = tl.fma(
            tl.broadcast_to(z[:, None], [VC, GP]), tl.broadcast_to(total[None, :], [VC, GP]), acc * s[:, None]
        )
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def coded_block(
    key_codes,
    key_step,
    key_minimum,
    value_codes_,
    value_step,
    value_minimum,
    place,
    query,
    c,
    m,
    l,
    o,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    VC: tl.constexpr,
    B: tl.constexpr,
    RP: tl.constexpr,
    BITS: tl.constexpr,
    BFLOAT: tl.constexpr,
    BIAS: tl.constexpr,
    STATISTICS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Attend to the coded block of one KV head at ``place = page * H + head``.

    Returns P, m', l, o and the block's statistics: per head the sum and sum of squares of P, P of a token with the
    largest score, and the square of ``||s q||``.
    """
    R: tl.constexpr = (B + 1) // 2
    BP: tl.constexpr = 2 * RP
    FULL: tl.constexpr = BP == B
    i = tl.arange(0, BP)
    token = (i // RP) * R + i % RP
    there = (i % RP < R) & (token < B)
    words = key_codes + place * (B * D // 4) + token[:, None] * (D // 4) + tl.arange(0, 16)[None, :]
    loaded = load_channel_values(value_codes_, place, D, VC, B, RP, BITS)
    x, norm = key_scores(
        words,
        key_step + place * D,
        key_minimum + place * D,
        query,
        there[:, None],
        GP,
        D,
        BP,
        FULL,
        BFLOAT,
        STATISTICS,
        INTERPRET,
    )
    live = tl.broadcast_to(there[:, None], [BP, GP])
    p, total, top, alpha, largest = softmax_tile(x, m, c, live, not FULL, BIAS)
    squares = tl.zeros([GP], tl.float32)
    peak = tl.zeros([GP], tl.float32)
    if STATISTICS:
        wide = p.to(tl.float32)
        squares = tl.sum(wide * wide, 0)
        # the weight of a token with the largest score; another's may be a rounding of 2^ above it
        peak = tl.exp2(tl.fma(largest, c, -top)).to(tl.float16).to(tl.float32)
    tiles = channel_tiles(loaded, value_step, value_minimum, place, p, total, GP, D, VC, BP, BITS, BFLOAT, INTERPRET)
    joined = ()
    for v in tl.static_range((D + VC - 1) // VC):
        joined = joined + (tl.fma(o[v], tl.broadcast_to(alpha[None, :], [VC, GP]), tiles[v]),)
    return p, top, tl.fma(l, alpha, total), joined, (total, squares, peak, norm)
