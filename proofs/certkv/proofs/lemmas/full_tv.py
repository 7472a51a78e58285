"""Lemma ``full_tv``: ``TV <= (E - 1)/(E + 1) = tanh(Delta/2)``, attained; ``tanh(Delta)`` never is.

For a set S let p be its mass under the executed weights ``a'`` and X, Y the sums of ``a' w`` inside and outside, all
``w`` in ``[F, E]`` (`mass.above` and `mass.below` give ``X <= p E`` and ``Y >= (1 - p) F``). Its exact mass is
``X / (X + Y)``, and TV is the largest ``X / (X + Y) - p``; lemmas are multiplied out.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, inverse, real, reals


def _share(*, inside: bool = True) -> Goal:
    X, Y, p, E, F = reals("X Y p E F")
    return real(
        X * (p * E + (1 - p) * F) <= p * E * (X + Y),
        inverse(E, F),
        between(0, p, 1),
        X >= 0,
        (1 - p) * F <= Y,
        *([p * E >= X] if inside else []),
    )


def _vertex(*, shift: int = 1) -> Goal:
    # p E / (p E + (1-p) F) - p, times E above and below
    p, E = reals("p E")
    return real((E - 1) * (1 + p * (E * E - 1)) >= p * (1 - p) * (E * E - 1) * (E + shift), E >= 1, between(0, p, 1))


def _square(*, shift: int = 1) -> Goal:
    p, E = reals("p E")
    difference = (E - 1) * (1 + p * (E * E - 1)) - p * (1 - p) * (E * E - 1) * (E + 1)
    root = 1 - p * (E + shift)
    return real(difference == (E - 1) * root * root)


def _bound(*, shift: int = 1) -> Goal:
    X, Y, p, E, F = reals("X Y p E F")
    return real(
        (X - p * (X + Y)) * (E + shift) <= (E - 1) * (X + Y),
        inverse(E, F),
        between(0, p, 1),
        between(0, X, p * E),
        (1 - p) * F <= Y,
    )


def _attained(*, at: bool = True) -> Goal:
    X, Y, p, E, F = reals("X Y p E F")
    return real(
        (X - p * (X + Y)) * (E + 1) == (E - 1) * (X + Y),
        inverse(E, F),
        p * (E + 1) == 1 if at else p * (E + 1) <= 1,
        p >= 0,
        p * E == X,
        (1 - p) * F == Y,
    )


def _never(*, positive: bool = True) -> Goal:
    X, Y, p, E, F = reals("X Y p E F")
    return real(
        (X - p * (X + Y)) * (E * E + 1) < (E * E - 1) * (X + Y),
        inverse(E, F),
        E > 1 if positive else E >= 1,
        between(0, p, 1),
        between(0, X, p * E),
        (1 - p) * F <= Y,
        X + Y > 0,
    )


def _ratio(*, most: int = 2) -> Goal:
    # tanh(Delta) / tanh(Delta/2) = (E+1)^2 / (E^2+1)
    (E,) = reals("E")
    return real(z3.And(E * E + 1 < (E + 1) * (E + 1), most * (E * E + 1) > (E + 1) * (E + 1)), E > 1)


def _corner(*, power: int = 2) -> Goal:
    w_t, w_u, E, F = reals("w_t w_u E F")
    most = E * E if power == 2 else E
    return real(w_t <= most * w_u, inverse(E, F), between(F, w_t, E), between(F, w_u, E))


def _two_tokens(*, shift: int = 1) -> Goal:
    a, w0, w1, E, F = reals("a w0 w1 E F")
    W = a * w0 + (1 - a) * w1
    return real(
        (a * w0 - a * W) * (E + shift) <= (E - 1) * W,
        inverse(E, F),
        between(0, a, 1),
        between(F, w0, E),
        between(F, w1, E),
    )


LEMMAS = (
    Lemma(
        "full_tv.share",
        "X <= pE, Y >= (1-p)F: the exact share X/(X+Y) is at most pE/(pE + (1-p)F)",
        _share,
        partial(_share, inside=False),
    ),
    Lemma(
        "full_tv.vertex",
        "pE/(pE + (1-p)F) - p <= (E-1)/(E+1)",
        _vertex,
        partial(_vertex, shift=2),
    ),
    Lemma(
        "full_tv.square",
        "identity: the slack of full_tv.vertex is (E-1)(1 - p(E+1))², so it is 0 exactly at p = 1/(E+1)",
        _square,
        partial(_square, shift=2),
    ),
    Lemma("full_tv.bound", "at once: X/(X+Y) - p <= (E-1)/(E+1)", _bound, partial(_bound, shift=2)),
    Lemma(
        "full_tv.attained",
        "p = 1/(E+1), X = pE, Y = (1-p)F: equality, so tanh(Δ/2) is sharp",
        _attained,
        partial(_attained, at=False),
    ),
    Lemma(
        "full_tv.never_tanh",
        "E > 1: X/(X+Y) - p < (E²-1)/(E²+1), so tanh(Δ) is never attained",
        _never,
        partial(_never, positive=False),
    ),
    Lemma(
        "full_tv.ratio",
        "E > 1: tanh(Δ)/tanh(Δ/2) = (E+1)²/(E²+1) lies between 1 and 2",
        _ratio,
        partial(_ratio, most=1),
    ),
    Lemma(
        "full_tv.corner",
        "weights in [F, E]: w_t/w_u <= E², so the paper's vertex (E⁴) is infeasible",
        _corner,
        partial(_corner, power=1),
    ),
    Lemma(
        "full_tv.two_tokens",
        "n = 2, S one token: (a'w_0 - a'W)(E+1) <= (E-1)W",
        _two_tokens,
        partial(_two_tokens, shift=2),
    ),
)
