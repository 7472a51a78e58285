"""States that are corrected again and again: errors carried along as they arise, and references that rise."""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, real, reals

BIAS = 14
"""Bits by which a block's largest weight is above 1: 2^14 is below 65504."""


def _round(*, again: bool = True) -> Goal:
    # l' = l + c; L' = L + into - w, w what is inside the state, out what was read: within r of it
    l_new, L_new, l_old, L, e, c, out, into, w, g, r = reals("l_new L_new l L e c out into w g r")
    return real(
        at_most(l_new - L_new, e + (g + (r if again else 0)) * (out + into)),
        l_new == l_old + c,
        L_new == L + into - w,
        at_most(l_old - L, e),
        at_most(c - (into - out), g * (out + into)),
        at_most(out - w, r * out),
        *[x >= 0 for x in (out, into, g, r)],
    )


def _values_only(*, both: bool = True) -> Goal:
    # w V + a (V' - V) in place of w V': one coordinate, with weights within r a of each other
    w, a, v, v_new, n, n_new, r = reals("w a v v_new n n_new r")
    return real(
        at_most(w * v + a * (v_new - v) - w * v_new, r * a * (n + n_new if both else n)),
        at_most(w - a, r * a),
        at_most(v, n),
        at_most(v_new, n_new),
        *[x >= 0 for x in (a, r, n, n_new)],
    )


def _both_sides(*, taken: bool = True) -> Goal:
    # w V - a V + b V' in place of b V'
    w, a, b, v, v_new, n, r = reals("w a b v v_new n r")
    return real(
        at_most(w * v + (b * v_new - a * v if taken else b * v_new - b * v) - b * v_new, r * a * n),
        at_most(w - a, r * a),
        at_most(v, n),
        *[x >= 0 for x in (a, b, r, n)],
    )


def _kept(*, carried: bool = True) -> Goal:
    # at least 2^-14 of the first denominator is carried, at most 2^-10 of this one
    e, first, now = reals("e l_first l")
    return real(first <= 16 * now, 1024 * e <= now, 16384 * e >= first if carried else 32768 * e >= first, first > 0)


def _denominator(*, left: bool = True) -> Goal:
    # what is carried bounds the real denominator from below
    e, now, exact = reals("e l L")
    return real(
        1024 * exact >= 1023 * now, at_most(now - exact, e), now > 0, *([1024 * e <= now] if left else [e <= now])
    )


def _risen(*, rises: bool = True) -> Goal:
    # the exponent of a weight relative to a risen reference is at most the bias, 2^14 < 65504
    old, new, bits, top = reals("r_old r_new x top")
    return real(
        bits - new <= BIAS,
        bits <= top,
        new >= old,
        new >= top - BIAS if rises else new == old,
    )


LEMMAS = (
    Lemma(
        "correction.round",
        "|l - L| <= e + (g + r)(Σa + Σb) after a round, whatever a and b are",
        _round,
        partial(_round, again=False),
    ),
    Lemma(
        "correction.values_only",
        "promoted value, weight read as a: |wV + a(V' - V) - wV'| <= ra(|V| + |V'|)",
        _values_only,
        partial(_values_only, both=False),
    ),
    Lemma(
        "correction.both_sides",
        "promoted key and value: |wV + bV' - aV - bV'| <= ra|V|",
        _both_sides,
        partial(_both_sides, taken=False),
    ),
    Lemma(
        "correction.sixteenth",
        "2^-14 of the first l is carried, at most 2^-10 of this one: l >= l_first/16",
        _kept,
        partial(_kept, carried=False),
    ),
    Lemma(
        "correction.left",
        "|l - L| <= e <= l/1024: L >= (1 - 2^-10) l",
        _denominator,
        partial(_denominator, left=False),
    ),
    Lemma("correction.risen", "r' >= max x - 14: x - r' <= 14", _risen, partial(_risen, rises=False)),
)
