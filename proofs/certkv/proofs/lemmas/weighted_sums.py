"""Lemma ``weighted_sums``: sums over the tokens of a block, from the largest score error and from their norm.

Inductions go over tokens: ``b`` is the next weight, ``x = |delta|`` the next error; D and W stand for Delta and Omega.
Norms enter by their squares where that is enough (`norms.root` leads back).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, real, reals


def _max(values: list[Any]) -> Any:
    largest = values[0]
    for value in values[1:]:
        largest = z3.If(value >= largest, value, largest)
    return largest


def _l1(*, largest: bool = True) -> Goal:
    # sum b x <= D sum b survives a token
    total, size, b, x, D = reals("total size b x D")
    return real(
        total + b * x <= D * (size + b),
        total <= D * size,
        b >= 0,
        between(0, x, D if largest else 2 * D),
    )


def _cauchy_schwarz(*, left_over: bool = True) -> Goal:
    # three tokens, from the identity of `score_error.lagrange`
    total, B, X, g0, g1, g2 = reals("total B X g0 g1 g2")
    squares = g0 * g0 + g1 * g1 + g2 * g2
    return real(total * total <= B * X, (B * X - total * total if left_over else total * total - B * X) == squares)


def _l2(*, both: bool = True) -> Goal:
    # from squares to the second form: sum b x <= ||b|| W
    total, B, X, L, W = reals("total B X L W")
    return real(
        total <= L * W,
        total * total <= B * X,
        between(0, B, L * L),
        between(0, X, W * W if both else 2 * W * W),
        L >= 0,
        W >= 0,
    )


def _top_split(*, all_others: bool = True) -> Goal:
    # the heaviest of three tokens by D, the others by Cauchy-Schwarz; p1, p2 the squares of their weights
    b, x, others, p1, p2, X, D, W, r = reals("b x others p1 p2 X D W rest")
    return real(
        b * x + others <= b * D + r * W,
        b >= 0,
        x <= D,
        others * others <= (p1 + p2) * X,
        p1 >= 0,
        p2 >= 0,
        between(0, X, W * W),
        (p1 + p2 if all_others else p1) <= r * r,
        r >= 0,
        W >= 0,
    )


def _root_top(*, top: bool = True) -> Goal:
    # sum (b x)^2 <= top^2 sum x^2 survives a token
    total, X, b, x, largest = reals("total X b x top")
    return real(
        total + b * x * b * x <= largest * largest * (X + x * x),
        total <= largest * largest * X,
        between(0, b, largest if top else 2 * largest),
        b * b <= (1 if top else 4) * largest * largest,
    )


def _second_largest(*, squared: bool = True) -> Goal:
    # sum b x^2 <= D^2 sum b survives a token
    total, size, b, x, D = reals("total size b x D")
    limit = D * D if squared else D
    return real(total + b * x * x <= limit * (size + b), total <= limit * size, b >= 0, between(0, x, D))


def _second_top(*, top: bool = True) -> Goal:
    # sum b x^2 <= top sum x^2 survives a token
    total, X, b, x, largest = reals("total X b x top")
    return real(
        total + b * x * x <= largest * (X + x * x),
        total <= largest * X,
        between(0, b, largest if top else 2 * largest),
    )


def _second_mixed(*, largest: bool = True) -> Goal:
    # sum b x^2 <= D sum b x survives a token; the second form of the first order follows
    total, first, b, x, D = reals("total first b x D")
    return real(
        total + b * x * x <= D * (first + b * x),
        total <= D * first,
        b >= 0,
        between(0, x, D if largest else 2 * D),
    )


def _rest_grows(*, own: bool = True) -> Goal:
    # three squares: all but a largest one is increasing in each
    p, q = reals("p0 p1 p2"), reals("q0 q1 q2")
    return real(
        z3.Sum(p) - (_max(p) if own else p[0]) <= z3.Sum(q) - _max(q),
        *[between(0, p[t], q[t]) for t in range(3)],
    )


def _grows(*, ordered: bool = True) -> Goal:
    # one product beside whatever else is added
    other, other_ub, size, size_ub, W, W_ub = reals("other other_ub size size_ub W W_ub")
    return real(
        other + size * W <= other_ub + size_ub * W_ub,
        other <= other_ub,
        between(0, size, size_ub),
        between(0, W, W_ub if ordered else 2 * W_ub),
        W_ub >= 0,
    )


def _homogeneous(*, positive: bool = True) -> Goal:
    # two forms and their minimum, weights times g
    one, two, g = reals("one two g")
    smaller = z3.If(one <= two, one, two)
    return real(z3.If(g * one <= g * two, g * one, g * two) == g * smaller, *([g >= 0] if positive else []))


LEMMAS = (
    Lemma(
        "weighted_sums.l1", "induction: Σβ|δ| <= ΔΣβ survives a token with |δ| <= Δ", _l1, partial(_l1, largest=False)
    ),
    Lemma(
        "weighted_sums.cauchy_schwarz",
        "3 tokens: Σβ² Σx² - (Σβx)² is a sum of 3 squares, so (Σβx)² <= Σβ² Σx²",
        _cauchy_schwarz,
        partial(_cauchy_schwarz, left_over=False),
    ),
    Lemma(
        "weighted_sums.l2",
        "(Σβx)² <= Σβ² Σx², Σβ² <= L², Σx² <= Ω² gives Σβx <= LΩ",
        _l2,
        partial(_l2, both=False),
    ),
    Lemma(
        "weighted_sums.top_split",
        "3 tokens: β_0|δ_0| + (Σ of the others) <= β_0 Δ + ‖others‖ Ω; with the norm of fewer others it is refuted",
        _top_split,
        partial(_top_split, all_others=False),
    ),
    Lemma(
        "weighted_sums.root_top",
        "induction: Σ(βx)² <= top² Σx² survives a token with 0 <= β <= top",
        _root_top,
        partial(_root_top, top=False),
    ),
    Lemma(
        "weighted_sums.second_largest",
        "induction: Σβx² <= Δ²Σβ survives a token; ΔΣβ is refuted",
        _second_largest,
        partial(_second_largest, squared=False),
    ),
    Lemma(
        "weighted_sums.second_top",
        "induction: Σβx² <= top Σx² survives a token with 0 <= β <= top",
        _second_top,
        partial(_second_top, top=False),
    ),
    Lemma(
        "weighted_sums.second_mixed",
        "induction: Σβx² <= ΔΣβx survives a token with x <= Δ",
        _second_mixed,
        partial(_second_mixed, largest=False),
    ),
    Lemma(
        "weighted_sums.rest_grows",
        "3 squares: their sum without a largest one is increasing in each",
        _rest_grows,
        partial(_rest_grows, own=False),
    ),
    Lemma(
        "weighted_sums.grows",
        "a sum of products of numbers >= 0 does not get smaller when one of them gets larger: one product",
        _grows,
        partial(_grows, ordered=False),
    ),
    Lemma(
        "weighted_sums.homogeneous",
        "of two forms that are homogeneous so is the smaller: min(gA, gB) = g min(A, B), g >= 0",
        _homogeneous,
        partial(_homogeneous, positive=False),
    ),
)
