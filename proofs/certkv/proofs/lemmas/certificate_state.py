"""Theorem ``certificate_state``: block terms are homogeneous, so sums of them rescale and merge like l and o.

Associativity, commutativity and the identity are those of `softmax_state`, whose x stands for any of l, o, A, G, U, D.
Weights times a factor g > 0 are the weights in another reference.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _min(x: Any, y: Any) -> Any:
    return z3.If(x <= y, x, y)


def _norm(*, squared: bool = False) -> Goal:
    # g ||x|| is the norm of g x: not negative, and its square is the sum of squares; two components
    n, x, y, g = reals("n x y g")
    scaled = g * g * n if squared else g * n
    return real(
        z3.And(scaled >= 0, scaled * scaled == (g * x) * (g * x) + (g * y) * (g * y)),
        g > 0,
        n >= 0,
        n * n == x * x + y * y,
    )


def _rest(*, own: bool = True) -> Goal:
    # norm of all but the heaviest token, top = g top: (g r)^2 = g^2 q - (g top)^2
    rest, scaled, q, top, g = reals("rest scaled q top g")
    return real(
        scaled == g * rest,
        g > 0,
        rest >= 0,
        scaled >= 0,
        between(0, top * top, q),
        rest * rest == q - top * top,
        scaled * scaled == g * g * q - ((g if own else 1) * top) * ((g if own else 1) * top),
    )


def _minimum(*, positive: bool = True) -> Goal:
    x, y, g = reals("x y g")
    return real(_min(g * x, g * y) == g * _min(x, y), g >= 0 if positive else g <= 1)


def _ratio(*, both: bool = True) -> Goal:
    # D1(a')/rho does not change: D_b is rho times a function of it
    r, scaled, d1, rho, g = reals("r scaled d1 rho g")
    return real(scaled == r, g > 0, rho > 0, r * rho == d1, scaled * (g * rho) == (g if both else g * g) * d1)


def _rescaled(*, once: bool = True) -> Goal:
    # terms of degree 1 from weights p e^{m1 - M} are e^{m1 - M} times those from p: x M is what it was, x1 M1
    x1, M1, x, M, f = reals("x1 M1 x M f")
    return real(x * M == x1 * M1, M1 > 0, M >= M1, f * M == M1, x == (f if once else f * f) * x1)


def _any_reference(*, weighted: bool = True) -> Goal:
    # the bound does not depend on the reference: all contents times g
    lam, mu, A, G, U, D, left, gamma, eps, g = reals("lam mu A G U D l gamma eps g")
    charge = (g * left if weighted else 1) * eps
    return real(
        lam == mu,
        g > 0,
        D > 0,
        lam * D == A + gamma * G + U + (left if weighted else 1) * eps,
        mu * (g * D) == g * A + gamma * (g * G) + g * U + charge,
    )


def _normalised(*, weighted: bool = True) -> Goal:
    # with shares a' = p/l: the quotient of unnormalised sums is the certificate
    lam, mu, a, b, c, d, left, gamma, eps = reals("lam mu a b c d l gamma eps")
    return real(
        lam == mu,
        left > 0,
        d > 0,
        lam * d == a + gamma * b + c + eps,
        mu * (left * d) == left * a + gamma * (left * b) + left * c + (left if weighted else 1) * eps,
    )


def _rounded(*, each: bool = True) -> Goal:
    # induction: f1 x1 + f2 x2 with its three roundings keeps a lower share L of the exact sum
    x1, x2, y1, y2, f1, f2, L, u, a, b, c = reals("x1 x2 y1 y2 f1 f2 L u a b c")
    kept = (1 - u) * (1 - u) if each else (1 - u)
    return real(
        (f1 * y1 * (1 + a) + f2 * y2 * (1 + b)) * (1 + c) >= L * kept * (f1 * x1 + f2 * x2),
        between(0, L),
        *[z >= 0 for z in (x1, x2, f1, f2)],
        y1 >= L * x1,
        y2 >= L * x2,
        u > 0,
        u < 1,
        *[at_most(t, u) for t in (a, b, c)],
    )


def _raised(*, above: bool = True) -> Goal:
    # a factor that underflowed, replaced by one above it: upper sums stay above
    f, used, x, y, rest = reals("f used x y rest")
    return real(rest + used * y >= rest + f * x, between(0, f), between(0, x, y), used >= f if above else used >= 0)


def _lowered(*, dropped: bool = True) -> Goal:
    # and by zero: lower sums stay below
    f, used, x, y, rest = reals("f used x y rest")
    return real(rest + used * y <= rest + f * x, between(0, f), between(0, y, x), used == 0 if dropped else used >= 0)


def _lost(*, inside: bool = True) -> Goal:
    # what underflow took from the sums was at most h each
    A, G, U, left, gamma, eps, a, g, c, b, h = reals("A G U l gamma eps a g c b h")
    more = h if inside else 0
    return real(
        A + gamma * G + U + left * eps <= (a + h) + gamma * (g + more) + (c + h) + (b + h) * eps,
        gamma >= 0,
        eps >= 0,
        h > 0,
        *[x <= y + h for x, y in ((A, a), (G, g), (U, c), (left, b))],
    )


def _split(*, larger: bool = True) -> Goal:
    # ||(x, y)|| <= ||x|| + ||y|| <= sqrt 2 ||(x, y)||: the root forms of two halves are looser together
    n, n1, n2 = reals("n n1 n2")
    total = n1 + n2
    conclusion = z3.And(n <= total, total * total <= 2 * n * n) if larger else total <= n
    return real(conclusion, n >= 0, n1 >= 0, n2 >= 0, n * n == n1 * n1 + n2 * n2)


LEMMAS = (
    Lemma("certificate_state.norm", "‖g x‖ = g ‖x‖ (2 components)", _norm, partial(_norm, squared=True)),
    Lemma(
        "certificate_state.rest",
        "the norm without the heaviest token: √(g²q - (g top)²) = g √(q - top²)",
        _rest,
        partial(_rest, own=False),
    ),
    Lemma(
        "certificate_state.minimum", "min(g x, g y) = g min(x, y), g >= 0", _minimum, partial(_minimum, positive=False)
    ),
    Lemma("certificate_state.ratio", "(g D_1)/(g ρ) = D_1/ρ", _ratio, partial(_ratio, both=False)),
    Lemma(
        "certificate_state.rescaled",
        "terms of degree 1 in another reference: x e^m is what it was",
        _rescaled,
        partial(_rescaled, once=False),
    ),
    Lemma(
        "certificate_state.any_reference",
        "(A + γG + U + lε)/D is the same in every reference",
        _any_reference,
        # unweighted on both sides, the charge changes with the reference
        partial(_any_reference, weighted=False),
    ),
    Lemma(
        "certificate_state.normalised",
        "with l times the normalised sums, (A + γG + U + lε)/D is the certificate",
        _normalised,
        partial(_normalised, weighted=False),
    ),
    Lemma(
        "certificate_state.rounded",
        "induction: two roundings a merge, each at most a factor 1-u on a sum of non-negative terms",
        _rounded,
        partial(_rounded, each=False),
    ),
    Lemma(
        "certificate_state.raised", "a larger factor keeps an upper sum above", _raised, partial(_raised, above=False)
    ),
    Lemma(
        "certificate_state.lowered",
        "a factor of zero keeps a lower sum below",
        _lowered,
        partial(_lowered, dropped=False),
    ),
    Lemma(
        "certificate_state.lost",
        "underflow of at most h in each of A, G, U, l is covered by adding h to each",
        _lost,
        partial(_lost, inside=False),
    ),
    Lemma(
        "certificate_state.split",
        "‖(x, y)‖ <= ‖x‖ + ‖y‖ <= √2 ‖(x, y)‖: of the forms with Ω‖β‖, those of two halves are looser",
        _split,
        partial(_split, larger=False),
    ),
)
