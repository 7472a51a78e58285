"""Lemma ``tail_tv``, consequences: simpler bounds, the cases attained, growth, and the forms that are evaluated.

Notation as in `certkv.proofs.lemmas.tail_tv`.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.lemmas.tail_tv import tail
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, inverse, real, reals


def _simple_a(*, all_of_it: bool = True) -> Goal:
    t = tail()
    gain = t.alpha * (t.E - 1) if all_of_it else t.alpha * (1 - t.alpha) * (t.E - 1)
    return real(t.p * (t.E - t.W) * t.V1 <= gain * t.W, *t.facts)


def _split_simple(*, second: bool = True) -> Goal:
    # tau <= alpha x / (1 + alpha x) in the second case; alpha x = E - m^2
    m, E = reals("m E")
    V1 = 1 + E - m * m
    return real((E - m) * (E - m) * V1 <= (E - m * m) * (E * E - 1), m >= 1, m * m <= E, *([m <= V1] if second else []))


def _simple(*, factor: int = 1) -> Goal:
    # alpha x / (1 + alpha x) <= alpha x, and the first case is below it
    alpha, x = reals("alpha x")
    below = factor * alpha * x <= alpha * x * (1 + alpha * x)
    return real(z3.And(below, alpha * (1 - alpha) * x <= alpha * x), between(0, alpha, 1), x >= 0)


def _as_stated(*, factor: int = 2) -> Goal:
    alpha, E = reals("alpha E")
    return real(factor * alpha * (E - 1) <= alpha * (E * E - 1), between(0, alpha, 1), E >= 1)


def _full(*, one: bool = True) -> Goal:
    # alpha = 1: m = 1
    m, E = reals("m E")
    return real((E - m) * (E - m) * (E + 1) == (E - 1) * (E * E - 1), E >= 1, m == 1 if one else m >= 1)


def _never_below(*, factor: int = 1) -> Goal:
    # raised <= split everywhere: taking the second formula too early is sound. alpha x = E - m^2
    m, E = reals("m E")
    return real(factor * (E - m * m) * (m * m - 1) * (E + 1) <= (E - m) * (E - m) * (1 + E - m * m), m >= 1, m * m <= E)


def _raised_attained(*, whole: bool = True) -> Goal:
    t = tail()
    return real(
        t.p * (t.E - t.W) * t.V1 == t.alpha * (1 - t.alpha) * (t.E - 1) * t.W,
        *t.facts,
        t.r == 0 if whole else t.r >= 0,
    )


def _split_attained(*, second: bool = True) -> Goal:
    # p = (m - V0)/k is between 0 and alpha and gives W = m, gain (E - m)^2 / (E^2 - 1)
    p, alpha, m, E, F = reals("p alpha m E F")
    V0 = 1 - alpha * (1 - F)
    return real(
        z3.And(p >= 0, p <= alpha, p * (E - m) * (E * E - 1) == (E - m) * (E - m) * m),
        inverse(E, F),
        between(0, alpha, 1),
        m >= 1,
        m * m == E * V0,
        p * (E - F) == m - V0,
        E > 1,
        *([m <= 1 + alpha * (E - 1)] if second else []),
    )


def _raised_form(*, y_is: int = 1) -> Goal:
    alpha, E, F, y = reals("alpha E F y")
    return real((E - 1) * (F + alpha * y) == y * (1 + alpha * (E - 1)), inverse(E, F), y == y_is - F)


def _split_form(*, decayed: bool = True) -> Goal:
    # g = sqrt(V0 F): (1 - g)^2/(1 - F^2) = y (1 + alpha F)^2 / ((1 + g)^2 (1 + F)), y = 1 - F
    alpha, F, g = reals("alpha F g")
    V0 = (1 - alpha) + alpha * F
    return real(1 - g * g == (1 - F) * (1 + alpha * F), g * g == (V0 * F if decayed else V0))


def _condition_form(*, scaled: bool = True) -> Goal:
    alpha, E, F = reals("alpha E F")
    first = alpha * alpha * (E - 1) + 3 * alpha <= 1
    second = alpha * alpha * (1 - F) + 3 * alpha * (F if scaled else 1) <= F
    return real(first == second, inverse(E, F), between(0, alpha, 1))


def _grows_in_alpha(*, ordered: bool = True) -> Goal:
    # the gain p (E/W - 1) of an S of mass p, as more of the tail is outside S: r <= s
    p, r, s, E, F = reals("p r s E F")
    here, there = (1 + p * (E - 1) - outside * (1 - F) for outside in (r, s))
    return real(
        p * (E - here) * there <= p * (E - there) * here,
        inverse(E, F),
        p >= 0,
        r >= 0,
        s >= 0,
        *([r <= s] if ordered else []),
        p + s <= 1,
    )


def _grows_in_delta(*, ordered: bool = True) -> Goal:
    # the same gain, as the weights may go further: E <= G
    p, r, E, F, G, H = reals("p r E F G H")
    here, there = (1 + p * (up - 1) - r * (1 - down) for up, down in ((E, F), (G, H)))
    return real(
        p * (E - here) * there <= p * (G - there) * here,
        inverse(E, F),
        inverse(G, H),
        *([E <= G] if ordered else []),
        p >= 0,
        r >= 0,
        p + r <= 1,
    )


def _raised_grows(*, first: bool = True) -> Goal:
    alpha, beta, x = reals("alpha beta x")
    return real(
        alpha * (1 - alpha) * (1 + beta * x) <= beta * (1 - beta) * (1 + alpha * x),
        x >= 0,
        between(0, alpha, beta, 1),
        *([beta * beta * x + 3 * beta <= 1] if first else []),
    )


def _raised_grows_in_delta(*, ordered: bool = True) -> Goal:
    alpha, x, z = reals("alpha x z")
    return real(
        x * (1 + alpha * z) <= z * (1 + alpha * x), between(0, alpha, 1), x >= 0, z >= 0, *([x <= z] if ordered else [])
    )


def _split_grows(*, ordered: bool = True) -> Goal:
    m, smaller, E = reals("m smaller E")
    return real(
        (E - m) * (E - m) <= (E - smaller) * (E - smaller), smaller >= 1, m <= E, *([smaller <= m] if ordered else [])
    )


LEMMAS = (
    Lemma(
        "tail_tv.simple_a",
        "p(E-W)(1+αx) <= αxW, for every W",
        _simple_a,
        partial(_simple_a, all_of_it=False),
    ),
    Lemma(
        "tail_tv.split_simple",
        "m <= V1 (second case): (E-m)²/(E²-1) <= αx/(1+αx)",
        _split_simple,
        partial(_split_simple, second=False),
    ),
    Lemma("tail_tv.simple", "α(1-α)x/(1+αx) <= αx/(1+αx) <= αx", _simple, partial(_simple, factor=2)),
    Lemma("tail_tv.as_stated", "2α(E-1) <= α(E²-1), the paper's", _as_stated, partial(_as_stated, factor=3)),
    Lemma("tail_tv.full", "α = 1: (E-m)²/(E²-1) = (E-1)/(E+1)", _full, partial(_full, one=False)),
    Lemma(
        "tail_tv.never_below",
        "α(1-α)x/V1 <= (E-m)²/(E²-1) always: the second formula is sound in the first case too",
        _never_below,
        partial(_never_below, factor=2),
    ),
    Lemma(
        "tail_tv.raised_attained",
        "r = 0: equality in the first case",
        _raised_attained,
        partial(_raised_attained, whole=False),
    ),
    Lemma(
        "tail_tv.split_attained",
        "p = (m-V0)/k: feasible and equal to the second case",
        _split_attained,
        partial(_split_attained, second=False),
    ),
    Lemma(
        "tail_tv.raised_form",
        "as evaluated: α(1-α)x/(1+αx) = α(1-α)y/(F+αy), y = 1-F",
        _raised_form,
        partial(_raised_form, y_is=2),
    ),
    Lemma(
        "tail_tv.split_form",
        "as evaluated, g² = V0 F: 1 - g² = y(1+αF)",
        _split_form,
        partial(_split_form, decayed=False),
    ),
    Lemma(
        "tail_tv.condition_form",
        "as evaluated: α²x + 3α <= 1 exactly if α²y + 3αF <= F",
        _condition_form,
        partial(_condition_form, scaled=False),
    ),
    Lemma(
        "tail_tv.grows_in_alpha",
        "r <= s: a set's gain p(E/W - 1) is no smaller when the tail holds s outside it, not r; so τ grows with α",
        _grows_in_alpha,
        partial(_grows_in_alpha, ordered=False),
    ),
    Lemma(
        "tail_tv.grows_in_delta",
        "E <= G: the same gain is no smaller when weights reach G and 1/G; so τ grows with Δ",
        _grows_in_delta,
        partial(_grows_in_delta, ordered=False),
    ),
    Lemma(
        "tail_tv.raised_grows",
        "first case: τ grows with α",
        _raised_grows,
        partial(_raised_grows, first=False),
    ),
    Lemma(
        "tail_tv.raised_grows_in_delta",
        "first case: τ grows with Δ",
        _raised_grows_in_delta,
        partial(_raised_grows_in_delta, ordered=False),
    ),
    Lemma(
        "tail_tv.split_grows",
        "second case: τ grows with α (m falls)",
        _split_grows,
        partial(_split_grows, ordered=False),
    ),
)
