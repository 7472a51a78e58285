"""The blocks of a split in two passes: executed weights of all of them, then their weighted values.

Long loops are fed to schedulers at a lower rate: on an H200, eight warps of mixed arithmetic ran 2.5 instructions per
cycle and multiprocessor in loops of 512, and 1.3 in loops of 1,024. Weights are written anyway, and what the second
pass reads of them lies in the nearest cache. In it a block's weights are multiplied with ``2^(reference - m)``, m the
maximum of the whole split, once. Two bits with four query heads take the shortest way (`lane_passes`)::

    first pass    P_t = fp16(2^(x_t - m_b))      m_b = max(m_b-1, max_t x_t - 14)
    second pass   o = sum_b 2^(m_b - m) sum_t P_t v_t      l = sum_b 2^(m_b - m) sum_t P_t
"""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.coded_block import channel_tiles, load_channel_values
from certkv.fast.kernels.grouped_keys import half_scores, load_grouped_query, store_query, whole_scores
from certkv.fast.kernels.grouped_values import grouped_block, natural_output
from certkv.fast.kernels.lane_passes import lane_key_pass, lane_value_pass
from certkv.fast.kernels.operands import channel_order_rows
from certkv.fast.kernels.pass_state import store_four
from certkv.fast.kernels.rotation import rotate
from certkv.fast.kernels.score_block import executed_weights, parts_of, score_block, token_of
from certkv.fast.pool import VALUE_NOTES

NOTES: tl.constexpr = tl.constexpr(len(VALUE_NOTES))


@triton.jit
def finished_output(
    o, sums, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, VC: tl.constexpr, GC: tl.constexpr,
    ROTATED: tl.constexpr
):  # fmt: skip
    """Sum of P, and output, turned back, as `store_state` takes them: the latter [VC, GP] each in `channel_order`."""
    x, l = natural_output(o, sums, GP, GC, DP // GC)
    return l, ordered_output(x, GP, D, DP, VC, ROTATED)


@triton.jit
def ordered_output(x, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, VC: tl.constexpr, ROTATED: tl.constexpr):
    """Turn output [DP, GP] back, and cut it in tiles [VC, GP] in `channel_order`."""
    if ROTATED:
        x = tl.trans(rotate(tl.trans(x), D))
    tiles = parts_of(x, DP // VC, VC, GP)
    ordered = ()
    for v in tl.static_range(DP // VC):
        ordered = ordered + (channel_order_rows(tiles[v], VC, GP),)
    return ordered


@triton.jit
def two_passes(
    q, sign, c2, query, c, key_codes, key_step, key_minimum, key_norm, value_codes, value_step, value_minimum,
    value_norms, page_table, weights, reference, statistics, part_o, row, split, states, first, last, max_blocks,
    H: tl.constexpr,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, VC: tl.constexpr, B: tl.constexpr,
    RP: tl.constexpr, NP: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr, NORMS: tl.constexpr,
    KEY_OFFSET: tl.constexpr, KEYS_ROTATED: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
    VALUE_OFFSET: tl.constexpr, VALUES_ROTATED: tl.constexpr, STAGES: tl.constexpr, HALVES: tl.constexpr,
    BFLOAT: tl.constexpr,
    BIAS: tl.constexpr,
    STATISTICS: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Attend to blocks from ``first`` to before ``last``; return m, l, o as `store_state` takes them."""
    LANES: tl.constexpr = HALVES and GP == 4 and B == 64
    LANE_KEYS: tl.constexpr = LANES and KEY_BITS == 2 and KEY_GROUP == 32
    LANE_VALUES: tl.constexpr = LANES and BITS == 2 and GROUP == 32 and VALUE_OFFSET == 0.0
    g = tl.arange(0, GP)
    pages = page_table + (row // H) * max_blocks
    token, there = token_of(tl.arange(0, 2 * RP), B, RP)
    inside = (g < G)[None, :] & there[:, None]
    m = tl.full([GP], float("-inf"), tl.float32)
    l = tl.zeros([GP], tl.float32)
    packed = (0,)
    if KEY_BITS < 8:
        packed = load_grouped_query(q, row * (G * D), sign, c2, G, GP, D, DP, BFLOAT, KEYS_ROTATED)
        c = packed[3]
    if LANE_KEYS:
        state = part_o + (row * G * states + split) * D
        m = lane_key_pass(
            packed, key_codes, key_step, key_minimum, key_norm, pages, weights, reference, statistics, state,
            states * D, row, first, last, max_blocks, H, G, NORMS, BIAS, STATISTICS, INTERPRET,
        )  # fmt: skip
    elif HALVES:
        # the state of this split is written last
        state = part_o + (row * G * states + split) * D
        store_query(packed, state, states * D, G, GP, D)
        RT: tl.constexpr = B // 4
        accs = ()
        offsets = ()
        for _p in tl.static_range(4):
            accs = accs + (tl.zeros([RT, max(8, GP)], tl.float32),)
        for _p in tl.static_range((B + 2 * KEY_GROUP - 1) // (2 * KEY_GROUP)):
            offsets = offsets + (tl.zeros([16, max(8, GP)], tl.float32),)
        for i in tl.range(first * 2, last * 2, num_stages=STAGES):
            block = i // 2
            page = tl.load(pages + block).to(tl.int64)
            place = page * H + row % H
            accs, offsets = half_scores(
                key_codes, key_step, key_minimum, place, i % 2, state, states * D, accs, offsets, G, GP, D, B, KEY_BITS,
                KEY_GROUP, RT, INTERPRET,
            )  # fmt: skip
            n = 0.0
            if NORMS:
                n = tl.load(key_norm + (place if NORMS == 2 else page) * B + tl.arange(0, B))
            if i % 2 == 1:
                scores = whole_scores(accs, offsets, n, GP, B, KEY_BITS, KEY_GROUP, NORMS, RT)
                p, m, l, found = executed_weights(scores, token, there, m, l, c, GP, B, 4, RT, BIAS, STATISTICS)
                at = (row * max_blocks + block) * G + g
                tl.store(weights + at[None, :] * B + token[:, None], p, mask=inside)
                tl.store(reference + at, m, mask=g < G)
                if STATISTICS:
                    store_four(statistics + at * 4, (found[0], found[1], found[2], packed[4]), g < G)
    else:
        for block in tl.range(first, last, num_stages=STAGES):
            page = tl.load(pages + block).to(tl.int64)
            place = page * H + row % H
            norm_row = place if NORMS == 2 else page
            p, m, l, found = score_block(
                key_codes, key_step, key_minimum, key_norm, place, norm_row, query, packed, c, m, l, G, GP, D, DP, B,
                RP, NP, KEY_BITS, KEY_GROUP, NORMS, KEY_OFFSET, BFLOAT, BIAS, STATISTICS, INTERPRET,
            )  # fmt: skip
            at = (row * max_blocks + block) * G + g
            tl.store(weights + at[None, :] * B + token[:, None], p, mask=inside)
            tl.store(reference + at, m, mask=g < G)
            if STATISTICS:
                store_four(statistics + at * 4, found, g < G)
    # what one thread of the program has stored another one reads
    tl.debug_barrier()
    l = tl.zeros([GP], tl.float32)
    o = ()
    if LANE_VALUES:
        x, l = lane_value_pass(
            value_codes, value_step, value_minimum, value_norms, pages, weights, reference, m, row, first, last,
            max_blocks, H, G, NOTES, INTERPRET,
        )  # fmt: skip
        o = ordered_output(x, GP, D, DP, VC, VALUES_ROTATED)
    elif GROUP == 0:
        for _v in tl.static_range((D + VC - 1) // VC):
            o = o + (tl.zeros([VC, GP], tl.float32),)
        for block in tl.range(first, last, num_stages=STAGES):
            place = tl.load(pages + block).to(tl.int64) * H + row % H
            at = (row * max_blocks + block) * G + g
            p = tl.load(weights + at[None, :] * B + token[:, None], mask=inside, other=0)
            factor = tl.exp2(tl.load(reference + at, mask=g < G, other=0) - m)
            loaded = load_channel_values(value_codes, place, D, VC, B, RP, BITS)
            total = tl.sum(p.to(tl.float32), 0)
            tiles = channel_tiles(
                loaded, value_step, value_minimum, place, p, total, GP, D, VC, 2 * RP, BITS,
                BFLOAT, INTERPRET,
            )  # fmt: skip
            joined = ()
            for v in tl.static_range((D + VC - 1) // VC):
                joined = joined + (tl.fma(tiles[v], tl.broadcast_to(factor[None, :], [VC, GP]), o[v]),)
            o = joined
            l = tl.fma(total, factor, l)
    else:
        GC: tl.constexpr = GROUP if GROUP < DP else DP
        for _v in tl.static_range(DP // GC):
            o = o + (tl.zeros([GC, GP], tl.float32),)
        sums = tl.zeros([16, GP], tl.float32)
        for block in tl.range(first, last, num_stages=STAGES):
            place = tl.load(pages + block).to(tl.int64) * H + row % H
            at = (row * max_blocks + block) * G + g
            factor = tl.exp2(tl.load(reference + at, mask=g < G, other=0) - m)
            o, sums = grouped_block(
                value_codes, value_step, value_minimum, value_norms + place * NOTES, place, weights, at * B, factor, o,
                sums, G, GP, D, DP, B, BITS, GROUP, BFLOAT, VALUE_OFFSET, INTERPRET,
            )  # fmt: skip
        l, o = finished_output(o, sums, GP, D, DP, VC, GC, VALUES_ROTATED)
    return m, l, o
