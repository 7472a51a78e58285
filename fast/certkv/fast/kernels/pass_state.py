"""What attend and the exact head share: the query as operands, the online softmax in bits, one block of originals."""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.operands import channel_order_rows, operand, pair, widen


@triton.jit
def query_shift(largest, BFLOAT: tl.constexpr):
    """Return the k of the power of two 2^k that brings a head's largest number to [32, 64).

    In binary16 never down, so that no bit of the query is lost; a product beyond 65504 then becomes infinite.
    """
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127
    return tl.minimum(tl.maximum(5 - exponent, -120 if BFLOAT else 0), 100)


@triton.jit
def power_of_two(k):
    """``2^k`` for k from -126 to 127."""
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def load_query(q, base, sign, c2, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BFLOAT: tl.constexpr):
    """Load the queries of a KV head, [64, GP] per 64 channels, times a power of two each: the largest is in [32, 64).

    ``sign`` is that of the scale. Returns the parts in binary32, c2 over that power of two, and the largest numbers.
    """
    KC: tl.constexpr = (D + 63) // 64
    g = tl.arange(0, GP)
    ch = tl.arange(0, 64)
    largest = tl.zeros([GP], tl.float32)
    parts = ()
    for k in tl.static_range(KC):
        live = (g < G)[None, :] & (ch + 64 * k < D)[:, None]
        x = widen(tl.load(q + base + g[None, :] * D + (ch + 64 * k)[:, None], mask=live, other=0), BFLOAT)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 0))
        parts = parts + (x,)
    shift = query_shift(largest, BFLOAT)
    up = power_of_two(shift) * sign
    scaled = ()
    for k in tl.static_range(KC):
        scaled = scaled + (parts[k] * up[None, :],)
    return scaled, c2 * power_of_two(-shift), largest


@triton.jit
def softmax_tile(x, m, c, live, MASKED: tl.constexpr, BIAS: tl.constexpr):
    """As `softmax_block`; returns the largest x, too, of which P is the largest but for the rounding of 2^."""
    if MASKED:
        x = tl.where(live, x, float("-inf"))
    largest = tl.max(x, 0)
    top = tl.maximum(m, largest * c - BIAS)
    if MASKED:
        x = tl.where(live, x, 0.0)
    exponent = tl.fma(x, tl.broadcast_to(c[None, :], x.shape), tl.broadcast_to(-top[None, :], x.shape))
    p = tl.exp2(exponent).to(tl.float16)
    if MASKED:
        p = tl.where(live, p, 0.0)
    return p, tl.sum(p.to(tl.float32), 0), top, tl.exp2(m - top), largest


@triton.jit
def softmax_block(x, m, c, live, MASKED: tl.constexpr, BIAS: tl.constexpr):
    """One tile of the online softmax: ``m' = max(m, fl(fl(max x c) - BIAS))``, ``P = fp16(2^(x c - m'))``.

    Returns P, the sum of P, m' and ``2^(m - m')``. m' is the number that all later arithmetic uses.
    """
    p, total, top, alpha, _ = softmax_tile(x, m, c, live, MASKED, BIAS)
    return p, total, top, alpha


@triton.jit
def exact_block(
    keys,
    values,
    start,
    count,
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
    BFLOAT: tl.constexpr,
    BIAS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Attend to the first ``count`` > 0 tokens of a block of originals that starts at element ``start``."""
    KC: tl.constexpr = (D + 63) // 64
    BP: tl.constexpr = 2 * RP
    t = tl.arange(0, BP)
    ch = tl.arange(0, 64)
    x2 = tl.zeros([BP, 2 * GP], tl.float32)
    for k in tl.static_range(KC):
        inside = (t < count)[:, None] & (ch + 64 * k < D)[None, :]
        bits = tl.load(keys + start + t[:, None] * D + (ch + 64 * k)[None, :], mask=inside, other=0)
        x2 = tl.dot(operand(bits, BFLOAT, INTERPRET), pair(query[k], BFLOAT, INTERPRET), x2, input_precision="ieee")
    x = tl.sum(tl.reshape(x2, [BP, GP, 2]), 2)
    live = tl.broadcast_to((t < count)[:, None], [BP, GP])
    p, total, top, alpha = softmax_block(x, m, c, live, True, BIAS)
    # in bfloat16 the two parts hold the 11 bits of P exactly; in binary16 the first does
    weights = pair(p.to(tl.float32), BFLOAT, INTERPRET)
    joined = ()
    cd = tl.arange(0, VC)
    for v in tl.static_range((D + VC - 1) // VC):
        inside = (t < count)[:, None] & (cd + VC * v < D)[None, :]
        bits = tl.load(values + start + t[:, None] * D + (cd + VC * v)[None, :], mask=inside, other=0)
        acc2 = tl.dot(tl.trans(operand(bits, BFLOAT, INTERPRET)), weights, input_precision="ieee")
        acc = channel_order_rows(tl.sum(tl.reshape(acc2, [VC, GP, 2]), 2), VC, GP)
        joined = joined + (tl.fma(o[v], tl.broadcast_to(alpha[None, :], [VC, GP]), acc),)
    return p, top, tl.fma(l, alpha, total), joined


@triton.jit
def store_four(to, x, live):
    """Write four numbers that follow each other, each a tensor like ``to``."""
    for i in tl.static_range(4):
        tl.store(to + i, x[i], mask=live)


@triton.jit
def store_state(
    part_m,
    part_l,
    part_o,
    row,
    split,
    states,
    live,
    m,
    l,
    o,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    VC: tl.constexpr,
):
    """Write the state of one split of ``states``, for query heads that are live."""
    at = (row * G + tl.arange(0, GP)) * states + split
    tl.store(part_m + at, m, mask=live)
    tl.store(part_l + at, l, mask=live)
    order = tl.reshape(tl.permute(tl.reshape(tl.arange(0, VC), [8, VC // 8]), (1, 0)), [VC])
    for v in tl.static_range((D + VC - 1) // VC):
        channel = order + VC * v
        tl.store(part_o + at[None, :] * D + channel[:, None], o[v], mask=live[None, :] & (channel < D)[:, None])
