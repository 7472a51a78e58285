"""Theorem ``kernel_arithmetic``: dot units, exponents that telescope, and the log-weight error.

Exponentials enter as positive numbers with the inequalities ``1 + y <= e^y`` and ``e^-y <= 1/(1 + y)``; a chain of n
steps as a growth ``g >= 1`` with ``|computed - exact| <= (g - 1) S``, S the sum of sizes. Losses, sums and shares:
`kernel_arithmetic_sums`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _absolute(x: Any) -> Any:
    return z3.If(x >= 0, x, -x)


def _max(x: Any, y: Any) -> Any:
    return z3.If(x >= y, x, y)


def _cut_sum(*, largest: bool = True) -> Goal:
    # each addend loses at most t of the largest: induction over the addends
    total, kept, S, n, a, c, t, top = reals("total kept S n a c t top")
    share = t * top if largest else t * S
    return real(
        at_most((kept + c) - (total + a), (n + 1) * t * top),
        at_most(kept - total, n * t * top),
        at_most(c - a, share),
        t >= 0,
        top >= 0,
        n >= 0,
        S >= 0,
    )


def _cut_off(*, result: bool = True) -> Goal:
    # the aligned sum within C S of the exact one, then cut off by r of itself: within (C + r (1 + C)) S
    total, aligned, out, S, C, r = reals("total aligned out S C r")
    return real(
        at_most(out - total, (C + (r * (1 + C) if result else 0)) * S),
        at_most(aligned - total, C * S),
        at_most(total, S),
        at_most(out - aligned, r * _absolute(aligned)),
        C >= 0,
        r >= 0,
        S >= 0,
    )


def _growth_total(*, grown: bool = True) -> Goal:
    # what a step may err by: tau (|c| + s) with |c| <= g S
    c, products, g, S, s, tau, error = reals("c products g S s tau error")
    return real(
        _absolute(error) <= tau * ((g if grown else 1) * S + s),
        at_most(c, g * S),
        at_most(products, s),
        at_most(error, tau * (_absolute(c) + s)),
        tau >= 0,
        g >= 1,
        S >= 0,
    )


def _growth(*, more: bool = True) -> Goal:
    # |c - x| <= (g-1)S: after a step |c' - x'| <= (g(1+tau) - 1)(S + s)
    c, x, products, g, S, s, tau, error = reals("c x products g S s tau error")
    after = g * (1 + tau) if more else g
    return real(
        at_most((c + products + error) - (x + products), (after - 1) * (S + s)),
        at_most(c - x, (g - 1) * S),
        at_most(error, tau * (g * S + s)),
        at_most(products, s),
        tau >= 0,
        g >= 1,
        S >= 0,
    )


def _growth_size(*, more: bool = True) -> Goal:
    # |c'| <= g (1 + tau) (S + s)
    x, c, g, S = reals("x c g S")
    return real(at_most(c, (g if more else 1) * S), at_most(c - x, (g - 1) * S), at_most(x, S), g >= 1, S >= 0)


def _grown(*, once: bool = True) -> Goal:
    # 1 + x <= e^x <= 1/(1-x): the sum of the errors, x, bounds the product of the factors by x/(1-x)
    E, x, result = reals("E x result")
    return real((result if once else x) >= E - 1, between(0, x), x < 1, E * (1 - x) <= 1, result * (1 - x) == x)


def _log_of_error(*, over: bool = True) -> Goal:
    # y = e/(1-e): e^-y <= 1/(1+y) = 1 - e <= 1 - |theta|, 1 + |theta| <= 1 + y <= e^y
    theta, e, y, E, F = reals("theta e y E F")
    return real(
        z3.And(1 + theta <= E, 1 + theta >= F),
        at_most(theta, e),
        e < 1,
        y * (1 - e) == e if over else y == e / 2,
        1 + y <= E,
        F * (1 + y) <= 1,
        F > 0,
    )


def _telescope(*, same: bool = True) -> Goal:
    # exponents of a path: whatever the maxima are, their sum is x c - M; one update more changes nothing
    path, x, m, new = reals("path x m new")
    return real((path + (m - new)) == x - (new if same else m), path == x - m)


def _telescope_size(*, ordered: bool = True) -> Goal:
    # |path| <= M - x for non-decreasing maxima; a positive own exponent costs twice itself
    size, x, m, new, above = reals("size x m new above")
    return real(
        size + _absolute(m - new) <= (new - x) + 2 * above,
        size <= (m - x) + 2 * above,
        above >= 0,
        m <= new if ordered else m <= new + 1,
    )


def _telescope_start(*, twice: int = 2) -> Goal:
    # a tile: |x - m| <= (m - x) + 2 above where x - m <= above
    x, m, above = reals("x m above")
    return real(_absolute(x - m) <= (m - x) + twice * above, x - m <= above, above >= 0)


def _exponent_rounding(*, every: bool = True) -> Goal:
    # rounding of every exponent on the path: at most u times the sum of their sizes
    total, size, y, e, u = reals("total size y e u")
    return real(
        at_most(total + e, u * (size + (_absolute(y) if every else 0))),
        at_most(total, u * size),
        at_most(e, u * _absolute(y)),
        u >= 0,
    )


def _scale_constant(*, common: bool = True) -> Goal:
    # x c' = x c (1 + t): the error of the constant is t (x c - M) and t M, the same for every token
    s, M, t, error, u = reals("s M t error u")
    return real(at_most(error - (t * M if common else 0), u * _absolute(s - M)), error == t * s, at_most(t, u), u >= 0)


def _operand_pair(*, mixed: bool = True) -> Goal:
    # two factors: |(1+a)(1+b) - 1| <= (1+A)(1+B) - 1; a third by the same step
    a, b, A, B = reals("a b A B")
    return real(
        at_most((1 + a) * (1 + b) - 1, A + B + (A * B if mixed else 0)), at_most(a, A), at_most(b, B), A >= 0, B >= 0
    )


def _field(*, fields: bool = True) -> Goal:
    # powers of two from exponent fields: at most the size of the product
    a, b, s, power_a, power_b = reals("a b s power_a power_b")
    size = _max(a, s) * _max(b, s) if fields else a * b
    return real(
        power_a * power_b <= size,
        a >= 0,
        b >= 0,
        s > 0,
        power_a > 0,
        power_b > 0,
        power_a <= _max(a, s),
        power_b <= _max(b, s),
    )


def _field_norm(*, root: bool = True) -> Goal:
    # max(x, s) <= x + s, squared and summed over d channels with sum x <= root of d times the norm: one more channel
    total, plain, cross, n, x, s = reals("total plain cross n x s")
    return real(
        total + _max(x, s) * _max(x, s) <= (plain + x * x) + 2 * s * (cross + x) + (n + (1 if root else 0)) * s * s,
        total <= plain + 2 * s * cross + n * s * s,
        x >= 0,
        s > 0,
    )


LEMMAS = (
    Lemma(
        "kernel_arithmetic.cut_sum",
        "induction: n addends, each cut by at most t max, lose at most n t max",
        _cut_sum,
        partial(_cut_sum, largest=False),
    ),
    Lemma(
        "kernel_arithmetic.cut_off",
        "aligned sum within CS, result cut by r of itself: within (C + r(1+C))S",
        _cut_off,
        partial(_cut_off, result=False),
    ),
    Lemma(
        "kernel_arithmetic.field",
        "powers of two of exponent fields: product <= max(|a|, s) max(|b|, s)",
        _field,
        partial(_field, fields=False),
    ),
    Lemma(
        "kernel_arithmetic.field_norm",
        "induction: Σ max(|x|, s)² <= Σx² + 2sΣ|x| + ds² <= (‖x‖ + √d s)²",
        _field_norm,
        partial(_field_norm, root=False),
    ),
    Lemma(
        "kernel_arithmetic.step_error",
        "|c| <= gS: a step errs by at most τ(gS + s)",
        _growth_total,
        partial(_growth_total, grown=False),
    ),
    Lemma(
        "kernel_arithmetic.growth",
        "induction: |c - x| <= (g-1)S becomes (g(1+τ) - 1)(S + s)",
        _growth,
        partial(_growth, more=False),
    ),
    Lemma(
        "kernel_arithmetic.growth_size",
        "|c - x| <= (g-1)S, |x| <= S: |c| <= gS",
        _growth_size,
        partial(_growth_size, more=False),
    ),
    Lemma("kernel_arithmetic.grown", "e^x - 1 <= x/(1-x)", _grown, partial(_grown, once=False)),
    Lemma(
        "kernel_arithmetic.log_of_error",
        "|θ| <= e < 1: |ln(1+θ)| <= e/(1-e)",
        _log_of_error,
        partial(_log_of_error, over=False),
    ),
    Lemma(
        "kernel_arithmetic.telescope",
        "induction: exponents on a path add up to xc - M, whatever the maxima",
        _telescope,
        partial(_telescope, same=False),
    ),
    Lemma(
        "kernel_arithmetic.telescope_start",
        "x - m <= a, a >= 0: |x - m| <= (m - x) + 2a",
        _telescope_start,
        partial(_telescope_start, twice=1),
    ),
    Lemma(
        "kernel_arithmetic.telescope_size",
        "induction: their sizes add up to at most (M - xc) + 2a for rising maxima",
        _telescope_size,
        partial(_telescope_size, ordered=False),
    ),
    Lemma(
        "kernel_arithmetic.exponent_rounding",
        "induction: rounded exponents are off by u times their sizes together",
        _exponent_rounding,
        partial(_exponent_rounding, every=False),
    ),
    Lemma(
        "kernel_arithmetic.scale_constant",
        "the constant's error θs is θ(s - M) up to a constant",
        _scale_constant,
        partial(_scale_constant, common=False),
    ),
    Lemma(
        "kernel_arithmetic.operands",
        "|(1+a)(1+b) - 1| <= (1+A)(1+B) - 1: rounded operands",
        _operand_pair,
        partial(_operand_pair, mixed=False),
    ),
)
