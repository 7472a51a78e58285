"""Attend to a block of resident originals a few tokens at a time, in little code.

Every launch fetches the code of a kernel whole, and kernels that follow each other in a graph share what a
multiprocessor holds of it. On an H200, 64 of 94 KB were for the few programs of resident tokens, and a step over 8,192
tokens took 32 us where it took 20 without them. So tokens come in tiles of 16, in loops that are not unrolled; all
their originals are asked for before the first tile is read.

Scores and weights of the tiles stay in registers: tile i of [tiles, tokens, heads] is written and read by comparison.
"""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.operands import channel_order_rows, operand, pair
from certkv.fast.kernels.pass_state import softmax_block

TILE: tl.constexpr = tl.constexpr(16)
AHEAD: tl.constexpr = tl.constexpr("prefetch.global.L2 [$1]; mov.u32 $0, 0;")


@triton.jit
def ask_for(x, size, LINES: tl.constexpr, NUMBERS: tl.constexpr, INTERPRET: tl.constexpr):
    """Ask for ``size`` numbers, up to so many lines of the L2, NUMBERS in each; a hint: without it nothing changes."""
    if not INTERPRET:
        at = tl.minimum(tl.arange(0, triton.next_power_of_2(LINES)) * NUMBERS, size - 1)
        tl.inline_asm_elementwise(AHEAD, "=r,l", [x + at], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def resident_block(
    keys, values, start, count, query, c, m, l, o, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr,
    VC: tl.constexpr, RP: tl.constexpr, BFLOAT: tl.constexpr, BIAS: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """As `pass_state.exact_block`: attend to the first ``count`` > 0 tokens of originals at element ``start``.

    Returns P's sum as well, behind P.
    """
    KC: tl.constexpr = (D + 63) // 64
    VN: tl.constexpr = (D + VC - 1) // VC
    BP: tl.constexpr = 2 * RP
    TILES: tl.constexpr = BP // TILE
    t = tl.arange(0, TILE)
    ch = tl.arange(0, 64)
    cd = tl.arange(0, VC)
    number = tl.arange(0, TILES)[:, None, None]
    x = tl.zeros([TILES, TILE, GP], tl.float32)
    for i in tl.range(0, (count + TILE - 1) // TILE, num_stages=1):
        token = i * TILE + t
        x2 = tl.zeros([TILE, 2 * GP], tl.float32)
        for k in tl.static_range(KC):
            inside = (token < count)[:, None] & (ch + 64 * k < D)[None, :]
            bits = tl.load(keys + start + token[:, None] * D + (ch + 64 * k)[None, :], mask=inside, other=0)
            x2 = tl.dot(operand(bits, BFLOAT, INTERPRET), pair(query[k], BFLOAT, INTERPRET), x2, input_precision="ieee")
        x = tl.where(number == i, tl.sum(tl.reshape(x2, [TILE, GP, 2]), 2)[None, :, :], x)
    live = tl.broadcast_to((tl.arange(0, BP) < count)[:, None], [BP, GP])
    p, total, top, alpha = softmax_block(tl.reshape(x, [BP, GP]), m, c, live, True, BIAS)
    tiles = tl.reshape(p, [TILES, TILE, GP]).to(tl.float32)
    sums = ()
    for _v in tl.static_range(VN):
        sums = sums + (tl.zeros([VC, 2 * GP], tl.float32),)
    for i in tl.range(0, (count + TILE - 1) // TILE, num_stages=1):
        token = i * TILE + t
        # in bfloat16 the two parts hold the 11 bits of P exactly; in binary16 the first does
        weights = pair(tl.sum(tl.where(number == i, tiles, 0.0), 0), BFLOAT, INTERPRET)
        added = ()
        for v in tl.static_range(VN):
            inside = (token < count)[:, None] & (cd + VC * v < D)[None, :]
            bits = tl.load(values + start + token[:, None] * D + (cd + VC * v)[None, :], mask=inside, other=0)
            added = added + (
                tl.dot(tl.trans(operand(bits, BFLOAT, INTERPRET)), weights, sums[v], input_precision="ieee"),
            )
        sums = added
    joined = ()
    for v in tl.static_range(VN):
        acc = channel_order_rows(tl.sum(tl.reshape(sums[v], [VC, GP, 2]), 2), VC, GP)
        joined = joined + (tl.fma(o[v], tl.broadcast_to(alpha[None, :], [VC, GP]), acc),)
    return p, total, top, tl.fma(l, alpha, total), joined
