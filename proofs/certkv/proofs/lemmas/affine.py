"""The affine quantizer's rounding chain, in real arithmetic: how far a reconstruction is from its original.

``lo`` the minimum, s the stored step, ``L`` the largest code, ``v`` the unit roundoff of the encoder's arithmetic.
docs/formats/channel.md states the chain; that codes stay in range in IEEE semantics is proved bit by bit elsewhere.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _quotient(*, both: bool = True) -> Goal:
    # Y = Q (1 + d1)(1 + d2): difference and quotient round once each
    Q, d1, d2, v = reals("Q d1 d2 v")
    return real(
        at_most(Q * (1 + d1) * (1 + d2) - Q, ((2 * v if both else v) + v * v) * Q),
        Q >= 0,
        at_most(d1, v),
        at_most(d2, v),
        between(0, v, 1),
    )


def _underflow(*, absolute: bool = True) -> Goal:
    # a quotient that underflows is off by at most e more
    Y, product, Q, e, relative = reals("Y product Q e relative")
    return real(
        at_most(Y - Q, relative * Q + (e if absolute else 0)),
        at_most(Y - product, e),
        at_most(product - Q, relative * Q),
        Q >= 0,
        e >= 0,
    )


def _range(*, up: bool = True) -> Goal:
    # a step at least (hi - lo)/L (1 - v)^2 covers the range: Q <= L / (1-v)^2
    Q, x, s, L, v, span = reals("Q x s L v span")
    return real(
        Q * (1 - v) * (1 - v) <= L,
        s > 0,
        Q * s == x,
        between(0, x, span),
        L > 0,
        between(0, v),
        v < 1,
        s * L >= span * (1 - v) * (1 - v) if up else 2 * s * L >= span,
    )


def _range_number(*, bits: int = 24) -> Goal:
    # L <= 255, v = 2^-24: Q <= L + 0.0021, with room for the subnormal case
    Q, L, v = reals("Q L v")
    return real(10000 * Q <= 10000 * L + 21, Q * (1 - v) * (1 - v) <= L, between(0, L, 255), v * 2**bits == 1, Q >= 0)


def _code(*, range_kept: bool = True) -> Goal:
    # rounding to the nearest integer, and clamping to [0, L] that never acts
    Q, Y, c, L, e = reals("Q Y c L e")
    return real(
        at_most(2 * (c - Q), 1 + 2 * e),
        at_most(Y - Q, e),
        e >= 0,
        at_most(2 * (c - Y), 1) if range_kept else c == L,
        between(0, Q),
        between(0, c, L),
    )


def _no_clamp(*, room: int = 2) -> Goal:
    # Y < L + 1/2: the nearest integer c is at most L. Of integers only this is used: c <= L or c >= L + 1
    Y, c, L = reals("Y c L")
    return real(c <= L, z3.Or(c <= L, c >= L + 1), room * (Y - L) < 1, at_most(2 * (c - Y), 1))


def _reconstruction(*, half: bool = True) -> Goal:
    # |x - x_hat| = s |code - Q|, x_hat = lo + s code exactly
    x, lo, s, c, Q, e = reals("x lo s c Q e")
    return real(
        at_most(2 * ((lo + s * c) - x), s * (1 + 2 * e if half else 1)),
        s >= 0,
        Q * s == x - lo,
        at_most(2 * (c - Q), 1 + 2 * e),
        e >= 0,
    )


def _figure(*, room: int = 1) -> Goal:
    # (L + 0.0021)(2v + v^2) + 2^-150 <= (L + 1) 2^-23
    L, Q, v, e = reals("L Q v e")
    return real(
        Q * (2 * v + v * v) + e <= (L + room) * 2 * v,
        v * 2**24 == 1,
        e * 2**150 == 1,
        L >= 3,
        L <= 255,
        10000 * Q <= 10000 * L + 21,
        Q >= 0,
    )


def _in_range(*, figure: int = 21) -> Goal:
    # so the computed quotient stays below L + 1/2
    L, Q, Y, v, e = reals("L Q Y v e")
    return real(
        2 * (Y - L) < 1,
        v * 2**24 == 1,
        e * 2**150 == 1,
        between(3, L, 255),
        between(0, 10000 * Q, 10000 * L + figure),
        at_most(Y - Q, Q * (2 * v + v * v) + e),
    )


def _decode(*, relative: bool = True) -> Goal:
    # one more rounding where the decode is rounded: x' = x_hat (1 + d)
    x, x_hat, d, u, e = reals("x x_hat d u e")
    size = z3.If(x >= 0, x, -x)
    return real(
        at_most(x_hat * (1 + d) - x, (1 + u) * e + (u * size if relative else 0)),
        at_most(x_hat - x, e),
        at_most(d, u),
        u >= 0,
        e >= 0,
    )


def _constant(*, zero: bool = True) -> Goal:
    # a constant channel: step 0, code 0, no error
    x, lo, hi, s, c = reals("x lo hi s c")
    return real(lo + s * c == x, between(lo, x, hi), hi == lo if zero else hi >= lo, s == 0, c == 0)


LEMMAS = (
    Lemma(
        "affine.quotient",
        "difference and quotient round once each: |Q(1+d1)(1+d2) - Q| <= (2v + v²)Q",
        _quotient,
        partial(_quotient, both=False),
    ),
    Lemma(
        "affine.underflow",
        "a quotient that underflows is off by at most e more",
        _underflow,
        partial(_underflow, absolute=False),
    ),
    Lemma(
        "affine.range",
        "s L >= span (1-v)²: Q (1-v)² <= L, the step rounded up covers the range",
        _range,
        partial(_range, up=False),
    ),
    Lemma(
        "affine.range_number",
        "L <= 255, v = 2⁻²⁴: Q <= L + 0.0021",
        _range_number,
        partial(_range_number, bits=8),
    ),
    Lemma(
        "affine.in_range",
        "Q <= L + 0.0021: the computed quotient is below L + 1/2",
        _in_range,
        partial(_in_range, figure=6000),
    ),
    Lemma("affine.no_clamp", "Y < L + 1/2: the nearest integer is at most L", _no_clamp, partial(_no_clamp, room=1)),
    Lemma(
        "affine.code",
        "|code - Y| <= 1/2, |Y - Q| <= e: |code - Q| <= 1/2 + e; a code clamped from afar is refuted",
        _code,
        partial(_code, range_kept=False),
    ),
    Lemma(
        "affine.reconstruction",
        "|code - Q| <= 1/2 + e: |lo + s code - x| <= s(1/2 + e)",
        _reconstruction,
        partial(_reconstruction, half=False),
    ),
    Lemma(
        "affine.figure",
        "Q(2v + v²) + 2⁻¹⁵⁰ <= (L+1)2⁻²³, the figure of docs/formats/channel.md",
        _figure,
        partial(_figure, room=-1),
    ),
    Lemma(
        "affine.decode",
        "a rounded decode: |x̂(1+d) - x| <= (1+u)e + u|x|",
        _decode,
        partial(_decode, relative=False),
    ),
    Lemma("affine.constant", "hi = lo, step 0, code 0: x̂ = x", _constant, partial(_constant, zero=False)),
)
