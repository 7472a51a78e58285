"""Theorem ``affine`` in IEEE semantics: what `certkv.reference.formats.affine.quantize` computes, step by step.

Each goal is written in the order of operations of `quantize`, in binary32, for originals of both 16-bit types.
``h`` is the computed half range, ``d`` the computed half of x - lo, ``step`` the stored step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import (
    FP32,
    FP64,
    RNE,
    RTN,
    RTP,
    TYPES,
    chain,
    constant,
    exact,
    finite,
    floats,
    rounded,
    signed,
    stored_up,
    unsigned,
    value,
    vector,
    widen,
)
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals

ALL = ("z3", "cvc5", "bitwuzla")
LEAST = {"float16": 2.0**-24, "bfloat16": 2.0**-133}
LARGEST = {"float16": 65504.0, "bfloat16": (2.0 - 2.0**-7) * 2.0**127}
ZERO = value(0, FP32)


def _half(x: Any) -> Any:
    return z3.fpMul(RNE, value(0.5, FP32), x)


def _step32(h: Any, levels: int) -> Any:
    return z3.fpDiv(RNE, h, value(levels / 2, FP32))


def _code(d: Any, step: Any) -> Any:
    """Code before clamping, as a float."""
    return z3.fpRoundToIntegral(RNE, z3.fpDiv(RNE, d, _half(step)))


def _halving(kind: str, *, factor: float = 0.5) -> Goal:
    """Halves of 16-bit numbers are numbers of binary32."""
    x = TYPES[kind][0]("x")
    return floats(exact(z3.fpMul, value(factor, FP32), x), finite(x))


def _half_range(kind: str, *, ordered: bool = True) -> Goal:
    """``0 <= h < inf``, and h = 0 only where hi = lo. With x for hi it says the same of d."""
    lo, hi = (TYPES[kind][0](name) for name in ("lo", "hi"))
    h = z3.fpSub(RNE, _half(hi), _half(lo))
    facts = [chain(ZERO, h), finite(h), z3.fpEQ(h, ZERO) == z3.fpEQ(lo, hi)]
    return floats(z3.And(facts), finite(lo), finite(hi), *([chain(lo, hi)] if ordered else []))


def _ordered(kind: str, *, inside: bool = True) -> Goal:
    """``d <= h``."""
    x, lo, hi = (TYPES[kind][0](name) for name in ("x", "lo", "hi"))
    d, h = z3.fpSub(RNE, _half(x), _half(lo)), z3.fpSub(RNE, _half(hi), _half(lo))
    return floats(chain(d, h), finite(lo), finite(hi), chain(lo, x), *([chain(x, hi)] if inside else [finite(x)]))


def _positive(kind: str, levels: int, *, up: bool = True) -> Goal:
    """From the smallest half range on, the step is positive, finite, and not below step32."""
    sort = TYPES[kind][1]
    h = constant("h", FP32)
    step32 = _step32(h, levels)
    step = stored_up(step32, sort) if up else widen(rounded(step32, sort), FP32)
    facts = [z3.fpLT(ZERO, step), chain(step32, step), finite(step), finite(h)]
    return floats(z3.And(facts), chain(value(LEAST[kind] / 2, FP32), h, value(LARGEST[kind], FP32)))


def _in_range(kind: str, levels: int, *, covered: bool = True) -> Goal:
    """Any d up to any h, and any stored step that is not below step32: the code needs no clamping."""
    d, h, step = constant("d", FP32), constant("h", FP32), TYPES[kind][0]("step")
    step32 = _step32(h, levels) if covered else z3.fpMul(RNE, value(0.75, FP32), _step32(h, levels))
    quotient = z3.fpDiv(RNE, d, _half(step))
    facts = [z3.fpLT(quotient, value(levels + 0.5, FP32)), chain(ZERO, _code(d, step), value(levels, FP32))]
    return floats(z3.And(facts), chain(ZERO, d, h), chain(step32, step), z3.fpLT(ZERO, step), finite(step), finite(h))


def _whole(kind: str, levels: int, *, up: bool = True) -> Goal:
    """Put three originals into the encoder; a code in range comes out."""
    make, sort = TYPES[kind]
    x, lo, hi = (make(name) for name in ("x", "lo", "hi"))
    step32 = _step32(z3.fpSub(RNE, _half(hi), _half(lo)), levels)
    step = stored_up(step32, sort) if up else widen(rounded(step32, sort, RTN), FP32)
    code = _code(z3.fpSub(RNE, _half(x), _half(lo)), step)
    return floats(
        chain(ZERO, code, value(levels, FP32)),
        finite(lo),
        finite(hi),
        chain(lo, x, hi),
        z3.fpLT(lo, hi),
        z3.fpLT(ZERO, step),
    )


def _residual(kind: str, levels: int, *, half: float = 0.5) -> Goal:
    """``|d - code step/2| <= half (step/2)``; the left side is formed in binary64, rounded both ways."""
    d, step = constant("d", FP32), TYPES[kind][0]("step")
    code = _code(d, step)
    step64 = widen(_half(step), FP64)
    part = z3.fpMul(RNE, widen(code, FP64), step64)
    above, below = z3.fpSub(RTP, widen(d, FP64), part), z3.fpSub(RTN, widen(d, FP64), part)
    bound = z3.fpMul(RTN, step64, value(half, FP64))
    quotient = z3.fpDiv(RNE, d, _half(step))
    return floats(
        z3.And(chain(above, bound), chain(z3.fpNeg(bound), below)),
        chain(ZERO, d),
        finite(d),
        z3.fpLT(ZERO, step),
        finite(step),
        z3.fpLT(quotient, value(levels + 0.5, FP32)),
    )


def _figure(*, larger: bool = True) -> Goal:
    """From the computed half difference d to the exact one, ``D = (x - lo)/2``."""
    D, d, c, step, L, v = reals("D d c step L v")
    slack = (L + 0.5) * v if larger else (L - 0.5) * v
    return real(
        at_most(2 * D - c * step, step * (0.5 + slack)),
        v * 2**24 == 1,
        d >= 0,
        at_most(D - d, v * d),
        at_most(4 * (d - c * step / 2), step),
        between(0, c, L),
        step > 0,
        L <= 255,
    )


def _product(kind: str, sort: Any, *, limit: float | None, width: int = 8) -> Goal:
    """Step times code, `width` bits wide, is exact."""
    step, code = TYPES[kind][0]("step"), vector("code", width)
    least = [] if limit is None else [chain(z3.fpAbs(step), value(limit, FP32))]
    wide = step if sort.eq(FP32) else widen(step, sort)
    return floats(exact(z3.fpMul, wide, unsigned(code, sort)), finite(step), *least)


def _product_paper(*, sort: Any = FP64) -> Goal:
    """Multiply a binary32 step, as the format `int8-paper` stores, by a signed code."""
    step, code = constant("step", FP32), vector("code", 8)
    wide = step if sort.eq(FP32) else widen(step, sort)
    return floats(exact(z3.fpMul, wide, signed(code, sort)), finite(step))


def _decode(kind: str) -> Goal:
    """``minimum + step code`` in binary64 without any rounding (float16); bfloat16 rounds once."""
    make = TYPES[kind][0]
    lo, step, code = widen(make("lo"), FP64), widen(make("step"), FP64), vector("code", 8)
    product = z3.fpMul(RNE, step, unsigned(code, FP64))
    return floats(
        z3.And(exact(z3.fpMul, step, unsigned(code, FP64)), exact(z3.fpAdd, lo, product)), finite(lo), finite(step)
    )


def _for_types(
    name: str, statement: str, build: Any, solvers: tuple[str, ...], quick: bool, **wrong: Any
) -> list[Lemma]:
    """One lemma per type of the originals."""
    return [
        Lemma(
            f"affine.{name}_{kind}",
            f"{kind}: {statement}",
            partial(build, kind),
            partial(build, kind, **wrong),
            solvers,
            quick,
        )
        for kind in TYPES
    ]


def _for_levels(
    name: str, statement: str, build: Any, solvers: tuple[str, ...], quick: bool, /, **wrong: Any
) -> list[Lemma]:
    """One lemma per type and number of levels."""
    return [
        Lemma(
            f"affine.{name}{bits}_{kind}",
            f"{kind}, L = {levels}: {statement}",
            partial(build, kind, levels),
            partial(build, kind, levels, **wrong),
            solvers,
            quick,
        )
        for kind in TYPES
        for bits, levels in ((2, 3), (4, 15), (8, 255))
    ]


LEMMAS = (
    *_for_types("halving", "x/2 is exact in float32", _halving, ALL, True, factor=1 / 3),
    *_for_types(
        "half_range",
        "lo <= hi: 0 <= fl(hi/2 - lo/2) < inf, and 0 only for hi = lo; the same for x in place of hi",
        _half_range,
        ALL,
        True,
        ordered=False,
    ),
    *_for_types(
        "ordered",
        "lo <= x <= hi: fl(x/2 - lo/2) <= fl(hi/2 - lo/2)",
        _ordered,
        ("bitwuzla",),
        False,
        inside=False,
    ),
    *_for_levels(
        "step_positive",
        "half range h > 0: 0 < step < inf and step >= fl(h/(L/2))",
        _positive,
        ("cvc5", "bitwuzla"),
        True,
        up=False,
    ),
    *_for_levels(
        "in_range",
        "0 <= d <= h, step >= fl(h/(L/2)): fl(d/(step/2)) < L + 1/2, so 0 <= code <= L without clamping",
        _in_range,
        ("cvc5", "bitwuzla"),
        False,
        covered=False,
    ),
    *[
        Lemma(
            f"affine.whole4_{kind}",
            f"{kind}, L = 15: lo <= x <= hi, lo < hi: 0 <= rne(fl(fl(x/2 - lo/2)/(step/2))) <= 15, all in one goal",
            partial(_whole, kind, 15),
            partial(_whole, kind, 15, up=False),
            ("bitwuzla",),
            False,
        )
        for kind in TYPES
    ],
    Lemma(
        "affine.residual4_bfloat16",
        "bfloat16, L = 15, fl(d/(step/2)) < L + 1/2: |d - code step/2| <= step/4, no rounding slack at all",
        partial(_residual, "bfloat16", 15),
        partial(_residual, "bfloat16", 15, half=0.5 - 2.0**-10),
        ("bitwuzla",),
        False,
    ),
    Lemma(
        "affine.sharp_figure",
        "v = 2^-24, |D - d| <= v d, |d - c step/2| <= step/4, 0 <= c <= L: |2D - c step| <= step (1/2 + (L + 1/2) v)",
        _figure,
        partial(_figure, larger=False),
    ),
    Lemma(
        "affine.product_float32_float16",
        "float16: step code, code in 0..255, is exact in float32",
        partial(_product, "float16", FP32, limit=None),
        partial(_product, "float16", FP32, limit=None, width=16),
        ("cvc5", "bitwuzla"),
    ),
    Lemma(
        "affine.product_float32_bfloat16",
        "bfloat16, step <= 2^119: step code, code in 0..255, is exact in float32",
        partial(_product, "bfloat16", FP32, limit=2.0**119),
        partial(_product, "bfloat16", FP32, limit=2.0**121),
        ("cvc5", "bitwuzla"),
    ),
    Lemma(
        "affine.product_float64_bfloat16",
        "bfloat16: step code, code in 0..255, is exact in float64",
        partial(_product, "bfloat16", FP64, limit=None),
        partial(_product, "bfloat16", FP64, limit=None, width=48),
        ("cvc5", "bitwuzla"),
    ),
    Lemma(
        "affine.product_float64_float32",
        "float32 step, code in -128..127: step code is exact in float64",
        _product_paper,
        partial(_product_paper, sort=FP32),
        ("cvc5", "bitwuzla"),
    ),
    Lemma(
        "affine.decode_float16",
        "float16: minimum + step code, code in 0..255, is exact in float64: nothing rounds",
        partial(_decode, "float16"),
        partial(_decode, "bfloat16"),
        ("cvc5", "bitwuzla"),
    ),
)
