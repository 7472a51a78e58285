"""Theorem ``mass``: true mass of a set from its mass rho under wrong scores, ``<= rho E^2 / (1 + rho (E^2 - 1))``.

``w_t = e^{s_t - s'_t}`` up to one constant lies in ``[F, E]``; X and Y are ``sum a' w`` inside and outside the set.
The true mass is ``X / (X + Y)``; lemmas are multiplied out.
"""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, inverse, real, reals


def _above(*, mass: bool = True) -> Goal:
    # ``X <= rho E`` survives a token
    total, rho, a, w, E, F = reals("X rho a w E F")
    return real(
        total + a * w <= (rho + a) * E, inverse(E, F), total <= rho * E, w <= E, *([a >= 0] if mass else [a >= -1])
    )


def _below(*, bounded: bool = True) -> Goal:
    # ``Y >= (1 - rho) F`` survives a token
    total, rho, a, w, E, F = reals("Y rho a w E F")
    return real(
        total + a * w >= (rho + a) * F, inverse(E, F), total >= rho * F, a >= 0, w >= F if bounded else 2 * w >= F
    )


def _sharp(*, square: bool = True) -> Goal:
    # ``X (1 + rho (E^2 - 1)) <= rho E^2 (X + Y)``
    X, Y, rho, E, F = reals("X Y rho E F")
    factor = E * E if square else E
    return real(
        X * (1 + rho * (factor - 1)) <= rho * factor * (X + Y),
        inverse(E, F),
        rho >= 0,
        rho <= 1,
        X >= 0,
        rho * E >= X,
        (1 - rho) * F <= Y,
    )


def _attained(*, at: bool = True) -> Goal:
    # errors ``+Delta`` inside and ``-Delta`` outside give equality
    X, Y, rho, E, F = reals("X Y rho E F")
    return real(
        X * (1 + rho * (E * E - 1)) == rho * E * E * (X + Y),
        inverse(E, F),
        rho >= 0,
        rho <= 1,
        rho * E == X,
        (1 - rho) * F == Y if at else (1 - rho) * F <= Y,
    )


def _as_stated(*, square: bool = True) -> Goal:
    # the sharp form is at most ``E^2 rho``
    rho, E = reals("rho E")
    factor = E * E if square else 1
    return real(rho * E * E <= factor * rho * (1 + rho * (E * E - 1)), E >= 1, rho >= 0, rho <= 1)


def _with_query(*, own_term: bool = True) -> Goal:
    # two factors: keys and query. The paper's ``e^{3 Delta}`` knows the keys' alone
    share, rho, E_k, E_q, E = reals("share rho E_k E_q E")
    factor = E_k * E_k * E_q * E_q if own_term else E_k * E_k * E_k
    return real(
        share <= factor * rho, E_k >= 1, E_q >= 1, E_k * E_q == E, rho >= 0, rho <= 1, share >= 0, share <= E * E * rho
    )


def _product(*, both: bool = True) -> Goal:
    # errors that add in the score multiply in the weight
    w_k, w_q, E_k, F_k, E_q, F_q = reals("w_k w_q E_k F_k E_q F_q")
    return real(
        between(F_k * F_q, w_k * w_q, E_k * E_q if both else E_k),
        inverse(E_k, F_k),
        inverse(E_q, F_q),
        between(F_k, w_k, E_k),
        between(F_q, w_q, E_q),
    )


LEMMAS = (
    Lemma(
        "mass.above", "induction: Σ_S a'w <= E Σ_S a' survives a token with w <= E", _above, partial(_above, mass=False)
    ),
    Lemma(
        "mass.below",
        "induction: Σ a'w >= F Σ a' survives a token with w >= F",
        _below,
        partial(_below, bounded=False),
    ),
    Lemma(
        "mass.sharp",
        "X <= ρE, Y >= (1-ρ)F: true mass X/(X+Y) <= ρE²/(1 + ρ(E² - 1))",
        _sharp,
        partial(_sharp, square=False),
    ),
    Lemma("mass.attained", "X = ρE, Y = (1-ρ)F: equality", _attained, partial(_attained, at=False)),
    Lemma(
        "mass.as_stated",
        "ρE²/(1 + ρ(E² - 1)) <= E²ρ, the paper's e^{2Δ}ρ",
        _as_stated,
        partial(_as_stated, square=False),
    ),
    Lemma(
        "mass.product",
        "w_k in [F_k, E_k], w_q in [F_q, E_q]: the product lies in [F_k F_q, E_k E_q]",
        _product,
        partial(_product, both=False),
    ),
    Lemma(
        "mass.with_query_error",
        "E = E_k E_q: true mass <= (E_k E_q)² ρ; E_k³ ρ (the paper's e^{3Δ}) is refuted",
        _with_query,
        partial(_with_query, own_term=False),
    ),
)
