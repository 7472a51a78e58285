"""Add up states of splits in a program of four warps: a warp's splits are its own, and a sum crosses the warps once.

    o = sum 2^(m_s - M) o_s     the same of terms; the largest of maxima

A warp's factors are held by its lanes, one ``exp2`` per split, and handed to the others as they are used.
"""
# ruff: noqa: RUF005 (Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.split_terms import HELD

WARPS = 4
"""Warps of a program, which is a head."""

AT_ONCE = 44
"""Splits that a warp reads at once, if it need not read more, of up to 128 channels: as many registers as there are."""

PARTS = tl.constexpr(WARPS)


@triton.jit
def sum_and_maximum(a, b, a2, b2):
    """Join a sum and a maximum."""
    return a + a2, tl.maximum(b, b2)


@triton.jit
def load_maxima(part_m, states, start, SPLITS: tl.constexpr, K: tl.constexpr, KP: tl.constexpr):
    """Load maxima [KP, warps]: K splits that follow each other are a warp's."""
    k = tl.arange(0, KP)
    split = start + tl.arange(0, PARTS)[None, :] * K + k[:, None]
    return tl.load(part_m + states + split, mask=(k < K)[:, None] & (split < SPLITS), other=float("-inf"))


@triton.jit
def load_states(
    part_m, part_terms, part_o, row, start, SPLITS: tl.constexpr, SC: tl.constexpr, CHUNKS: tl.constexpr,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ROUND: tl.constexpr
):  # fmt: skip
    """Load terms and their maxima, [SC, HELD] and [SC] each, and outputs, [lanes, warps, a lane's channels] each.

    Tiles are apart by constants, which loads have room for. Only tiles with splits that are not there are masked.
    """
    INNER: tl.constexpr = min(4, DP // 32)
    ONCE: tl.constexpr = SPLITS <= ROUND
    WHOLE: tl.constexpr = SPLITS > ROUND and SPLITS % ROUND == 0
    held = tl.arange(0, HELD)
    part = tl.arange(0, SC)
    of_maxima = part_m + row * (SPLITS + 1) + start + part
    of_terms = part_terms + (row * SPLITS + start) * HELD + (part[:, None] * HELD + held[None, :])
    warp = tl.arange(0, PARTS)
    channel = tl.arange(0, DP // INNER)[:, None] * INNER + tl.arange(0, INNER)[None, :]
    of_outputs = part_o + (row * (SPLITS + 1) + start) * D + (warp[None, :, None] * (K * D) + channel[:, None, :])
    maxima = ()
    terms = ()
    outputs = ()
    for chunk in tl.static_range(CHUNKS):
        if WHOLE or (ONCE and chunk * SC + SC <= SPLITS):
            maxima = maxima + (tl.load(of_maxima + chunk * SC),)
            terms = terms + (tl.load(of_terms + chunk * SC * HELD),)
        else:
            some = start + chunk * SC + part < SPLITS
            there = tl.broadcast_to(some[:, None], [SC, HELD])
            maxima = maxima + (tl.load(of_maxima + chunk * SC, mask=some, other=float("-inf")),)
            terms = terms + (tl.load(of_terms + chunk * SC * HELD, mask=there, other=0.0),)
    for k in tl.static_range(K):
        if D == DP and (WHOLE or (ONCE and ROUND - K + k < SPLITS)):
            outputs = outputs + (tl.load(of_outputs + k * D),)
        else:
            there = (start + warp * K + k < SPLITS)[None, :, None] & (channel < D)[:, None, :]
            outputs = outputs + (tl.load(of_outputs + k * D, mask=there, other=0.0),)
    return maxima, terms, outputs


@triton.jit
def add_states(o, sums, tops, own, maxima, terms, outputs, unit):
    """Add what `load_maxima` and `load_states` have read to tiles of sums, and to maxima."""
    factors = tl.exp2(own - unit)
    for k in tl.static_range(len(outputs)):
        # a lane of the warp has it
        factor = tl.gather(factors, tl.full([o.shape[0], PARTS], k, tl.int32), 0)[:, :, None]
        o = tl.fma(tl.broadcast_to(factor, o.shape), outputs[k], o)
    for chunk in tl.static_range(len(maxima)):
        factor = tl.exp2(maxima[chunk] - unit)[:, None]
        sums = tl.fma(tl.broadcast_to(factor, sums.shape), terms[chunk], sums)
        tops = tl.maximum(tops, terms[chunk])
    return o, sums, tops


@triton.jit
def by_warps(x):
    """Take what four warps hold, [N, 4], apart: a tensor [N] of each, after one exchange."""
    N: tl.constexpr = x.shape[0]
    even, odd = tl.split(tl.reshape(x, [N, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


def per_warp(splits: int, head_dim: int) -> int:
    """Return how many splits a warp reads at once."""
    most = AT_ONCE if head_dim <= 128 else AT_ONCE // 2
    whole = triton.cdiv(splits, WARPS)
    # rounds of a power of two mask nothing where splits are whole rounds
    return int(whole if whole <= most else 1 << (most.bit_length() - 1))
