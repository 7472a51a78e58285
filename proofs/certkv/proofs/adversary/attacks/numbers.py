"""Attacks on float64 norms, operator norms, log codes and the affine encoder's reconstruction error."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from certkv.proofs.adversary.attack import NOTHING, PURE, STORED, Attack, Attained, Box
from certkv.proofs.adversary.balls import balls, lower, norm, precisely, upper
from certkv.proofs.adversary.blocks import ball, differences, meaning, operator_square_lb, rational, to_type
from certkv.reference.annotations import log_codes
from certkv.reference.annotations.operator_norm import operator_norm_ub
from certkv.reference.formats import value_format
from certkv.reference.numbers import BFLOAT16, round_up
from certkv.reference.numbers import error as float64_error
from certkv.reference.numbers.types import FloatArray

CHANNELS = 5
TOKENS = 3


def _norm(variant: str) -> Attack:
    """Take vectors of every magnitude, down to where squares underflow and up to where they overflow."""
    box = Box().add("x", CHANNELS, -4.0, 4.0).add("exponent", 1, -1070.0, 1015.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        x = np.ldexp(part["x"], int(part["exponent"][0]))
        exact = norm(balls(x))
        if variant == "upper":
            return Attained(lower(exact), float(float64_error.norm_ub(x)))
        return Attained(float(float64_error.norm_lb(x)), upper(exact))

    def starts() -> Sequence[FloatArray]:
        return [box.point(x=x, exponent=e) for x in (1.0, [3.0, 4.0, 0.0, 0.0, 0.0]) for e in (-1000.0, 0.0, 1000.0)]

    symbols = "norm_ub(x)" if variant == "upper" else "norm_lb(x), as a share of the exact norm"
    return Attack(f"norms.{variant}", "norms", symbols, box.low, box.high, evaluate, starts, 800, reproduces=PURE)


def _operator() -> Attack:
    """Take matrices of every magnitude; the truth is the image of the best direction that float64 finds."""
    box = Box().add("x", TOKENS * CHANNELS, -4.0, 4.0).add("exponent", 1, -1070.0, 1010.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        x = np.ldexp(part["x"].reshape(TOKENS, CHANNELS), int(part["exponent"][0]))
        return Attained(lower(ball(operator_square_lb(rational(x))).sqrt()), float(operator_norm_ub(x)))

    def starts() -> Sequence[FloatArray]:
        parallel = np.outer([1.0, -2.0, 0.5], [1.0, 0.5, -1.0, 0.25, 2.0])
        return [box.point(x=parallel.ravel(), exponent=e) for e in (-1000.0, 0.0, 1000.0)]

    symbols = "(tr (X X^T)^8)^(1/16), 3 x 5"
    return Attack("operator_norm.trace", "operator_norm", symbols, box.low, box.high, evaluate, starts, 800)


def _codes() -> Attack:
    """Take one number relative to a maximum; the bound is the meaning of its code."""
    box = Box().add("share", 1, -40.0, 0.0).add("maximum", 1, -120.0, 120.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        maximum = round_up(np.exp2(part["maximum"][0]), BFLOAT16)
        x = np.exp2(part["share"]) * float(maximum)
        return Attained(float(x[0]), float(log_codes.decode(log_codes.encode(x, maximum), maximum)[0]))

    def starts() -> Sequence[FloatArray]:
        return [box.point(share=-share, maximum=m) for share in (0.0, 7.0, 31.0) for m in (-100.0, 0.0, 100.0)]

    symbols = "M m_(c mod 8) 2^-(16 + c div 8)"
    return Attack("log_codes.meaning", "log_codes", symbols, box.low, box.high, evaluate, starts, 300)


def _affine(name: str) -> Attack:
    """Residual over ``step (1/2 + (L + 1) 2^-23)``, on one channel of a block."""
    box = Box().add("x", TOKENS, -4.0, 4.0).add("dtype", 1, 0.0, 1.0)
    fmt = value_format(name)
    levels = 2 ** (4 if "4" in name else 8) - 1

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        original = to_type(part["x"][:, None], "float16" if part["dtype"][0] < 0.5 else "bfloat16")
        encoded = fmt.encode(original)
        step = Fraction(float(encoded.step.astype(np.float64)[0]))
        if step == 0:
            return NOTHING
        residual = max(abs(e) for (e,) in differences(rational(original), meaning(encoded)))
        allowed = step * (Fraction(1, 2) + Fraction(levels + 1, 2**23))
        return Attained(lower(ball(residual)), upper(ball(allowed)))

    def starts() -> Sequence[FloatArray]:
        unit = 2.0 ** -np.ceil(np.log2(levels / 4.0))
        middle = levels // 2 + 0.5
        return [box.point(x=unit * np.array([0.0, levels, middle]), dtype=dtype) for dtype in (0.0, 1.0)]

    return Attack(
        f"affine.{name}",
        "affine",
        f"step (1/2 + (L + 1) 2^-23), {name}",
        box.low,
        box.high,
        evaluate,
        starts,
        600,
        reproduces=STORED,
    )


def attacks() -> list[Attack]:
    """All of this file."""
    return [_norm("upper"), _norm("lower"), _operator(), _codes(), _affine("int8"), _affine("int4")]
