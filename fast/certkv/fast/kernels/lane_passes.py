"""The two passes over blocks of two-bit keys and of two-bit values, by the registers of a lane.

One warp, four query heads or fewer, 128 channels, blocks of 64 tokens, binary16, keys in groups of 32 tokens, values in
groups of 32 channels: the loops over blocks are half as long as those over tiles, 450 to 520 instructions each. On an
H200 a pass over 131,072 tokens took 60 us, and 78 over tiles.
"""
# ruff: noqa: RUF005 (Triton adds tuples)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.lane_blocks import (
    key_words,
    lane_output,
    lane_query,
    lane_scores,
    lane_values,
    value_words,
    words_of,
)
from certkv.fast.kernels.lanes import halves, per_lane, rounded_pair, sum_of_rows, top_of_rows
from certkv.fast.kernels.pass_state import store_four


@triton.jit
def executed_lanes(
    scores, m, c, weights, reference, statistics, at, norm, G: tl.constexpr, BIAS: tl.constexpr,
    STATISTICS: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Store weights of a block, their reference and statistics, from scores of `lane_scores`; return the reference.

    It does what `executed_weights` does, without l, which the second pass sums.
    """
    lane = tl.arange(0, 32)
    biggest = scores[0]
    for i in tl.static_range(1, 8):
        biggest = tl.maximum(biggest, scores[i])
    largest = top_of_rows(biggest)
    top = tl.maximum(m, largest * c - BIAS)
    to = words_of(weights) + at * 32 + lane // 4
    live = lane % 4 < G
    wide = ()
    for f in tl.static_range(4):
        x = tl.exp2(tl.fma(scores[2 * f], c, -top))
        y = tl.exp2(tl.fma(scores[2 * f + 1], c, -top))
        p = rounded_pair(x, y, INTERPRET)
        tl.store(to + 8 * f, p, mask=live)
        low, high = halves(p)
        wide = wide + (low.to(tl.float32), high.to(tl.float32))
    once = live & (lane < 4)
    tl.store(reference + at, top, mask=once)
    if STATISTICS:
        total = (wide[0] + wide[1]) + (wide[2] + wide[3])
        total += (wide[4] + wide[5]) + (wide[6] + wide[7])
        square = wide[0] * wide[0]
        for i in tl.static_range(1, 8):
            square = tl.fma(wide[i], wide[i], square)
        # the weight of a token with the largest score; another's may be a rounding of 2^ above it
        peak = tl.exp2(tl.fma(largest, c, -top)).to(tl.float16).to(tl.float32)
        found = (sum_of_rows(total), sum_of_rows(square), peak, norm)
        store_four(statistics + at * 4, found, once)
    return top


@triton.jit
def lane_key_pass(
    query, codes, steps, minima, norms, pages, weights, reference, statistics, scratch, stride, row, first, last,
    max_blocks, H: tl.constexpr, G: tl.constexpr, NORMS: tl.constexpr, BIAS: tl.constexpr, STATISTICS: tl.constexpr,
    INTERPRET: tl.constexpr
):  # fmt: skip
    """First pass, with the query of `load_grouped_query`; return m [4]."""
    c, norm = per_lane(query[3]), per_lane(query[4])
    whole, part = lane_query(query[0], query[1], scratch, stride, G)
    head = tl.arange(0, 32) % 4
    m = tl.full([32], float("-inf"), tl.float32)
    for block in tl.range(first, last, num_stages=1):
        page = tl.load(pages + block).to(tl.int64)
        place = page * H + row % H
        norm_row = place if NORMS == 2 else page
        scores = lane_scores(
            key_words(codes, place), steps, minima, norms, place, norm_row, whole, part, NORMS, INTERPRET
        )
        m = executed_lanes(
            scores, m, c, weights, reference, statistics, (row * max_blocks + block) * G + head, norm, G, BIAS,
            STATISTICS, INTERPRET,
        )  # fmt: skip
    return tl.max(tl.reshape(m, [8, 4]), 0)


@triton.jit
def lane_value_pass(
    codes, steps, minima, norms, pages, weights, reference, m, row, first, last, max_blocks, H: tl.constexpr,
    G: tl.constexpr, NOTES: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Second pass; return output [128, 4], channels in natural order, and the sum of P [4]."""
    m = per_lane(m)
    lane = tl.arange(0, 32)
    o = ()
    for _i in tl.static_range(16):
        o = o + (tl.zeros([32], tl.float32),)
    sums = tl.zeros([32], tl.float32)
    total = tl.zeros([32], tl.float32)
    # heads that are not there are copies of the last
    head, column = tl.minimum(lane % 4, G - 1), tl.minimum(lane // 8, G - 1)
    for block in tl.range(first, last, num_stages=1):
        place = tl.load(pages + block).to(tl.int64) * H + row % H
        at = (row * max_blocks + block) * G
        factor = tl.exp2(tl.load(reference + at + head) - m)
        words = value_words(codes, place)
        executed = words_of(weights) + (at + column) * 32
        o, sums, total = lane_values(
            words, steps, minima, norms + place * NOTES, place, executed, factor, o, sums, total, INTERPRET
        )
    return lane_output(o, sums, total)
