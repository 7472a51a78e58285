"""Executed weights of one coded block, of any key format: scores, and the online softmax.

A block's tokens are handled in NP parts of RT rows, four if the block is a power of two of at least 64, else one; part
p, row r is the token at ``p RT + r`` in the order of `token_of`.
"""
# ruff: noqa: E741, RUF005, SIM108 (l is the softmax state's name; Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.coded_block import key_scores
from certkv.fast.kernels.fields import stack, unstack
from certkv.fast.kernels.grouped_keys import grouped_scores
from certkv.fast.kernels.pass_state import softmax_block


@triton.jit
def token_of(i, B: tl.constexpr, RP: tl.constexpr):
    """Tokens at positions of a tile, and which of them there are."""
    R: tl.constexpr = (B + 1) // 2
    token = (i // RP) * R + i % RP
    return token, (i % RP < R) & (token < B)


@triton.jit
def parts_of(x, NP: tl.constexpr, RT: tl.constexpr, GP: tl.constexpr):
    """Cut [NP RT, GP] in NP tensors [RT, GP]."""
    return unstack(tl.permute(tl.reshape(x, [NP, RT, GP]), (1, 2, 0)), NP)


@triton.jit
def softmax_parts(scores, m, c, NP: tl.constexpr, BIAS: tl.constexpr):
    """As `softmax_block`, for scores in parts, all of which are there; returns P in parts, m' and ``2^(m - m')``."""
    biggest = scores[0]
    for i in tl.static_range(1, NP):
        biggest = tl.maximum(biggest, scores[i])
    top = tl.maximum(m, tl.max(biggest, 0) * c - BIAS)
    weights = ()
    for i in tl.static_range(NP):
        x = scores[i]
        exponent = tl.fma(x, tl.broadcast_to(c[None, :], x.shape), tl.broadcast_to(-top[None, :], x.shape))
        weights = weights + (tl.exp2(exponent).to(tl.float16),)
    return weights, top, tl.exp2(m - top)


@triton.jit
def executed_weights(
    scores, token, there, m, l, c, GP: tl.constexpr, B: tl.constexpr, NP: tl.constexpr, RT: tl.constexpr,
    BIAS: tl.constexpr, STATISTICS: tl.constexpr
):  # fmt: skip
    """Softmax of a block's scores, NP tensors [RT, GP]: P [NP RT, GP], m', l, and sum, sum of squares, largest of P."""
    BP: tl.constexpr = NP * RT
    FULL: tl.constexpr = BP == B
    if NP == 1:
        live = tl.broadcast_to(there[:, None], [BP, GP])
        p, total, top, alpha = softmax_block(scores[0], m, c, live, not FULL, BIAS)
        wide = (p.to(tl.float32),)
    else:
        weights, top, alpha = softmax_parts(scores, m, c, NP, BIAS)
        wide = ()
        for i in tl.static_range(NP):
            wide = wide + (weights[i].to(tl.float32),)
        total = tl.sum((wide[0] + wide[1]) + (wide[2] + wide[3]), 0)
        p = stack(weights, NP)
    squares = tl.zeros([GP], tl.float32)
    peak = tl.zeros([GP], tl.float32)
    if STATISTICS:
        square = wide[0] * wide[0]
        big = wide[0]
        for i in tl.static_range(1, NP):
            square += wide[i] * wide[i]
            big = tl.maximum(big, wide[i])
        squares = tl.sum(square, 0)
        peak = tl.max(big, 0)
    return p, top, tl.fma(l, alpha, total), (total, squares, peak)


@triton.jit
def score_block(
    key_codes, key_step, key_minimum, key_norm, place, norm_row, query, packed, c, m, l, G: tl.constexpr,
    GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr,
    KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr, NORMS: tl.constexpr, KEY_OFFSET: tl.constexpr,
    BFLOAT: tl.constexpr, BIAS: tl.constexpr, STATISTICS: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """Weights of the coded block of one KV head at ``place = page * H + head``; its norms are at ``norm_row``.

    ``query`` are the parts of `load_query`, for int8 keys, ``packed`` what `load_grouped_query` returned, for others.
    Returns P [BP, GP], m', l and the block's statistics, as `coded_block` does.
    """
    BP: tl.constexpr = 2 * RP
    RT: tl.constexpr = BP // NP
    FULL: tl.constexpr = BP == B
    token, there = token_of(tl.arange(0, BP), B, RP)
    if KEY_BITS == 8:
        at = key_codes + place * (B * D // 4) + token[:, None] * (D // 4) + tl.arange(0, 16)[None, :]
        x, norm = key_scores(
            at, key_step + place * D, key_minimum + place * D, query, there[:, None], GP, D, BP, FULL, BFLOAT,
            STATISTICS, INTERPRET,
        )  # fmt: skip
        if NP == 1:
            scores = (x,)
        else:
            scores = parts_of(x, NP, RT, GP)
    else:
        norm = packed[4]
        scores = grouped_scores(
            key_codes, key_step, key_minimum, key_norm, place, norm_row, packed[0], packed[1], packed[2], token, there,
            GP, D, DP, B, KEY_BITS, KEY_GROUP, NORMS, NP, RT, BFLOAT, KEY_OFFSET, INTERPRET,
        )  # fmt: skip
    p, top, l, found = executed_weights(scores, token, there, m, l, c, GP, B, NP, RT, BIAS, STATISTICS)
    return p, top, l, (found[0], found[1], found[2], norm)
