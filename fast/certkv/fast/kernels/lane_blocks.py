"""Two bits by the registers of a lane: scores and weighted values of blocks of 64 tokens, 128 channels, four heads.

The formulas, and every rounding, are those of `certkv.fast.kernels.grouped_keys` and `grouped_values`, with both parts
of a number in columns side by side: column 2 h + i is part i of head h, and a lane 4 r + x ends with both of head x.

    scores    rows are tokens, 2 r and 2 r + 1 of a field; k are channels, of word 16 (n / 4) + 4 x + n % 4 in step n
    values    rows are channels, of word 8 j + r in group j; k are tokens, 4 x to 4 x + 3 of a field in each step

So a lane loads what it needs of codes, steps and minima itself, in words that mostly follow each other.
"""
# ruff: noqa: RUF005 (Triton adds tuples)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.grouped_values import step_shift
from certkv.fast.kernels.lanes import (
    bytes_of,
    folded,
    load_four,
    mma,
    nothing,
    one_of,
    packed,
    scaled,
    times,
)
from certkv.fast.kernels.pass_state import power_of_two

LOW: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, 0, 0x4140;")
HIGH: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, 0, 0x4342;")
EVEN: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x5410;")
ODD: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x7632;")
ONES: tl.constexpr = tl.constexpr(0x3C003C00)
CHANNEL_0: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x4400;")
CHANNEL_1: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x5511;")
CHANNEL_2: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x6622;")
CHANNEL_3: tl.constexpr = tl.constexpr("prmt.b32 $0, $1, $2, 0x7733;")


@triton.jit
def words_of(x):
    """Pass pairs of binary16 numbers as words."""
    return x.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def lane_query(first, second, scratch, stride, G: tl.constexpr):
    """Parts of `load_grouped_query` to lanes: of their column, 16 words that scale and 16 that are scaled along.

    They go through memory, D numbers for every ``stride`` of G heads.
    """
    g = tl.arange(0, 4)
    ch = tl.arange(0, 128)
    to = scratch.to(tl.pointer_type(tl.float16), bitcast=True) + g[None, :] * (2 * stride) + ch[:, None]
    live = tl.broadcast_to((g < G)[None, :], [128, 4])
    tl.store(to, first, mask=live)
    tl.store(to + 128, second, mask=live)
    tl.debug_barrier()
    lane = tl.arange(0, 32)
    # heads that are not there are copies of the last
    head = tl.minimum(lane // 8, G - 1)
    odd = (lane // 4) % 2
    at = words_of(scratch) + head * stride + (lane % 4) * 8
    whole = ()
    part = ()
    for i in tl.static_range(4):
        x = load_four(at + (32 * (i // 2) + 4 * (i % 2)))
        y = load_four(at + odd * 64 + (32 * (i // 2) + 4 * (i % 2)))
        part = part + (y[0], y[1], y[2], y[3])
        whole = whole + (x[0] * odd, x[1] * odd, x[2] * odd, x[3] * odd)
    return whole, part


@triton.jit
def load_sixteen(at, NEXT: tl.constexpr):
    """Four times four words: at each lane's address and ``NEXT`` words on, and 32 on from both."""
    words = ()
    for i in tl.static_range(4):
        x = load_four(at + (32 * (i // 2) + NEXT * (i % 2)))
        words = words + (x[0], x[1], x[2], x[3])
    return words


@triton.jit
def key_words(codes, place):
    """Codes of a lane: of rows 2 r and 2 r + 1, eight words each."""
    lane = tl.arange(0, 32)
    return load_sixteen(codes + place * 512 + (lane // 4) * 64 + (lane % 4) * 4, 16)


@triton.jit
def lane_metadata(x, place, KGROUP: tl.constexpr):
    """Load steps or minima of a group of tokens, of a lane's channels: 16 words."""
    return load_sixteen(words_of(x) + place * 128 + KGROUP * 64 + (tl.arange(0, 32) % 4) * 8, 4)


@triton.jit
def in_field(a0, a1, a2, a3, FIELD: tl.constexpr):
    """Pairs of codes as operands: bits of one field of each byte of four words."""
    LOW_: tl.constexpr = 0x00030003 << (2 * FIELD)
    return a0 & LOW_, a1 & LOW_, a2 & LOW_, a3 & LOW_


@triton.jit
def lane_scores(
    words, steps, minima, norms, place, norm_row, whole, part, NORMS: tl.constexpr, INTERPRET: tl.constexpr
):
    """Scores of tokens ``16 f + 2 r + b`` and head x, at index ``2 f + b``; ``words`` are `key_words`."""
    lane = tl.arange(0, 32)
    first = lane_metadata(minima, place, 0)
    second = lane_metadata(minima, place, 1)
    offsets = nothing()
    for k in tl.static_range(8):
        operand = (first[2 * k], second[2 * k], first[2 * k + 1], second[2 * k + 1])
        offsets = mma(operand, part[2 * k], part[2 * k + 1], offsets, INTERPRET)
    scores = ()
    for g in tl.static_range(2):
        step = lane_metadata(steps, place, g)
        even = nothing()
        odd = nothing()
        for k in tl.static_range(8):
            b0 = scaled(whole[2 * k], part[2 * k], step[2 * k], INTERPRET)
            b1 = scaled(whole[2 * k + 1], part[2 * k + 1], step[2 * k + 1], INTERPRET)
            a0 = bytes_of(words[k], words[k], 0x8180, LOW, INTERPRET)
            a1 = bytes_of(words[8 + k], words[8 + k], 0x8180, LOW, INTERPRET)
            a2 = bytes_of(words[k], words[k], 0x8382, HIGH, INTERPRET)
            a3 = bytes_of(words[8 + k], words[8 + k], 0x8382, HIGH, INTERPRET)
            even = mma(in_field(a0, a1, a2, a3, 2 * g), b0, b1, even, INTERPRET)
            odd = mma(in_field(a0, a1, a2, a3, 2 * g + 1), b0, b1, odd, INTERPRET)
        offset = offsets[2 * g] + offsets[2 * g + 1]
        scores = scores + (
            tl.fma(even[0] + even[1], 16777216.0 / (1 << (4 * g)), offset),
            tl.fma(even[2] + even[3], 16777216.0 / (1 << (4 * g)), offset),
            tl.fma(odd[0] + odd[1], 4194304.0 / (1 << (4 * g)), offset),
            tl.fma(odd[2] + odd[3], 4194304.0 / (1 << (4 * g)), offset),
        )
    if NORMS:
        at = norms + norm_row * 64 + (lane // 4) * 2
        normed = ()
        for f in tl.static_range(4):
            n0, n1 = tl.split(tl.load(at[:, None] + 16 * f + tl.arange(0, 2)[None, :]))
            normed = normed + (scores[2 * f] * n0, scores[2 * f + 1] * n1)
        scores = normed
    return scores


@triton.jit
def value_words(codes, place):
    """Codes of a lane: of rows 4 x to 4 x + 3, a word of each group of channels."""
    lane = tl.arange(0, 32)
    at = codes + place * 512 + (lane % 4) * 128 + lane // 4
    words = ()
    for j in tl.static_range(4):
        for i in tl.static_range(4):
            words = words + (tl.load(at + i * 32 + j * 8),)
    return words


@triton.jit
def channel_pair(x, y, CHANNEL: tl.constexpr, INTERPRET: tl.constexpr):
    """Bytes of channel ``CHANNEL`` of two words, in halves."""
    if CHANNEL == 0:
        z = bytes_of(x, y, 0x4400, CHANNEL_0, INTERPRET)
    elif CHANNEL == 1:
        z = bytes_of(x, y, 0x5511, CHANNEL_1, INTERPRET)
    elif CHANNEL == 2:
        z = bytes_of(x, y, 0x6622, CHANNEL_2, INTERPRET)
    else:
        z = bytes_of(x, y, 0x7733, CHANNEL_3, INTERPRET)
    return z


@triton.jit
def lane_values(
    words, steps, minima, norms, place, weights, factor, o, sums, total, INTERPRET: tl.constexpr
):  # fmt: skip
    """Add a block times ``factor`` to output, sums of minima and sum of P.

    Parameters
    ----------
    words
        `value_words`.
    weights : pointer, int32
        P of the block, of the head of a lane's column.
    o : 16 tensors [32]
        Channel ``4 (8 j + r) + i`` of head x at index ``4 j + i``.
    sums, total : tensors [32]
        Of head x: of minima of group r % 4, and of P.
    """
    lane = tl.arange(0, 32)
    r = lane // 4
    shift = step_shift(tl.load(norms), False)
    power = power_of_two(shift)
    second = -(r % 2)
    upper = r % 2 == 1
    token = words_of(steps) + place * 128 + (lane % 4) * 8
    lowest = words_of(minima) + place * 128 + (lane % 4) * 8 + (r // 2) % 2
    field = power.to(tl.float16)
    fields = tl.full([32], 0, tl.int32) + packed(field, field)
    quarter = tl.full([32], 0x34003400, tl.int32)
    ones = tl.full([32], ONES, tl.int32)
    joined = nothing()
    p = ()
    whole = ()
    step = ()
    for f in tl.static_range(4):
        p0, p1 = tl.split(tl.load((weights + 8 * f + (lane % 4) * 2)[:, None] + tl.arange(0, 2)[None, :]))
        p = p + (p0, p1)
        whole = whole + (p0 & second, p1 & second)
        z0, z1 = tl.load(lowest + 32 * f), tl.load(lowest + 32 * f + 2)
        z2, z3 = tl.load(lowest + 32 * f + 4), tl.load(lowest + 32 * f + 6)
        low = one_of(z0, z1, upper, INTERPRET)
        high = one_of(z2, z3, upper, INTERPRET)
        joined = mma((low, ones, high, ones), p0, p1, joined, INTERPRET)
        x = load_four(token + 32 * f)
        y = load_four(token + 32 * f + 4)
        if f > 0:
            fields = times(fields, quarter, INTERPRET)
        for j in tl.static_range(2):
            s0 = times(bytes_of(x[j], x[2 + j], 0x5410, EVEN, INTERPRET), fields, INTERPRET)
            s1 = times(bytes_of(y[j], y[2 + j], 0x5410, EVEN, INTERPRET), fields, INTERPRET)
            s2 = times(bytes_of(x[j], x[2 + j], 0x7632, ODD, INTERPRET), fields, INTERPRET)
            s3 = times(bytes_of(y[j], y[2 + j], 0x7632, ODD, INTERPRET), fields, INTERPRET)
            step = step + (s0, s1, s2, s3)
    scale = factor * power_of_two(24 - shift)
    added = ()
    for j in tl.static_range(4):
        c = nothing()
        d = nothing()
        a = ()
        for i in tl.static_range(4):
            a = a + (
                channel_pair(words[4 * j], words[4 * j + 1], i, INTERPRET),
                channel_pair(words[4 * j + 2], words[4 * j + 3], i, INTERPRET),
            )
        for f in tl.static_range(4):
            b0 = folded(whole[2 * f], p[2 * f], step[8 * f + 2 * j], INTERPRET)
            b1 = folded(whole[2 * f + 1], p[2 * f + 1], step[8 * f + 2 * j + 1], INTERPRET)
            c = mma(in_field(a[0], a[2], a[1], a[3], f), b0, b1, c, INTERPRET)
            d = mma(in_field(a[4], a[6], a[5], a[7], f), b0, b1, d, INTERPRET)
        added = added + (
            tl.fma(c[0] + c[1], scale, o[4 * j]),
            tl.fma(c[2] + c[3], scale, o[4 * j + 1]),
            tl.fma(d[0] + d[1], scale, o[4 * j + 2]),
            tl.fma(d[2] + d[3], scale, o[4 * j + 3]),
        )
    return added, tl.fma(joined[0], factor, sums), tl.fma(joined[2], factor, total)


@triton.jit
def four_of(x):
    """Four tensors [32] to [32, 4]."""
    return tl.reshape(tl.join(tl.join(x[0], x[2]), tl.join(x[1], x[3])), [32, 4])


@triton.jit
def lane_output(o, sums, total):
    """Output with its sums of minima, channels in natural order, [128, 4]; and the sum of P [4]."""
    x0, x1 = four_of((o[0], o[1], o[2], o[3])), four_of((o[4], o[5], o[6], o[7]))
    x2, x3 = four_of((o[8], o[9], o[10], o[11])), four_of((o[12], o[13], o[14], o[15]))
    x = tl.join(tl.join(x0, x2), tl.join(x1, x3))
    # r, head, i, and j from its upper bit
    x = tl.permute(tl.reshape(x, [8, 4, 4, 4]), (3, 0, 2, 1))
    once = tl.max(tl.reshape(sums, [2, 4, 4]), 0)
    x = tl.reshape(x, [4, 32, 4]) + once[:, None, :]
    return tl.reshape(x, [128, 4]), tl.max(tl.reshape(total, [8, 4]), 0)
