"""Theorem ``log_codes``: a code's meaning is at least what it was made from, and little above."""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, real, reals
from certkv.reference.annotations.log_codes import MANTISSAS

TABLE = tuple(int(m) for m in MANTISSAS)


def _mantissa(*, below: int = 1) -> Goal:
    # m[j] is the ceiling of 2^(16 - j/8): at least it, and one less is below it; eighth powers instead of roots
    (m,) = reals("m")
    parts = []
    for j, entry in enumerate(TABLE):
        eighth = z3.RealVal(2 ** (128 - j))
        squared = m * m
        fourth = squared * squared
        parts.append(z3.Implies(m >= entry, fourth * fourth >= eighth))
        if j:  # 2^16 itself is a whole number
            parts.append(z3.Implies(z3.And(m >= 0, m <= entry - below), fourth * fourth < eighth))
    return real(z3.And(parts))


def _too_far(*, spaced: bool = True) -> Goal:
    # q = fl(x/M) at most the ratio r of the chosen code; the exact quotient t is at most the ratio s of the one before
    t, q, r, s, u = reals("t q r s u")
    return real(
        t <= s,
        t * (1 - u) <= q,
        q <= r,
        r * (1 + 2 * u) <= s if spaced else r <= s,
        between(0, q),
        between(0, u),
        2 * u <= 1,
        u > 0,
    )


def _never_short(*, monotone: bool = True) -> Goal:
    # rounding is monotone and r is a number of the type: x/M <= r gives fl(x/M) <= r, so no code is passed over
    t, q, r, rounded_r = reals("t q r fl_r")
    ordered = z3.Implies(t <= r, q <= rounded_r)
    return real(q <= r, t <= r, *([ordered] if monotone else []), rounded_r == r)


def _upper(*, checked: bool = True) -> Goal:
    # what `encode` returns: the guess if its meaning is at least x, else the code before, which is by `too_far`
    x, M, guess, before, chosen = reals("x M guess before chosen")
    fits = guess * M >= x if checked else z3.BoolVal(True)
    return real(
        chosen * M >= x,
        x <= before * M,
        M > 0,
        chosen == z3.If(fits, guess, before),
        guess <= before,
    )


def _tight(*, largest: bool = True) -> Goal:
    # the next code's meaning is below x, and codes are a factor f apart
    x, M, r, following, f = reals("x M r next f")
    return real(
        r * M <= f * x,
        *([following * M <= x] if largest else []),
        between(0, r, f * following),
        M > 0,
        f >= 1,
    )


LEMMAS = (
    Lemma(
        "log_codes.mantissa",
        "j = 0..7: m >= m[j] gives m^8 >= 2^(128-j), 0 <= m <= m[j] - 1 gives m^8 < 2^(128-j)",
        _mantissa,
        partial(_mantissa, below=0),
    ),
    Lemma(
        "log_codes.never_short",
        "x/M <= r, rounding monotone and r rounded to itself: fl(x/M) <= r",
        _never_short,
        partial(_never_short, monotone=False),
    ),
    Lemma(
        "log_codes.too_far",
        "fl(t) <= r, (1 + 2u) r <= s gives t <= s: the code guessed from a rounded quotient is at most one too far",
        _too_far,
        partial(_too_far, spaced=False),
    ),
    Lemma(
        "log_codes.upper",
        "the guess if its meaning is >= x, else the code before: the meaning is >= x",
        _upper,
        partial(_upper, checked=False),
    ),
    Lemma(
        "log_codes.tight",
        "the next meaning is <= x and codes are at most a factor f apart: the meaning is <= f x",
        _tight,
        partial(_tight, largest=False),
    ),
)
