"""Theorem ``sharp``: the shape of T, the steps towards its root, and its evaluation from bounds, rounded outward."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.sharp import largest, size, smallest
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, inverse, real, reals


def _decreasing(*, weights: bool = True) -> Goal:
    # A = rho |E - kappa| R and so on: the smaller of max(A - lambda E, B - lambda F) and C - lambda D falls; the lines
    # are named at lambda, and drop by h times their slopes
    raised, lowered, capped, E, F, D, h = reals("raised lowered capped E F D h")
    drop_e, drop_f, drop_d = reals("drop_e drop_f drop_d")
    return real(
        smallest(largest(raised - drop_e, lowered - drop_f), capped - drop_d)
        <= smallest(largest(raised, lowered), capped),
        z3.And(drop_e == h * E, drop_f == h * F, drop_d == h * D),
        h >= 0,
        E >= 0 if weights else E >= -1,
        F >= 0,
        D >= 0,
    )


def _convex(*, alternative: bool = False) -> Goal:
    # a bracket lies below its chord; with an alternative it need not
    a, b, E, F, C, D, low, high, s = reals("a b E F C D low high s")

    def term(x: Any) -> Any:
        inner = largest(a - x * E, b - x * F)
        return smallest(inner, C - x * D) if alternative else inner

    return real(
        term(s * low + (1 - s) * high) <= s * term(low) + (1 - s) * term(high),
        between(0, s, 1),
        low <= high,
        between(0, F, E),
        D >= 0,
    )


def _falsi(*, convex: bool = True) -> Goal:
    # z08: the chord's zero x between T(low) > 0 >= T(high)
    low, high, x, t_low, t_high, t_x = reals("low high x t_low t_high t_x")
    chord = t_low * (high - x) + t_high * (x - low)
    return real(
        t_x <= 0,
        low < high,
        between(low, x, high),
        t_low > 0,
        t_high <= 0,
        chord == 0,
        t_x * (high - low) <= chord if convex else t_x <= t_low,
    )


def _newton(*, below: bool = True) -> Goal:
    # the tangent's zero x right of low, T(low) > 0: T lies above its tangent
    low, x, t_low, t_x, slope = reals("low x t_low t_x slope")
    line = t_low + slope * (x - low)
    return real(t_x >= 0, t_low > 0, slope < 0, line == 0, t_x >= line if below else t_x >= line - 1)


def _mass(*, by_sign: bool = True) -> Goal:
    # rho g, one block beside the rest
    rest, rest_ub, rho, low, high, g, g_ub = reals("rest rest_ub rho low high g g_ub")
    mass = z3.If(g_ub > 0, high, low) if by_sign else high
    return real(
        rest + rho * g <= rest_ub + mass * g_ub,
        rest <= rest_ub,
        between(0, low, rho, high),
        g <= g_ub,
    )


def _mass_convex(*, by_sign: bool = True) -> Goal:
    # the mass by the sign of the bracket keeps T convex: it is max(high g, low g)
    g, low, high = reals("g low high")
    chosen = z3.If(g > 0, high, low) if by_sign else z3.If(g > 0, low, high)
    return real(chosen * g == largest(high * g, low * g), between(0, low, high))


def _raised(*, by_sign: bool = True) -> Goal:
    # E h, where E is known from both sides only, perhaps far apart
    E, E_lb, E_ub, h, h_ub = reals("E E_lb E_ub h h_ub")
    factor = z3.If(h_ub > 0, E_ub, E_lb) if by_sign else E_ub
    return real(E * h <= factor * h_ub, between(1, E_lb, E, E_ub), h <= h_ub)


def _factored(*, inverse_of: bool = True) -> Goal:
    # |E - kappa| R - lambda E = E (|1 - kappa F| R - lambda), and how 1 - kappa F is evaluated
    E, F, kappa, R, lam = reals("E F kappa R lam")
    return real(
        z3.And(
            size(E - kappa) * R - lam * E == E * (size((1 - kappa) + kappa * (1 - F)) * R - lam),
            F - kappa == (1 - kappa) - (1 - F),
        ),
        inverse(E, F) if inverse_of else z3.And(E >= 1, F > 0),
    )


def _distance(*, both: bool = True) -> Goal:
    # computed x, y for X, Y with relative errors e: |X + Y| <= |x + y| + e (|x| + |y|)
    X, Y, x, y, e = reals("X Y x y e")
    slack = e * (size(x) + size(y)) if both else e * size(x + y)
    return real(size(X + Y) <= size(x + y) + slack, e >= 0, at_most(X - x, e * size(x)), at_most(Y - y, e * size(y)))


def _difference(*, outward: bool = True) -> Goal:
    # fl(d + 4u|d|) >= x - y for d = fl(x - y)
    x, y, d, r, u, e = reals("x y d r u e")
    return real(
        x - y <= r,
        between(0, 1024 * u, 1),
        at_most(x - y - d, u * size(d)),
        at_most(e, u),
        r == (d + 4 * u * size(d) if outward else d) * (1 + e),
    )


LEMMAS = (
    Lemma(
        "sharp.decreasing",
        "a block's share min{ρ max over w of (|w-κ|R - λw), C - λD} does not rise with λ",
        _decreasing,
        partial(_decreasing, weights=False),
    ),
    Lemma(
        "sharp.convex",
        "max(a - λE, b - λF) lies below its chords; its smaller with C - λD need not",
        _convex,
        partial(_convex, alternative=True),
    ),
    Lemma(
        "sharp.falsi",
        "T(lo) > 0 >= T(hi), T below its chord: T <= 0 at the chord's zero",
        _falsi,
        partial(_falsi, convex=False),
    ),
    Lemma(
        "sharp.newton",
        "T(lo) > 0, T above its tangent: T >= 0 at the tangent's zero",
        _newton,
        partial(_newton, below=False),
    ),
    Lemma(
        "sharp.mass",
        "mass_lb <= ρ <= mass_ub, g <= g_ub: ρg <= (g_ub > 0 ? mass_ub : mass_lb) g_ub, beside other blocks",
        _mass,
        partial(_mass, by_sign=False),
    ),
    Lemma(
        "sharp.mass_convex",
        "the mass by the sign of g gives max(mass_ub g, mass_lb g), so T stays convex and decreasing",
        _mass_convex,
        partial(_mass_convex, by_sign=False),
    ),
    Lemma(
        "sharp.raised",
        "1 <= E_lb <= E <= E_ub, h <= h_ub: E h <= (h_ub > 0 ? E_ub : E_lb) h_ub",
        _raised,
        partial(_raised, by_sign=False),
    ),
    Lemma(
        "sharp.factored",
        "|E-κ|R - λE = E(|(1-κ) + κ(1-F)|R - λ) and F-κ = (1-κ) - (1-F)",
        _factored,
        partial(_factored, inverse_of=False),
    ),
    Lemma(
        "sharp.distance",
        "relative errors e of x and y: |X + Y| <= |x + y| + e(|x| + |y|)",
        _distance,
        partial(_distance, both=False),
    ),
    Lemma(
        "sharp.difference",
        "d = fl(x - y): fl(d + 4u|d|) >= x - y",
        _difference,
        partial(_difference, outward=False),
    ),
)
