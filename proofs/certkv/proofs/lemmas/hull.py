"""Theorem ``hull``: ``||O - c|| <= max_t ||V_t - c||``, O a convex combination of the values; and the two radii.

Vectors are `norms`: three points lie in a plane, and ``||sum a (V - c)|| <= sum a ||V - c||`` goes token by token.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, real, reals


def _step(*, covered: bool = True) -> Goal:
    # ``sum a ||V - c|| <= (sum a) R`` survives a token
    total, mass, a, distance, radius = reals("total mass a distance R")
    return real(
        total + a * distance <= (mass + a) * radius,
        total <= mass * radius,
        a >= 0,
        distance >= 0,
        distance <= radius if covered else distance <= 2 * radius,
    )


def _close(*, normalised: bool = True) -> Goal:
    # with every token in, the mass is 1; the largest block radius bounds all
    error, mass, radius = reals("error mass R")
    return real(error <= radius, error <= mass * radius, radius >= 0, mass == 1 if normalised else mass >= 1)


def _centre(*, normalised: bool = True) -> Goal:
    # ``O - c = sum a (V - c)``, one coordinate, n = 3
    a, v = reals("a0 a1 a2"), reals("v0 v1 v2")
    (c,) = reals("c")
    mean = z3.Sum([x * y for x, y in zip(a, v, strict=True)])
    shifted = z3.Sum([x * (y - c) for x, y in zip(a, v, strict=True)])
    return real(mean - c == shifted, *([z3.Sum(a) == 1] if normalised else [z3.Sum(a) <= 1]))


def _largest(*, every: bool = True) -> Goal:
    # a token's radius is at most the largest block radius
    distance, mine, other, radius = reals("distance R0 R1 R")
    return real(
        distance <= radius,
        distance <= mine,
        radius == z3.If(mine >= other, mine, other) if every else radius == other,
    )


def _plain(*, both: bool = True) -> Goal:
    # ``||V - c||^2 = ||V||^2 - 2 V.c + ||c||^2``; `norms.cross` with ``-c`` bounds the inner product
    vv, cc, vc, nu, size = reals("vv cc vc nu size")
    bound = nu + size if both else nu
    return real(
        vv - 2 * vc + cc <= bound * bound, nu >= 0, size >= 0, vv <= nu * nu, cc <= size * size, -vc <= nu * size
    )


def _anchored(*, fixed: bool = True) -> Goal:
    # ``V - c = (V - mu) - (c - mu)``: with the same mu in both, the plain radius applies to the shifted vectors
    v, c, mu, moved, near, far = reals("v c mu moved near far")
    return real(
        at_most(v - c, near + far),
        at_most(v - mu, near),
        at_most(c - moved, far),
        moved == mu if fixed else moved >= mu,
    )


LEMMAS = (
    Lemma(
        "hull.step",
        "induction: Σa‖V - c‖ <= (Σa) R survives a token within R of c",
        _step,
        partial(_step, covered=False),
    ),
    Lemma("hull.close", "Σa = 1: ‖O - c‖ <= R", _close, partial(_close, normalised=False)),
    Lemma("hull.centre", "Σa = 1: O - c = Σa(V - c)", _centre, partial(_centre, normalised=False)),
    Lemma("hull.largest", "R the largest block radius covers every token", _largest, partial(_largest, every=False)),
    Lemma("hull.plain", "‖V‖ <= ν, ‖c‖ <= s gives ‖V - c‖ <= ν + s", _plain, partial(_plain, both=False)),
    Lemma(
        "hull.anchored",
        "|V - μ| <= r, |c - μ| <= s, the same μ, gives |V - c| <= r + s",
        _anchored,
        partial(_anchored, fixed=False),
    ),
)
