"""Theorem ``quotient``: terms of blocks become the bound of a head.

``e`` is ``||O - c||``, N the numerator, D the denominator; a block adds key term, value term and weight.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _blocks(*, every: bool = True) -> Goal:
    # |sum of the blocks' vectors| <= sum of their terms survives a block; one coordinate
    total, N, key, value, C, U = reals("total N key value C U")
    return real(
        at_most(total + key + value, N + C + (U if every else 0)), at_most(total, N), at_most(key, C), at_most(value, U)
    )


def _denominator(*, below: bool = True) -> Goal:
    # W >= sum D_b survives a block
    W, D, w, d = reals("W D w d")
    return real(W + w >= D + d, W >= D, w >= d if below else 2 * w >= d)


def _bound(*, counted: bool = True) -> Goal:
    # W e <= N + eps, W >= D > 0
    e, W, N, eps, D, bound = reals("e W N eps D bound")
    return real(
        e <= bound,
        bound * D == (N + eps if counted else N),
        e * W <= N + eps,
        e * D <= e * W,
        e >= 0,
        W >= D,
        D > 0,
    )


def _smallest(*, proved: bool = True) -> Goal:
    # the quotient, another proved bound, the hull: the smallest of the three
    e, quotient, sharper, hull = reals("e quotient sharper hull")
    two = z3.If(quotient <= sharper, quotient, sharper)
    return real(
        e <= z3.If(two <= hull, two, hull),
        e <= quotient,
        e <= hull,
        *([e <= sharper] if proved else [sharper >= 0]),
    )


def _better_term(*, weight: bool = True) -> Goal:
    # one block's terms replaced by better ones beside all others: the quotient does not grow
    A, B, C, C_new, d, d_new, q, q_new = reals("A B C C_new d d_new q q_new")
    return real(
        q_new <= q,
        q_new * (B + d_new) == A + C_new,
        q * (B + d) == A + C,
        A >= 0,
        B >= 0,
        d > 0,
        between(0, C_new, C),
        d_new >= d if weight else d_new > 0,
    )


def _parts(*, rest: bool = True) -> Goal:
    # key and value are cut to the bound; arithmetic is what remains, never negative
    bound, k, v, slack = reals("bound k v slack")
    key, value = (z3.If(x <= bound, x, bound) for x in (k, v))
    left = bound - key - value
    arithmetic = (z3.If(left >= 0, left, 0) if rest else z3.RealVal(0)) + slack
    return real(
        z3.And(bound <= key + value + arithmetic, arithmetic >= 0, key <= bound, value <= bound),
        between(0, bound),
        k >= 0,
        v >= 0,
        slack >= 0,
    )


LEMMAS = (
    Lemma(
        "quotient.blocks",
        "induction: |Σ vectors of the blocks| <= Σ(C_b + U_b) survives a block, one coordinate",
        _blocks,
        partial(_blocks, every=False),
    ),
    Lemma(
        "quotient.denominator",
        "induction: W >= ΣD_b survives a block",
        _denominator,
        partial(_denominator, below=False),
    ),
    Lemma(
        "quotient.bound",
        "We <= N + ε, W >= D > 0 gives e <= (N + ε)/D; without ε it is refuted",
        _bound,
        partial(_bound, counted=False),
    ),
    Lemma(
        "quotient.smallest",
        "three upper bounds: so is the smallest; one that is not proved breaks it",
        _smallest,
        partial(_smallest, proved=False),
    ),
    Lemma(
        "quotient.better_term",
        "a smaller term above and a larger one below the line, one block beside all others, do not raise the quotient",
        _better_term,
        partial(_better_term, weight=False),
    ),
    Lemma(
        "quotient.parts",
        "key and value cut to the bound, arithmetic the rest and a slack: none is negative, their sum is at least the "
        "bound",
        _parts,
        partial(_parts, rest=False),
    ),
)
