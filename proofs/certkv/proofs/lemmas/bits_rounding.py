"""Theorem ``rounding``: conversions and neighbours computed on bit patterns."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import (
    BF16,
    FP16,
    FP32,
    RNE,
    RTP,
    finite,
    floats,
    read,
    rounded,
    value,
    vector,
    widen,
)
from certkv.proofs.smt.lemma import Goal, Lemma

ALL = ("z3", "cvc5", "bitwuzla")
UPPER = 0xFFFF0000


def _up(*, bump: int = 0xFFFF) -> Goal:
    """Positive patterns are ordered as the numbers, so the next one with an empty lower half is the number above."""
    pattern = vector("pattern", 32)
    x, y = read(pattern, FP32), read((pattern + bump) & UPPER, FP32)
    positive = z3.Extract(31, 31, pattern) == 0
    return floats(y == widen(rounded(x, BF16, RTP), FP32), positive, finite(x))


def _nearest(*, tie: bool = True) -> Goal:
    """Half a unit less one, plus one where the last kept bit is odd: ties go to even. Both signs."""
    pattern = vector("pattern", 32)
    x = read(pattern, FP32)
    odd = z3.LShR(pattern, 16) & 1 if tie else z3.BitVecVal(1, 32)
    y = read((pattern + 0x7FFF + odd) & UPPER, FP32)
    return floats(y == widen(rounded(x, BF16, RNE), FP32), finite(x))


def _power(*, bump: int = 0x7FFFFF) -> Goal:
    """Least power of two that is not below a positive normal number (infinity above 2**127)."""
    pattern = vector("pattern", 32)
    up = (pattern + bump) & 0x7F800000
    x, power = read(pattern, FP32), read(up, FP32)
    below = read(up - 0x00800000, FP32)
    least = z3.And(z3.fpLEQ(x, power), z3.fpLT(below, x))
    return floats(least, z3.fpLT(value(2.0**-126, FP32), x), finite(x))


def successor(pattern: Any, width: int, *, negative_down: bool = True) -> Any:
    """``certkv.reference.numbers.next_up`` on a pattern that is no NaN and not +inf."""
    sign, one = z3.BitVecVal(1 << (width - 1), width), z3.BitVecVal(1, width)
    negative = pattern & sign != 0
    moved = z3.If(negative, pattern - one, pattern + one) if negative_down else pattern + one
    return z3.If(pattern & ~sign == 0, one, moved)


def _next_up(sort: Any, *, negative_down: bool = True) -> Goal:
    """Greater, and nothing between: no number z lies strictly between y and its successor."""
    width = sort.ebits() + sort.sbits()
    pattern, other = vector("pattern", width), vector("other", width)
    y, z = read(pattern, sort), read(other, sort)
    up = read(successor(pattern, width, negative_down=negative_down), sort)
    between = z3.And(z3.fpLT(y, z), z3.fpLT(z, up))
    top = value(float("inf"), sort)
    return floats(z3.And(z3.fpLT(y, up), z3.Not(between)), z3.Not(z3.fpIsNaN(y)), z3.fpLT(y, top))


LEMMAS = (
    Lemma(
        "rounding.bfloat16_up_on_bits",
        "x >= +0 finite in float32: (bits + 0xffff) & 0xffff0000 is x rounded up to bfloat16, overflow included",
        _up,
        partial(_up, bump=0x8000),
        ALL,
    ),
    Lemma(
        "rounding.bfloat16_nearest_on_bits",
        "x finite in float32: (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000 is x rounded to nearest even in bfloat16",
        _nearest,
        partial(_nearest, tie=False),
        ALL,
    ),
    Lemma(
        "rounding.power_of_two_up_on_bits",
        "x > 2^-126 finite in float32: (bits + 0x7fffff) & 0x7f800000 is the least power of two >= x",
        _power,
        partial(_power, bump=0x800000),
        ALL,
    ),
    Lemma(
        "rounding.next_up_float16",
        "next_up on patterns: y < next_up(y) and no float16 lies between",
        partial(_next_up, FP16),
        partial(_next_up, FP16, negative_down=False),
        ALL,
    ),
    Lemma(
        "rounding.next_up_float32",
        "next_up on patterns: y < next_up(y) and no float32 lies between",
        partial(_next_up, FP32),
        partial(_next_up, FP32, negative_down=False),
        ALL,
    ),
)
