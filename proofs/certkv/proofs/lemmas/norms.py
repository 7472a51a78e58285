"""Euclidean norms, for all theorems: two vectors lie in a plane, so two coordinates stand for any head size.

A sum over any number of tokens is an induction: `norms.cross` and `norms.add` are its step, a partial sum and one
more vector.
"""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import norm_at_most, real, reals


def _cross(*, factor: int = 1) -> Goal:
    # cauchy-Schwarz in the plane, from bounds of two norms
    x, y = reals("x1 x2"), reals("y1 y2")
    X, Y = reals("X Y")
    return real(factor * (x[0] * y[0] + x[1] * y[1]) <= X * Y, norm_at_most(x, X), norm_at_most(y, Y))


def _add(*, factor: int = 1) -> Goal:
    # the triangle inequality between squares; the inner product is bounded by `norms.cross`
    xx, yy, xy, X, Y, a = reals("xx yy xy X Y a")
    return real(
        xx + 2 * a * xy + a * a * yy <= (X + a * Y) * (X + a * Y),
        X >= 0,
        Y >= 0,
        a >= 0,
        xx <= X * X,
        yy <= Y * Y,
        xy <= factor * X * Y,
    )


def _expand(*, sign: int = 1) -> Goal:
    # the square of the norm of ``x + a y`` in one coordinate; coordinates add
    x, y, a = reals("x y a")
    return real((x + a * y) * (x + a * y) == x * x + sign * 2 * a * x * y + a * a * y * y)


def _root(*, positive: bool = True) -> Goal:
    # from squares back to norms
    x, y = reals("x y")
    return real(x <= y, x * x <= y * y, *([y >= 0] if positive else []))


LEMMAS = (
    Lemma(
        "norms.cross",
        "two vectors, in the plane they span: ‖x‖ <= X, ‖y‖ <= Y gives x·y <= XY",
        _cross,
        partial(_cross, factor=2),
    ),
    Lemma(
        "norms.expand",
        "one coordinate: (x + ay)² = x² + 2axy + a²y²; sums over coordinates follow",
        _expand,
        partial(_expand, sign=-1),
    ),
    Lemma(
        "norms.add",
        "‖x‖ <= X, ‖y‖ <= Y, x·y <= XY, a >= 0 gives ‖x‖² + 2a x·y + a²‖y‖² <= (X + aY)²",
        _add,
        partial(_add, factor=2),
    ),
    Lemma("norms.root", "x² <= y², y >= 0 gives x <= y", _root, partial(_root, positive=False)),
)
