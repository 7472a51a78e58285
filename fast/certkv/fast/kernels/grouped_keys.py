"""Scores of a block whose keys have a step and a minimum per channel and group of tokens, 2 or 4 bits.

With q~ the query (rotated where keys are), s and z of group g, n the tokens' norms (1 where there are none)::

    x_t = n_t ( sum_c (q~_c s_gc) code_tc + sum_c q~_c z_gc )

Codes are operands as they are (`certkv.fast.kernels.fields`), ``code F^f 2^-24`` in field f of a byte, F = 2^bits; what
they are too small by multiplies the finished sum, exactly. The query is brought to [32, 64) and cut in two binary16
parts h and r, of which the products with binary16 steps are again two::

    first = fp16(h s)      second = fp16(r s + (h s - first))

in columns side by side. With bfloat16 steps, products are rounded to binary32, brought below 2^15 per group, and cut in
two. ``sum q~ z`` is a dot product of the same parts with z, or a sum in binary32.

Tokens are in `parts` of RT rows: four, if the block is a power of two of at least 64 (a part is then a field of whole
rows of words); otherwise one, of which every token is read by itself.
"""
# ruff: noqa: RUF005, SIM108 (Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.fields import first_columns, key_fields, query_order, unstack
from certkv.fast.kernels.operands import pair, widen
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.rotation import rotate

PRODUCT: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a; mul.rn.f16x2 $0, $2, $3; neg.f16x2 a, $0; fma.rn.f16x2 a, $2, $3, a; fma.rn.f16x2 $1, $4, $3, a; }"
)
PRODUCT_REGISTERS: tl.constexpr = tl.constexpr("=&r,=&r,r,r,r")
TWO_HALVES: tl.constexpr = tl.constexpr((tl.float16, tl.float16))


@triton.jit
def load_grouped_query(
    q, base, sign, c2, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BFLOAT: tl.constexpr, ROTATED: tl.constexpr
):  # fmt: skip
    """Load the queries of a KV head, all channels in one tile.

    Returns two binary16 parts of q~, [DP, GP]; q~ in binary32; c2 over the power of two that q~ is scaled with; the sum
    of squares of the query before its rotation, in the units of `load_query`.
    """
    g = tl.arange(0, GP)
    ch = tl.arange(0, DP)
    live = (g < G)[:, None] & (ch < D)[None, :]
    x = widen(tl.load(q + base + g[:, None] * D + ch[None, :], mask=live, other=0), BFLOAT)
    shift = query_shift(tl.max(tl.abs(x), 1), BFLOAT)
    x = x * (power_of_two(shift) * sign)[:, None]
    squares = tl.sum(x * x, 1)
    if ROTATED:
        x = rotate(x, D)
    exponent = (tl.max(tl.abs(x), 1).to(tl.int32, bitcast=True) >> 23) - 127
    again = tl.minimum(tl.maximum(5 - exponent, -100), 100 - shift)
    x = tl.trans(x * power_of_two(again)[:, None])
    first = x.to(tl.float16)
    second = (x - first.to(tl.float32)).to(tl.float16)
    return first, second, x, c2 * power_of_two(-shift) * power_of_two(-again), squares


@triton.jit
def scaled_parts(first, second, step, INTERPRET: tl.constexpr):
    """Product of two parts of a query with steps, [DP, GP] and [DP], as two binary16 numbers."""
    s = tl.broadcast_to(step[:, None], first.shape)
    if INTERPRET:
        p = first * s
        left = first.to(tl.float64) * s.to(tl.float64) - p.to(tl.float64)
        r = (second.to(tl.float64) * s.to(tl.float64) + left.to(tl.float16).to(tl.float64)).to(tl.float16)
    else:
        p, r = tl.inline_asm_elementwise(
            PRODUCT, PRODUCT_REGISTERS, [first, s, second], dtype=TWO_HALVES, is_pure=True, pack=2
        )
    return p, r


@triton.jit
def key_operands(
    codes, place, token, there, D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr,
    NP: tl.constexpr, RT: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Codes of a block as operands [RT, DP], one per part of its tokens."""
    F: tl.constexpr = 8 // BITS
    R: tl.constexpr = (B + F - 1) // F
    w = tl.arange(0, DP // 4)
    base = codes + place * (R * (D // 4))
    operands = ()
    if NP == 4:
        r = tl.arange(0, RT)
        sets = ()
        for a in tl.static_range(4 // F):
            at = base + (r + RT * a)[:, None] * (D // 4) + w[None, :]
            if DP == D:
                word = tl.load(at)
            else:
                word = tl.load(at, mask=(w < D // 4)[None, :], other=0)
            sets = sets + (key_fields(word, BITS, INTERPRET),)
        for j in tl.static_range(F):
            for a in tl.static_range(4 // F):
                operands = operands + (sets[a][j],)
    else:
        at = base + (token % R)[:, None] * (D // 4) + w[None, :]
        word = tl.load(at, mask=there[:, None] & (w < D // 4)[None, :], other=0)
        LOW: tl.constexpr = 0x03030303 if BITS == 2 else 0x0F0F0F0F
        operands = key_fields((word >> (BITS * (token // R))[:, None]) & LOW, 8, INTERPRET)
    return operands


@triton.jit
def _power_of_field(p, F: tl.constexpr, BITS: tl.constexpr, NP: tl.constexpr):
    """``2^24`` over the power of two of the field that part p of the tokens is."""
    if NP == 1:
        power = 16777216.0
    else:
        power = 16777216.0 / (1 << (BITS * (p // (4 // F))))
    return power


@triton.jit
def grouped_offsets(
    minima, steps, place, first, second, query, D: tl.constexpr, DP: tl.constexpr, GP: tl.constexpr, NK: tl.constexpr,
    EXACT: tl.constexpr, BFLOAT: tl.constexpr, OFFSET: tl.constexpr
):  # fmt: skip
    """``sum q~ (z + OFFSET s)`` per group of tokens, NK tensors [8, GP] of equal rows."""
    ch = tl.arange(0, DP)
    offsets = ()
    if EXACT:
        for k in tl.static_range(NK):
            at = place * (NK * D) + k * D + ch
            z = widen(tl.load(minima + at, mask=ch < D, other=0), BFLOAT)
            if OFFSET > 0.0:
                z = tl.fma(widen(tl.load(steps + at, mask=ch < D, other=0), BFLOAT), OFFSET, z)
            # two short sums, not a long one
            total = tl.sum(tl.sum(tl.reshape(query * z[:, None], [8, DP // 8, GP]), 1), 0)
            offsets = offsets + (tl.broadcast_to(total[None, :], [8, GP]),)
    else:
        parts = tl.reshape(tl.join(first, second), [DP, 2 * GP])
        two = tl.arange(0, 2)
        for k in tl.static_range((NK + 1) // 2):
            group = tl.minimum(two + 2 * k, NK - 1)
            at = minima + place * (NK * D) + group[:, None] * D + ch[None, :]
            if DP == D:
                z = tl.load(at)
            else:
                z = tl.load(at, mask=(ch < D)[None, :], other=0)
            rows = tl.reshape(tl.broadcast_to(z[:, None, :], [2, 8, DP]), [16, DP])
            total = tl.sum(tl.reshape(tl.dot(rows, parts), [2, 8, GP, 2]), 3)
            even, odd = tl.split(tl.permute(total, (1, 2, 0)))
            offsets = offsets + (even, odd)
    return offsets


@triton.jit
def grouped_scores(
    codes, steps, minima, norms, place, norm_row, first, second, query, token, there, GP: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr, KGROUP: tl.constexpr, NORMS: tl.constexpr,
    NP: tl.constexpr, RT: tl.constexpr, BFLOAT: tl.constexpr, OFFSET: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Scores of a block's tokens, in units of the scaled query: NP tensors [RT, GP]."""
    F: tl.constexpr = 8 // BITS
    NK: tl.constexpr = (B + KGROUP - 1) // KGROUP
    W: tl.constexpr = DP // 4
    EXACT: tl.constexpr = BFLOAT or OFFSET > 0.0
    ch = tl.arange(0, DP)
    operands = key_operands(codes, place, token, there, D, DP, B, BITS, NP, RT, INTERPRET)
    offsets = grouped_offsets(minima, steps, place, first, second, query, D, DP, GP, NK, EXACT, BFLOAT, OFFSET)
    scores = ()
    whole = tl.zeros([RT, GP], tl.float32)
    for k in tl.static_range(NK):
        at = steps + place * (NK * D) + k * D + ch
        if DP == D:
            step = tl.load(at)
        else:
            step = tl.load(at, mask=ch < D, other=0)
        if BFLOAT:
            product = query * widen(step, True)[:, None]
            exponent = (tl.max(tl.abs(product), 0).to(tl.int32, bitcast=True) >> 23) - 127
            shift = tl.minimum(tl.maximum(14 - exponent, -120), 100)
            down = power_of_two(-shift)
            both = pair(product * power_of_two(shift)[None, :], False, INTERPRET)
        else:
            h, r = scaled_parts(first, second, step, INTERPRET)
            both = tl.reshape(tl.join(h, r), [DP, 2 * GP])
        both = query_order(both, W, 2 * GP)
        offset = tl.reshape(tl.broadcast_to(offsets[k][None, :, :], [RT // 8, 8, GP]), [RT, GP])
        for p in tl.static_range(NP):
            if NP == 1 or (p * RT) // KGROUP == k:
                y = tl.sum(tl.reshape(tl.dot(operands[p], both), [RT, GP, 2]), 2)
                if BFLOAT:
                    y = y * down[None, :]
                y = tl.fma(y, _power_of_field(p, F, BITS, NP), offset)
                if NP == 1:
                    whole = tl.where((token // KGROUP == k)[:, None], y, whole)
                else:
                    scores = scores + (y,)
    if NP == 1:
        scores = (whole,)
    if NORMS:
        normed = ()
        if NP == 4:
            n = unstack(
                tl.permute(tl.reshape(tl.load(norms + norm_row * B + tl.arange(0, B)), [4, 1, RT]), (2, 1, 0)), 4
            )
            for p in tl.static_range(4):
                normed = normed + (scores[p] * n[p],)
        else:
            n = tl.load(norms + norm_row * B + token, mask=there, other=0)
            normed = (scores[0] * n[:, None],)
        scores = normed
    return scores


@triton.jit
def store_query(packed, scratch, stride, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr):
    """Write the parts of `load_grouped_query` to memory, D numbers for every ``stride`` of G heads.

    Both halves of the channels are in `query_order`, each for itself: what comes from memory, and depends on a position
    by nothing else, comes in the order in which it is multiplied.
    """
    g = tl.arange(0, GP)
    ch = tl.arange(0, D)
    W: tl.constexpr = D // 8
    inside = ch % (4 * W)
    k = (inside // 4) % (W // 4) * 16 + inside // W * 4 + (inside % 2) * 2 + (inside // 2) % 2
    to = scratch.to(tl.pointer_type(tl.float16), bitcast=True) + g[None, :] * (2 * stride) + (ch - inside + k)[:, None]
    live = (g < G)[None, :] & (ch < D)[:, None]
    tl.store(to, packed[0], mask=live)
    tl.store(to + D, packed[1], mask=live)
    tl.debug_barrier()


@triton.jit
def half_scores(
    codes, steps, minima, place, half, scratch, stride, accs, offsets, G: tl.constexpr, GP: tl.constexpr,
    D: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr, KGROUP: tl.constexpr, RT: tl.constexpr,
    INTERPRET: tl.constexpr
):  # fmt: skip
    """Add one half of the channels to the sums of a block, four [RT, C] and one [16, C] per two groups of tokens."""
    F: tl.constexpr = 8 // BITS
    R: tl.constexpr = (B + F - 1) // F
    NK: tl.constexpr = (B + KGROUP - 1) // KGROUP
    C: tl.constexpr = max(8, GP)
    DH: tl.constexpr = D // 2
    W: tl.constexpr = DH // 4
    w = half * W + tl.arange(0, W)
    r = tl.arange(0, RT)
    k = tl.arange(0, DH)
    ch = half * DH + k
    head = tl.arange(0, C) // (C // GP)
    at = scratch.to(tl.pointer_type(tl.float16), bitcast=True) + head[None, :] * (2 * stride) + ch[:, None]
    if G == GP:
        first = tl.load(at)
        second = tl.load(at + D)
    else:
        live = tl.broadcast_to((head < G)[None, :], [DH, C])
        first = tl.load(at, mask=live, other=0)
        second = tl.load(at + D, mask=live, other=0)
    operands = ()
    sets = ()
    for a in tl.static_range(4 // F):
        word = tl.load(codes + place * (R * (D // 4)) + (r + RT * a)[:, None] * (D // 4) + w[None, :])
        sets = sets + (key_fields(word, BITS, INTERPRET),)
    for j in tl.static_range(F):
        for a in tl.static_range(4 // F):
            operands = operands + (sets[a][j],)
    two = tl.arange(0, 2)
    sums = ()
    for i in tl.static_range((NK + 1) // 2):
        group = tl.minimum(two + 2 * i, NK - 1)
        z = tl.load(minima + place * (NK * D) + group[:, None] * D + ch[None, :])
        z = tl.permute(tl.reshape(z, [2, 4, W // 4, 2, 2]), (0, 2, 1, 4, 3))
        rows = tl.reshape(tl.broadcast_to(tl.reshape(z, [2, 1, DH]), [2, 8, DH]), [16, DH])
        start = tl.where(half == 0, 0.0, offsets[i])
        sums = sums + (tl.dot(rows, first, tl.dot(rows, second, start)),)
    joined = ()
    for g in tl.static_range(NK):
        step = tl.load(steps + place * (NK * D) + g * D + ch)
        step = tl.reshape(tl.permute(tl.reshape(step, [4, W // 4, 2, 2]), (1, 0, 3, 2)), [DH])
        h, low = scaled_parts(first, second, step, INTERPRET)
        for p in tl.static_range(4):
            if (p * RT) // KGROUP == g:
                start = tl.where(half == 0, 0.0, accs[p])
                joined = joined + (tl.dot(operands[p], h, tl.dot(operands[p], low, start)),)
    return joined, sums


@triton.jit
def whole_scores(
    accs, offsets, n, GP: tl.constexpr, B: tl.constexpr, BITS: tl.constexpr, KGROUP: tl.constexpr, NORMS: tl.constexpr,
    RT: tl.constexpr
):  # fmt: skip
    """Scores from the sums of `half_scores` over both halves, and norms [B]: four tensors [RT, GP]."""
    C: tl.constexpr = max(8, GP)
    pairs = ()
    for i in tl.static_range(len(offsets)):
        total = first_columns(offsets[i], 16, GP, C)
        even, odd = tl.split(tl.permute(tl.reshape(total, [2, 8, GP]), (1, 2, 0)))
        pairs = pairs + (even, odd)
    if NORMS:
        norms = unstack(tl.permute(tl.reshape(n, [4, 1, RT]), (2, 1, 0)), 4)
    scores = ()
    for p in tl.static_range(4):
        offset = tl.broadcast_to(pairs[(p * RT) // KGROUP][None, :, :], [RT // 8, 8, GP])
        y = first_columns(accs[p], RT, GP, C)
        y = tl.fma(y, _power_of_field(p, 8 // BITS, BITS, 4), tl.reshape(offset, [RT, GP]))
        if NORMS:
            y = y * norms[p]
        scores = scores + (y,)
    return scores
