"""Theorem ``key_tv``: ``||sum a' V - sum a V|| <= 2 V_max TV(a, a')``, and with the diameter, ``D TV(a, a')``.

``b = a' - a`` sums to 0 and ``TV = 1/2 sum |b|``. Vectors are `norms`: ``||b V|| <= |b| ||V||``, one token at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, real, reals


def _abs(x: Any) -> Any:
    return z3.If(x >= 0, x, -x)


def _step(*, covered: bool = True) -> Goal:
    # ``sum |b| ||V|| <= V_max sum |b|`` survives a token
    total, size, b, norm, v_max = reals("total size b norm v_max")
    return real(
        total + _abs(b) * norm <= v_max * (size + _abs(b)),
        total <= v_max * size,
        norm >= 0,
        norm <= v_max if covered else norm <= 2 * v_max,
    )


def _close(*, factor: int = 2) -> Goal:
    # ``sum |b| = 2 TV``
    error, size, tv, v_max = reals("error size tv v_max")
    return real(error <= factor * v_max * tv, error <= v_max * size, size == 2 * tv, v_max >= 0)


def _half(*, balanced: bool = True) -> Goal:
    # half the sum of ``|b|`` is the sum of its positive part: the largest gain of any set
    positive, negative, tv = reals("positive negative tv")
    return real(
        tv == positive,
        positive >= 0,
        negative >= 0,
        2 * tv == positive + negative,
        positive - negative == 0 if balanced else positive - negative <= 1,
    )


def _two_tokens(*, factor: int = 2) -> Goal:
    # two tokens, one coordinate, end to end
    a, a_prime, v0, v1, v_max = reals("a a_prime v0 v1 v_max")
    tv = _abs(a_prime - a)
    return real(
        at_most((a_prime - a) * v0 + (a - a_prime) * v1, factor * v_max * tv),
        at_most(v0, v_max),
        at_most(v1, v_max),
    )


def _attained(*, below: bool = True) -> Goal:
    # opposite values: no constant below 2 will do
    a, a_prime, v_max, constant = reals("a a_prime v_max constant")
    return real(
        (a_prime - a) * v_max + (a - a_prime) * (-v_max) > constant * v_max * (a_prime - a),
        a_prime > a,
        v_max > 0,
        constant < 2 if below else constant <= 2,
        constant >= 0,
    )


def _shift(*, balanced: bool = True) -> Goal:
    # a shift of all values by z changes nothing, so the radius about any z may stand for V_max
    total, shifted, mass, z = reals("total shifted mass z")
    return real(total == shifted, shifted == total - mass * z, mass == 0 if balanced else mass <= 0)


def _diameter(*, factor: int = 1) -> Goal:
    # moving mass p from one mean x to another y, both in a set of diameter D
    positive, negative, tv, x, y, diameter = reals("positive negative tv x y diameter")
    return real(
        factor * _abs(positive - negative) <= tv * diameter,
        tv >= 0,
        positive == tv * x,
        negative == tv * y,
        at_most(x - y, diameter),
    )


LEMMAS = (
    Lemma(
        "key_tv.step",
        "induction: Σ|a' - a| ‖V‖ <= V_max Σ|a' - a| survives a token with ‖V‖ <= V_max",
        _step,
        partial(_step, covered=False),
    ),
    Lemma("key_tv.close", "Σ|a' - a| = 2 TV: the error is at most 2 V_max TV", _close, partial(_close, factor=1)),
    Lemma(
        "key_tv.half",
        "Σ(a' - a) = 0: half of Σ|a' - a| is its positive part, so TV = max_S a'(S) - a(S)",
        _half,
        partial(_half, balanced=False),
    ),
    Lemma(
        "key_tv.two_tokens",
        "n = 2, one coordinate: |Σ(a' - a)V| <= 2 V_max TV",
        _two_tokens,
        partial(_two_tokens, factor=1),
    ),
    Lemma(
        "key_tv.attained",
        "n = 2, V = ±V_max: the error exceeds every constant below 2 times V_max TV",
        _attained,
        partial(_attained, below=False),
    ),
    Lemma(
        "key_tv.shift",
        "Σ(a' - a) = 0: the error is that of values shifted by any z",
        _shift,
        partial(_shift, balanced=False),
    ),
    Lemma(
        "key_tv.diameter",
        "TV moves from mean x to mean y, ‖x - y‖ <= D: the error is at most D TV (one coordinate)",
        _diameter,
        partial(_diameter, factor=2),
    ),
)
