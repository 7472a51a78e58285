"""Theorem ``rounding``: the conversions of the reference are correctly rounded, for every float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.bits_rounding import successor
from certkv.proofs.lemmas.floats_terms import (
    BF16,
    FP16,
    FP32,
    FP64,
    RNE,
    RTN,
    RTP,
    brain,
    chain,
    constant,
    exact,
    finite,
    floats,
    half,
    read,
    rounded,
    value,
    vector,
    widen,
)
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import real, reals

ALL = ("z3", "cvc5", "bitwuzla")


def _up(sort: Any, *, corrected: bool = True) -> Goal:
    """``round_up``: the nearest number, or its successor where that is too low; +inf and -0 included."""
    width = sort.ebits() + sort.sbits()
    x, pattern = constant("x", FP64), vector("nearest", width)
    nearest = rounded(x, sort)
    too_low = z3.fpLT(widen(nearest, FP64), x)
    bumped = read(successor(pattern, width), sort)
    result = z3.If(too_low, bumped, nearest) if corrected else nearest
    return floats(result == rounded(x, sort, RTP), z3.Not(z3.fpIsNaN(x)), read(pattern, sort) == nearest)


def _down(sort: Any, *, negated: bool = True) -> Goal:
    """``round_down(x) = -round_up(-x)``."""
    x = constant("x", FP64)
    up = rounded(z3.fpNeg(x) if negated else x, sort, RTP)
    return floats(z3.fpNeg(up) == rounded(x, sort, RTN), z3.Not(z3.fpIsNaN(x)))


def _odd(*, sticky: bool = True) -> Goal:
    """``round_nearest`` to bfloat16: to float32 toward zero with a sticky last bit, then to nearest."""
    x, pattern = constant("x", FP64), vector("pattern", 32)
    nearest = rounded(x, FP32)
    back = widen(nearest, FP64)
    toward_zero = z3.If(z3.fpLT(z3.fpAbs(x), z3.fpAbs(back)), pattern - 1, pattern)
    one = z3.If(z3.fpEQ(back, x), z3.BitVecVal(0, 32), z3.BitVecVal(1, 32))
    result = rounded(read(toward_zero | one if sticky else pattern, FP32), BF16)
    return floats(result == rounded(x, BF16), z3.Not(z3.fpIsNaN(x)), read(pattern, FP32) == nearest)


def _nearest_monotone(*, strict: bool = True) -> Goal:
    """Nearest points of any set, whichever way ties go: r of x, s of y. Holds for every format at once."""
    x, y, r, s = reals("x y r s")
    distance = (x - r) * (x - r) <= (x - s) * (x - s)
    return real(r <= s, x < y if strict else x <= y, distance, (y - s) * (y - s) <= (y - r) * (y - r))


def _monotone(sort: Any, *, ordered: bool = True) -> Goal:
    """Order survives one conversion, ties to even, infinities included."""
    x, y = constant("x", FP64), constant("y", FP64)
    order = chain(x, y) if ordered else chain(z3.fpAbs(x), z3.fpAbs(y))
    return floats(chain(rounded(x, sort), rounded(y, sort)), order)


def _upper(*, mode: Any = RTP) -> Goal:
    """Store an annotation: it stays an upper bound."""
    x = constant("x", FP32)
    return floats(chain(x, widen(rounded(x, FP16, mode), FP32)), z3.Not(z3.fpIsNaN(x)))


def _relative(sort: Any, least: float, most: float, u: float) -> Goal:
    """Positive numbers from `least` on; `u` is a power of two, so ``u x`` is exact; differences are rounded up."""
    x = constant("x", FP32)
    y = widen(rounded(x, sort), FP32)
    error = z3.fpAbs(z3.If(z3.fpLT(x, y), z3.fpSub(RTP, y, x), z3.fpSub(RTP, x, y)))
    return floats(
        z3.fpLEQ(error, z3.fpMul(RTN, value(u, FP32), x)), z3.fpLEQ(value(least, FP32), x), chain(x, value(most, FP32))
    )


def _rint(*, constant_bits: int = 23) -> Goal:
    """Adding ``1.5 * 2**23`` leaves no fraction bits, and subtracting it is exact."""
    x, c = constant("x", FP32), value(1.5 * 2.0**constant_bits, FP32)
    plain = z3.fpSub(RNE, z3.fpAdd(RNE, x, c), c)
    return floats(z3.fpEQ(plain, z3.fpRoundToIntegral(RNE, x)), chain(z3.fpAbs(x), value(2.0**22, FP32)))


def _product_half(*, sort: Any = FP32) -> Goal:
    """11 + 11 significant bits, exponents far inside binary32. Infinite operands give infinities, NaN excluded."""
    a, b = half("a"), half("b")
    if not sort.eq(FP32):
        a, b = rounded(a, sort), rounded(b, sort)
    return floats(exact(z3.fpMul, a, b), finite(a), finite(b))


def _product_brain(*, exponent: int = 60) -> Goal:
    """8 + 8 significant bits; the exponents must stay inside binary32, subnormals included."""
    a, b = brain("a"), brain("b")
    low, high = value(2.0**-exponent, FP32), value(2.0**exponent, FP32)
    return floats(exact(z3.fpMul, a, b), chain(low, z3.fpAbs(a), high), chain(low, z3.fpAbs(b), high))


def _product_double(*, sort: Any = FP64) -> Goal:
    """In float64 no exponent of bfloat16 is too far out."""
    a, b = widen(brain("a"), FP64), widen(brain("b"), FP64)
    if not sort.eq(FP64):
        a, b = rounded(a, sort), rounded(b, sort)
    return floats(exact(z3.fpMul, a, b), finite(a), finite(b))


def _ordered(*, positive: bool = True) -> Goal:
    """Monotone patterns: the definition of "next" by adding 1 rests on it."""
    a, b = vector("a", 16), vector("b", 16)
    x, y = read(a, FP16), read(b, FP16)
    signs = [z3.Extract(15, 15, p) == 0 for p in (a, b)] if positive else []
    numbers = [z3.Not(z3.fpIsNaN(v)) for v in (x, y)]
    return floats(z3.ULT(a, b) == z3.fpLT(x, y), *signs, *numbers)


def _sixteen(name: str, sort: Any, u: float, least: float, most: float) -> Lemma:
    return Lemma(
        f"rounding.relative_{name}",
        f"float32 x from {least:g} to the largest {name}: |rne(x) - x| <= {u:g} x",
        partial(_relative, sort, least, most, u),
        partial(_relative, sort, least, most, u / 2),
        ALL,
    )


LEMMAS = (
    *[
        Lemma(
            f"rounding.up_{name}",
            f"every float64 x but NaN: nearest {name}, its successor where too low, is x rounded up",
            partial(_up, sort),
            partial(_up, sort, corrected=False),
            ALL,
            sort is not FP32,
        )
        for name, sort in (("float16", FP16), ("bfloat16", BF16), ("float32", FP32))
    ],
    *[
        Lemma(
            f"rounding.down_{name}",
            f"every float64 x but NaN: minus (-x rounded up) is x rounded down to {name}",
            partial(_down, sort),
            partial(_down, sort, negated=False),
            ALL,
        )
        for name, sort in (("float16", FP16), ("bfloat16", BF16), ("float32", FP32))
    ],
    Lemma(
        "rounding.odd_then_bfloat16",
        "every float64 x but NaN: to float32 toward zero, last bit sticky, then to nearest bfloat16 is one rounding",
        _odd,
        partial(_odd, sticky=False),
        ALL,
    ),
    Lemma(
        "rounding.nearest_monotone",
        "real x < y, r nearest to x and s nearest to y in any set of numbers: r <= s",
        _nearest_monotone,
        partial(_nearest_monotone, strict=False),
    ),
    *[
        Lemma(
            f"rounding.monotone_{name}",
            f"float64 x <= y: rne(x) <= rne(y) in {name}, infinities included",
            partial(_monotone, sort),
            partial(_monotone, sort, ordered=False),
            ALL,
            sort is not FP32,
        )
        for name, sort in (("float16", FP16), ("bfloat16", BF16), ("float32", FP32))
    ],
    Lemma(
        "rounding.up_is_upper",
        "float32 x but NaN, rounded up to float16, is >= x",
        _upper,
        partial(_upper, mode=RNE),
        ALL,
    ),
    _sixteen("float16", FP16, 2.0**-11, 2.0**-14, 65504.0),
    _sixteen("bfloat16", BF16, 2.0**-8, 2.0**-100, (2.0 - 2.0**-7) * 2.0**127),
    Lemma(
        "rounding.rint_by_constant",
        "float32 |x| <= 2^22: (x + 12582912) - 12582912 is x rounded to the nearest integer, ties to even",
        _rint,
        partial(_rint, constant_bits=22),
        ALL,
        False,
    ),
    Lemma(
        "rounding.float16_product_exact",
        "finite float16 a, b: a b is exact in float32",
        _product_half,
        partial(_product_half, sort=FP16),
        ALL,
    ),
    Lemma(
        "rounding.bfloat16_product_exact",
        "bfloat16 2^-60 <= |a|, |b| <= 2^60: a b is exact in float32",
        _product_brain,
        partial(_product_brain, exponent=80),
        ALL,
    ),
    Lemma(
        "rounding.bfloat16_product_float64",
        "finite bfloat16 a, b: a b is exact in float64",
        _product_double,
        partial(_product_double, sort=FP32),
        ALL,
    ),
    Lemma(
        "rounding.patterns_are_ordered",
        "float16 without sign: a < b as patterns exactly if a < b as numbers",
        _ordered,
        partial(_ordered, positive=False),
        ALL,
    ),
)
