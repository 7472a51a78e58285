"""Incremental correction: a promoted block's weights and values replaced in a softmax state instead of recomputed.

Old weights p' with decoded values, new weights p with originals, the same reference maximum.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, inverse, real, reals


def _output(*, new_weight: bool = True) -> Goal:
    # o + sum (p - p') v_hat + sum p (v - v_hat) is the sum with p v in place of p' v_hat: one token more
    old, new, corrections, p, p_old, v, v_hat = reals("old new corrections p p_old v v_hat")
    weight = p if new_weight else p_old
    return real(
        (old + p_old * v_hat) + (corrections + (p - p_old) * v_hat + weight * (v - v_hat)) == new + p * v,
        old + corrections == new,
    )


def _denominator(*, old_weight: bool = True) -> Goal:
    old, new, corrections, p, p_old = reals("old new corrections p p_old")
    return real((old + p_old) + (corrections + (p - p_old if old_weight else p)) == new + p, old + corrections == new)


def _key_only(*, decoded: bool = True) -> Goal:
    # promoted key, coded value: the correction multiplies what was multiplied before
    old, p, p_old, v, v_hat = reals("old p p_old v v_hat")
    return real((old + p_old * v_hat) + (p - p_old) * (v_hat if decoded else v) == old + p * v_hat)


def _weight(*, error: bool = True) -> Goal:
    # p = p' w with p' <= 1
    p, p_old, w, E, F = reals("p p_old w E F")
    return real(p <= (E if error else 1), inverse(E, F), between(F, w, E), between(0, p_old, 1), p == p_old * w)


def _change(*, both: bool = True) -> Goal:
    # what the corrections sum to in magnitude, against old and new denominator
    moved, old, new, p, p_old, total = reals("moved old new p p_old total")
    return real(
        total + moved <= (new + p) + (old + p_old if both else old),
        p >= 0,
        p_old >= 0,
        moved == z3.If(p >= p_old, p - p_old, p_old - p),
        total <= new + old,
    )


def _amplification(*, kept: bool = True) -> Goal:
    # u (l_old + sum |corrections|) / l_new <= 9 u while l_new >= l_old / 4
    old, new, moved = reals("old new moved")
    return real(old + moved <= 9 * new, old > 0, new > 0, moved <= old + new, *([4 * new >= old] if kept else []))


LEMMAS = (
    Lemma(
        "correction.output",
        "induction: o + Σ(p-p')V̂ + Σp(V-V̂) is o from scratch, one more promoted token",
        _output,
        partial(_output, new_weight=False),
    ),
    Lemma(
        "correction.denominator",
        "induction: l + Σ(p-p') is l from scratch, one more promoted token",
        _denominator,
        partial(_denominator, old_weight=False),
    ),
    Lemma(
        "correction.key_only",
        "promoted key, coded value: o + (p-p')V̂",
        _key_only,
        partial(_key_only, decoded=False),
    ),
    Lemma("correction.weight", "p' <= 1 gives p <= e^Δ", _weight, partial(_weight, error=False)),
    Lemma(
        "correction.change",
        "induction: Σ|p-p'| <= l_new + l_old survives a promoted token",
        _change,
        partial(_change, both=False),
    ),
    Lemma(
        "correction.amplification",
        "l_new >= l_old/4: rounding relative to l_old and the corrections is at most 9u of l_new",
        _amplification,
        partial(_amplification, kept=False),
    ),
)
