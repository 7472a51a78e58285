"""Theorem ``rounding``: one sum, product, quotient or root, rounded outward by one more multiplication.

Any number of roundings is an induction over the reals, lemmas ``arithmetic``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import FP32, FP64, RNE, RTN, RTP, chain, constant, finite, floats, value
from certkv.proofs.smt.lemma import Goal, Lemma

ALL = ("z3", "cvc5", "bitwuzla")
NORMAL = {FP32: 2.0**-126, FP64: 2.0**-1022}


def _outward(operation: Callable[..., Any], sort: Any, factor: float, *, least: float | None = None) -> Goal:
    """Nonnegative operands; a result is at least the real number if it is at least that number rounded up."""
    a, b = constant("a", sort), constant("b", sort)
    nearest = operation(RNE, a, b)
    inflated = z3.fpMul(RNE, nearest, value(factor, sort))
    zero = value(0, sort)
    normal = [] if least is None else [chain(value(least, sort), nearest)]
    return floats(chain(operation(RTP, a, b), inflated), chain(zero, a), chain(zero, b), finite(a), finite(b), *normal)


def _inward(operation: Callable[..., Any], sort: Any, factor: float, *, least: float | None = None) -> Goal:
    """Divide by the factor for a lower bound."""
    a, b = constant("a", sort), constant("b", sort)
    nearest = operation(RNE, a, b)
    deflated = z3.fpDiv(RNE, nearest, value(factor, sort))
    normal = [] if least is None else [chain(value(least, sort), deflated)]
    zero = value(0, sort)
    below = operation(RTN, a, b)
    return floats(chain(deflated, below), chain(zero, a), chain(zero, b), finite(nearest), *normal)


def _root(mode: Any, a: Any, _: Any) -> Any:
    return z3.fpSqrt(mode, a)


def _grows(*, positive: bool = True) -> Goal:
    """Partial sums of nonnegative numbers never fall, and rounding up is no less than rounding to nearest."""
    a, b = constant("a", FP32), constant("b", FP32)
    nearest = z3.fpAdd(RNE, a, b)
    facts = z3.And(z3.fpLEQ(a, nearest), z3.fpLEQ(nearest, z3.fpAdd(RTP, a, b)))
    return floats(facts, finite(a), finite(b), *([chain(value(0, FP32), b)] if positive else []))


def _four(name: str, sort: Any, last: int) -> tuple[Lemma, ...]:
    """Lemmas of one type; `last` is the number of fraction bits. Broken: no factor at all."""
    factor, normal = 1 + 2.0**-last, NORMAL[sort]
    what = f"RNE(RNE(%s)(1 + 2^-{last})) >= %s exactly, {name}, a, b >= 0"
    return (
        Lemma(
            f"rounding.sum_outward_{name}",
            what % ("a + b", "a + b") + ", subnormals included",
            partial(_outward, z3.fpAdd, sort, factor),
            partial(_outward, z3.fpAdd, sort, 1.0),
            ALL if sort is FP32 else ("z3", "bitwuzla"),
            sort is FP32,
        ),
        Lemma(
            f"rounding.product_outward_{name}",
            what % ("a b", "a b") + ", where the computed product is normal",
            partial(_outward, z3.fpMul, sort, factor, least=normal),
            partial(_outward, z3.fpMul, sort, 1.0, least=normal),
            ALL if sort is FP32 else ("cvc5", "bitwuzla"),
            sort is FP32,
        ),
        Lemma(
            f"rounding.root_outward_{name}",
            what % ("sqrt(a)", "sqrt(a)"),
            partial(_outward, _root, sort, factor),
            partial(_outward, _root, sort, 1.0),
            ("z3", "bitwuzla"),
            sort is FP32,
        ),
    )


LEMMAS = (
    *_four("float32", FP32, 23),
    *_four("float64", FP64, 52),
    Lemma(
        "rounding.sum_outward_twice_float32",
        "RNE(RNE(a + b)(1 + 2^-22)) >= a + b exactly, float32, a, b >= 0",
        partial(_outward, z3.fpAdd, FP32, 1 + 2.0**-22),
        partial(_outward, z3.fpAdd, FP32, 1 - 2.0**-22),
        ALL,
    ),
    Lemma(
        "rounding.quotient_outward_float32",
        "RNE(RNE(a / b)(1 + 2^-23)) >= a / b exactly, float32, a >= 0, b > 0, where the computed quotient is normal",
        partial(_outward, z3.fpDiv, FP32, 1 + 2.0**-23, least=2.0**-126),
        partial(_outward, z3.fpDiv, FP32, 1.0, least=2.0**-126),
        ("cvc5", "bitwuzla"),
        False,
    ),
    Lemma(
        "rounding.sum_inward_float32",
        "RNE(RNE(a + b)/(1 + 2^-22)) <= a + b exactly, float32, a, b >= 0, where the result is normal",
        partial(_inward, z3.fpAdd, FP32, 1 + 2.0**-22, least=2.0**-126),
        partial(_inward, z3.fpAdd, FP32, 1.0, least=2.0**-126),
        ("cvc5", "bitwuzla"),
        False,
    ),
    Lemma(
        "rounding.sum_grows",
        "float32, b >= 0: a <= RNE(a + b) <= RTP(a + b)",
        _grows,
        partial(_grows, positive=False),
        ALL,
    ),
)
