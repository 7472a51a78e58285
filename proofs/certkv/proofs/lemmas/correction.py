"""Incremental correction: a promoted block's weights and values replaced in a softmax state instead of recomputed.

Old weights p' with decoded values, new weights p with originals, the same reference maximum. Rounding: g is a relative
error of all sums, r how far old weights computed again, p'', may be from p'.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, inverse, real, reals

SMALL = 32
"""g and r are at most 1/32 in the constants."""


def _output(*, new_weight: bool = True) -> Goal:
    # o + sum (p - p') v_hat + sum p (v - v_hat) is the sum with p v in place of p' v_hat: one token more
    old, new, corrections, p, p_old, v, v_hat = reals("old new corrections p p_old v v_hat")
    weight = p if new_weight else p_old
    return real(
        (old + p_old * v_hat) + (corrections + (p - p_old) * v_hat + weight * (v - v_hat)) == new + p * v,
        old + corrections == new,
    )


def _denominator(*, old_weight: bool = True) -> Goal:
    old, new, corrections, p, p_old = reals("old new corrections p p_old")
    return real((old + p_old) + (corrections + (p - p_old if old_weight else p)) == new + p, old + corrections == new)


def _key_only(*, decoded: bool = True) -> Goal:
    # promoted key, coded value: the correction multiplies what was multiplied before
    old, p, p_old, v, v_hat = reals("old p p_old v v_hat")
    return real((old + p_old * v_hat) + (p - p_old) * (v_hat if decoded else v) == old + p * v_hat)


def _weight(*, error: bool = True) -> Goal:
    # p = p' w with p' <= 1
    p, p_old, w, E, F = reals("p p_old w E F")
    return real(p <= (E if error else 1), inverse(E, F), between(F, w, E), between(0, p_old, 1), p == p_old * w)


def _change(*, both: bool = True) -> Goal:
    # what the corrections sum to in magnitude, against old and new denominator
    moved, old, new, p, p_old, total = reals("moved old new p p_old total")
    return real(
        total + moved <= (new + p) + (old + p_old if both else old),
        p >= 0,
        p_old >= 0,
        moved == z3.If(p >= p_old, p - p_old, p_old - p),
        total <= new + old,
    )


def _amplification(*, kept: bool = True) -> Goal:
    # u (l_old + sum |corrections|) / l_new <= 9 u while l_new >= l_old / 4
    old, new, moved = reals("old new moved")
    return real(old + moved <= 9 * new, old > 0, new > 0, moved <= old + new, *([4 * new >= old] if kept else []))


def _small_error(*, third: bool = True) -> Goal:
    # Delta <= 1: p >= p'/e, and 1/e > 1/3 > 1/4
    old, new, F = reals("old new F")
    return real(4 * new >= old, old >= 0, new >= F * old, 3 * F >= 1 if third else 5 * F >= 1)


def _again(*, relative: bool = True) -> Goal:
    # sum (p' - p'') survives a token: what a kernel that computes p' anew leaves in the state
    left, total, p_old, again, r = reals("left total p_old again r")
    return real(
        at_most(left + (p_old - again), r * (total + again)),
        at_most(left, r * total),
        r >= 0,
        again >= 0,
        at_most(p_old - again, r * again if relative else r),
    )


def _change_again(*, both: bool = True) -> Goal:
    # sum |p - p''| against old and new denominator, one token more
    moved, old, new, p, p_old, again, r, total = reals("moved old new p p_old again r total")
    return real(
        total + moved <= (new + p) + (1 + (r if both else 0)) * (old + p_old),
        between(0, p),
        between(0, p_old),
        r >= 0,
        moved == z3.If(p >= again, p - again, again - p),
        between(0, again, (1 + r) * p_old),
        total <= new + (1 + (r if both else 0)) * old,
    )


def _total(*, left: bool = True) -> Goal:
    # L = S + C + R; computed S + C + errors: |l_new - L| <= g (S + moved) + r W
    computed, L, S, C, R, e, moved, W, g, r = reals("computed L S C R e moved W g r")
    return real(
        at_most(computed - L, g * (S + moved) + (r * W if left else 0)),
        L == S + C + R,
        computed == S + C + e,
        at_most(e, g * (S + moved)),
        at_most(R, r * W),
    )


def _before(*, divided: bool = True) -> Goal:
    # the sum of the old weights from the computed one
    S, old, g = reals("S l_old g")
    return real(S * (1 - g) <= old if divided else old >= S, between(0, g), g < 1, S >= 0, at_most(old - S, g * S))


def _rates(g: Any, r: Any) -> list[z3.BoolRef]:
    return [g >= 0, r >= 0, SMALL * g <= 1, SMALL * r <= 1]


def _kept(*, quarter: bool = True) -> Goal:
    # e <= (10 g + 5 r) l_new where a quarter is kept; S exact old sum, L exact new one, n = l_new
    e, S, L, old, n, g, r = reals("e S L l_old n g r")
    return real(
        e <= (10 * g + 5 * r) * n,
        *_rates(g, r),
        n >= 0,
        S >= 0,
        S * (1 - g) <= old,
        old <= (4 if quarter else 6) * n,
        n + e >= L,
        e <= g * ((2 + r) * S + L) + r * S,
    )


def _quotient(*, exact: bool = True) -> Goal:
    # one coordinate of o_new/l_new - O/L over L >= l_new - e_l, with the computed quotient c
    c, mean, o, target, n, L, eo, el = reals("c mean o O n L e_o e_l")
    return real(
        at_most((c - mean) * L, eo + z3.If(c >= 0, c, -c) * el) if exact else at_most((c - mean) * L, eo),
        c * n == o,
        mean * L == target,
        at_most(o - target, eo),
        at_most(n - L, el),
        n > 0,
        L > 0,
    )


def _quotient_of_norms(*, below: bool = True) -> Goal:
    # x L <= e_o + y e_l with L >= n - e_l > 0
    x, y, L, n, eo, el = reals("x y L n e_o e_l")
    return real(
        x * (n - el) <= eo + y * el,
        x >= 0,
        x * L <= eo + y * el,
        n - el > 0,
        n - el <= L if below else L > 0,
    )


def _kept_numerator(*, residual: bool = True) -> Goal:
    # e_o <= V (bracket of e_l) + g eta L
    eo, S, L, moved, again, V, eta, g, r = reals("e_o S L moved again V eta g r")
    change = L + (1 + r) * S
    return real(
        eo <= V * (g * ((2 + r) * S + L) + r * S) + (g * eta * L if residual else 0),
        *_rates(g, r),
        *[x >= 0 for x in (V, eta, S, L)],
        eo <= g * (V * S + moved) + again,
        moved <= V * change + eta * L,
        again <= r * V * S,
    )


def _kept_output(*, both: bool = True) -> Goal:
    # x l_new <= e_o + y e_l, per unit of l_new; y <= V + eta the exact output
    x, y, V, eta, k, el, eo, L, g, r = reals("x y V eta k e_l e_o L g r")
    return real(
        x <= (20 * g + 10 * r if both else 10 * g + 10 * r) * (V + eta),
        *_rates(g, r),
        V >= 0,
        eta >= 0,
        k == 10 * g + 5 * r,
        between(0, el, k),
        between(0, L, 1 + el),
        eo <= V * k + g * eta * L,
        between(0, y, V + eta),
        x <= eo + y * el,
    )


def _divided(*, room: bool = True) -> Goal:
    # the division rounds once: z = |c| before it, at most V + x
    x, V, u, g, r, error, z = reals("x V u g r error z")
    return real(
        error <= ((21 if room else 20) * g + 10 * r) * V,
        *_rates(g, r),
        V >= 0,
        u > 0,
        2 * u <= g,
        x <= (20 * g + 10 * r) * V,
        z <= V + x,
        error <= x + u * z,
    )


LEMMAS = (
    Lemma(
        "correction.output",
        "induction: o + Σ(p-p')V̂ + Σp(V-V̂) is o from scratch, one more promoted token",
        _output,
        partial(_output, new_weight=False),
    ),
    Lemma(
        "correction.denominator",
        "induction: l + Σ(p-p') is l from scratch, one more promoted token",
        _denominator,
        partial(_denominator, old_weight=False),
    ),
    Lemma(
        "correction.key_only",
        "promoted key, coded value: o + (p-p')V̂",
        _key_only,
        partial(_key_only, decoded=False),
    ),
    Lemma("correction.weight", "p' <= 1 gives p <= e^Δ", _weight, partial(_weight, error=False)),
    Lemma(
        "correction.change",
        "induction: Σ|p-p'| <= l_new + l_old survives a promoted token",
        _change,
        partial(_change, both=False),
    ),
    Lemma(
        "correction.amplification",
        "l_new >= l_old/4: rounding relative to l_old and the corrections is at most 9u of l_new",
        _amplification,
        partial(_amplification, kept=False),
    ),
    Lemma(
        "correction.small_error",
        "Δ <= 1: l_new >= l_old/e >= l_old/4",
        _small_error,
        partial(_small_error, third=False),
    ),
    Lemma(
        "correction.again",
        "induction: |Σ(p'-p'')| <= rΣp'' survives a promoted token",
        _again,
        partial(_again, relative=False),
    ),
    Lemma(
        "correction.change_again",
        "induction: Σ|p-p''| <= L + (1+r)Σp' survives a promoted token",
        _change_again,
        partial(_change_again, both=False),
    ),
    Lemma(
        "correction.total",
        "|l_new - L| <= g(Σp' + Σ|p-p''|) + rΣp''",
        _total,
        partial(_total, left=False),
    ),
    Lemma("correction.before", "Σp' (1-g) <= l_old", _before, partial(_before, divided=False)),
    Lemma(
        "correction.kept",
        "l_old <= 4 l_new, g, r <= 1/32: the denominator's error is at most (10g + 5r) l_new",
        _kept,
        partial(_kept, quarter=False),
    ),
    Lemma(
        "correction.quotient",
        "one coordinate: |o_new/l_new - O/L| L <= e_o + |o_new/l_new| e_l",
        _quotient,
        partial(_quotient, exact=False),
    ),
    Lemma(
        "correction.quotient_of_norms",
        "x L <= e_o + y e_l, L >= l_new - e_l > 0: x (l_new - e_l) <= e_o + y e_l",
        _quotient_of_norms,
        partial(_quotient_of_norms, below=False),
    ),
    Lemma(
        "correction.kept_numerator",
        "e_o <= V̂ (g((2+r)Σp' + L) + rΣp') + gηL",
        _kept_numerator,
        partial(_kept_numerator, residual=False),
    ),
    Lemma(
        "correction.kept_output",
        "the output's error is at most (20g + 10r)(V̂ + η)",
        _kept_output,
        partial(_kept_output, both=False),
    ),
    Lemma(
        "correction.divided",
        "with the rounding of the quotient, 2u <= g: (21g + 10r)(V̂ + η)",
        _divided,
        partial(_divided, room=False),
    ),
)
