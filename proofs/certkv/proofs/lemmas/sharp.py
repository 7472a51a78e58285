"""Theorem ``sharp``: ``T(lambda) <= 0`` gives ``||O - c|| <= lambda``, and what is known of T.

A block's bracket is ``max over w in {F, E} of |w - kappa| R - lambda w``; T sums ``rho`` times it and adds
``|kappa| (U + eps)``. Norms enter through `norms` (triangle inequality, one inequality per coordinate direction).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, inverse, real, reals


def size(x: Any) -> Any:
    """Return ``|x|``."""
    return z3.If(x >= 0, x, -x)


def largest(x: Any, y: Any) -> Any:
    """Return the larger."""
    return z3.If(x >= y, x, y)


def smallest(x: Any, y: Any) -> Any:
    """Return the smaller."""
    return z3.If(x <= y, x, y)


def _endpoints(*, radius: bool = True) -> Goal:
    # convex in w, so largest at an end of [F, E]
    w, E, F, kappa, R, lam, M = reals("w E F kappa R lam M")
    return real(
        size(w - kappa) * R - lam * w <= M,
        between(F, w, E),
        *([R >= 0] if radius else []),
        size(E - kappa) * R - lam * E <= M,
        size(F - kappa) * R - lam * F <= M,
    )


def _token(*, weight: bool = True) -> Goal:
    # sum a' (|w - kappa| ||V - c|| - lambda w) <= rho M survives a token
    total, rho, a, off, distance, R, lam, w, M = reals("total rho a off distance R lam w M")
    return real(
        total + a * (off * distance - lam * w) <= (rho + a) * M,
        total <= rho * M,
        *([a >= 0] if weight else []),
        off >= 0,
        between(0, distance, R),
        off * R - lam * w <= M,
    )


def _terms(*, kappa_counts: bool = True) -> Goal:
    # the three terms of the identity for any kappa
    left, key, value, accumulation, kappa, K, U, eps = reals("left key value accumulation kappa K U eps")
    return real(
        at_most(left, K + (size(kappa) * (U + eps) if kappa_counts else U + eps)),
        left == key + kappa * value + kappa * accumulation,
        at_most(key, K),
        at_most(value, U),
        at_most(accumulation, eps),
    )


def _conclusion(*, positive: bool = True) -> Goal:
    # W e <= N and N - lambda W <= T <= 0
    error, W, N, lam, T = reals("error W N lam T")
    return real(error <= lam, error * W <= N, N - lam * W <= T, T <= 0, W > 0 if positive else W >= 0)


def _two_blocks(*, own: bool = True) -> Goal:
    # z21: W e <= c0 + c1 + X, every block's c - lambda W_b <= M_b
    error, c0, c1, W0, W1, M0, M1, X, lam = reals("error c0 c1 W0 W1 M0 M1 X lam")
    return real(
        error * (W0 + W1) <= lam * (W0 + W1),
        error * (W0 + W1) <= c0 + c1 + X,
        c0 - lam * W0 <= M0,
        c1 - lam * (W1 if own else W0) <= M1,
        M0 + M1 + X <= 0,
    )


def _alternative(*, positive: bool = True) -> Goal:
    # a block's own bounds at kappa = 1
    key, W, C, D, lam = reals("key W C D lam")
    return real(key - lam * W <= C - lam * D, key <= C, W >= D, lam >= 0 if positive else lam >= -1)


def _alternative_kappa(*, one: bool = True) -> Goal:
    # sum a' (w - kappa) x = sum a' (w - 1) x + (1 - kappa) sum a' x: C is a bound for kappa = 1 only
    key, key_1, centre, kappa, C, rho, R = reals("key key_1 centre kappa C rho R")
    return real(
        at_most(key, C),
        key == key_1 + (1 - kappa) * centre,
        at_most(key_1, C),
        at_most(centre, rho * R),
        kappa == 1 if one else between(0, kappa, 1),
    )


def _kappa_convex(*, half: bool = True) -> Goal:
    # |w - kappa| R - lambda w is convex in (kappa, lambda)
    w, R, s, k0, k1, l0, l1 = reals("w R s k0 k1 l0 l1")
    k, lam = s * k0 + (1 - s) * k1, s * l0 + (1 - s) * l1
    return real(
        size(w - k) * R - lam * w <= s * (size(w - k0) * R - l0 * w) + (1 - s) * (size(w - k1) * R - l1 * w),
        between(0, s, 1) if half else s >= 0,
        R >= 0,
    )


def _uniform(*, inside: bool = True) -> Goal:
    # z04: kappa (E^2 + 1) = 2 E: |w - kappa| <= w (E^2 - 1)/(E^2 + 1)
    w, E = reals("w E")
    return real(
        at_most(w * (E * E + 1) - 2 * E, (E * E - 1) * w),
        E >= 1,
        between(0, w, E),
        w * E >= 1 if inside else w * E * 2 >= 1,
    )


def _uniform_ends(*, best: bool = True) -> Goal:
    # z24: both ends are equally far, measured in w: |w - kappa| = w tanh(Delta)
    E, F, kappa = reals("E F kappa")
    s = E * E + 1
    return real(
        z3.And((E - kappa) * s == (E * E - 1) * E, (kappa - F) * s == (E * E - 1) * F),
        inverse(E, F),
        kappa * s == 2 * E if best else kappa == 1,
    )


def _uniform_root(*, both: bool = True) -> Goal:
    # lambda = R t + X (1 + t), t = tanh(Delta): F (R t - lambda) + kappa X = 0 and E (R t - lambda) <= F (R t - lambda)
    E, F, kappa, t, R, X, lam = reals("E F kappa t R X lam")
    inside = R * t - lam
    return real(
        z3.And(F * inside + kappa * X == 0, E * inside <= F * inside),
        inverse(E, F),
        kappa * (E * E + 1) == 2 * E,
        t * (E * E + 1) == E * E - 1,
        X >= 0,
        lam == R * t + X * (1 + t if both else 1),
    )


def _hull(*, zero: bool = True) -> Goal:
    # z26: kappa = 0 proves the largest radius, whatever the rest
    w, R, lam, kappa, rho, X = reals("w R lam kappa rho X")
    return real(
        rho * (size(w - kappa) * R - lam * w) + size(kappa) * X <= 0,
        kappa == 0 if zero else between(0, kappa, 1),
        w > 0,
        rho >= 0,
        X >= 0,
        between(0, R, lam),
    )


def _closed(*, one: bool = True) -> Goal:
    # kappa = 1: a bracket is at most the closed form's share (E - 1) R - lambda F, which sums to N - lambda D
    w, E, F, R, lam, kappa = reals("w E F R lam kappa")
    return real(
        size(w - kappa) * R - lam * w <= (E - 1) * R - lam * F,
        inverse(E, F),
        between(F, w, E),
        R >= 0,
        lam >= 0,
        kappa == 1 if one else between(0, kappa, 1),
    )


def _lowered_end(*, large: bool = True) -> Goal:
    # kappa = 1: from lambda = R tanh(Delta/2) on, the end w = F decides
    E, F, R, lam = reals("E F R lam")
    return real(
        (E - 1) * R - lam * E <= (1 - F) * R - lam * F,
        inverse(E, F),
        E > 1,
        R >= 0,
        lam * (E + 1) >= R * (E - 1) if large else lam >= 0,
    )


def _attained(*, half: bool = True) -> Goal:
    # two tokens of equal weight, V = +-R, w = (E, F), c = 0
    exact, R, E, F, a, t = reals("O R E F a t")
    return real(
        exact == R * t,
        inverse(E, F),
        R > 0,
        exact * (a * E + (1 - a) * F) == a * E * R - (1 - a) * F * R,
        t * (E * E + 1) == E * E - 1,
        2 * a == 1 if half else z3.And(a > 0, a < 1),
    )


def _dual(*, within: bool = True) -> Goal:
    # the largest w x - lambda w - kappa x over |x| <= R
    w, x, R, lam, kappa = reals("w x R lam kappa")
    best = z3.If(w >= kappa, R, -R)
    value = size(w - kappa) * R - lam * w
    return real(
        z3.And(w * x - lam * w - kappa * x <= value, w * best - lam * w - kappa * best == value),
        R >= 0,
        at_most(x, R if within else 2 * R),
    )


LEMMAS = (
    Lemma(
        "sharp.endpoints",
        "R >= 0, F <= w <= E: |w-κ|R - λw is at most its larger value at the ends",
        _endpoints,
        partial(_endpoints, radius=False),
    ),
    Lemma(
        "sharp.token",
        "induction: Σa'(|w-κ| ‖V-c‖ - λw) <= ρM survives a token of the block",
        _token,
        partial(_token, weight=False),
    ),
    Lemma(
        "sharp.terms",
        "the three terms of the identity: |key + κ value + κ accumulation| <= K + |κ|(U + ε)",
        _terms,
        partial(_terms, kappa_counts=False),
    ),
    Lemma(
        "sharp.conclusion",
        "W > 0, W e <= N, N - λW <= T <= 0 gives e <= λ",
        _conclusion,
        partial(_conclusion, positive=False),
    ),
    Lemma(
        "sharp.two_blocks",
        "2 blocks, end to end: W e <= c_0 + c_1 + X, c_b - λW_b <= M_b, ΣM + X <= 0 gives W e <= λW",
        _two_blocks,
        partial(_two_blocks, own=False),
    ),
    Lemma(
        "sharp.alternative",
        "λ >= 0, key <= C, W_b >= D: key - λW_b <= C - λD",
        _alternative,
        partial(_alternative, positive=False),
    ),
    Lemma(
        "sharp.alternative_kappa",
        "C bounds a block's key term for κ = 1; for another κ the term moves by (1-κ)Σa'(V-c)",
        _alternative_kappa,
        partial(_alternative_kappa, one=False),
    ),
    Lemma(
        "sharp.kappa_convex",
        "|w-κ|R - λw is convex in κ and λ together",
        _kappa_convex,
        partial(_kappa_convex, half=False),
    ),
    Lemma(
        "sharp.uniform",
        "κ = 1/cosh(Δ), F <= w <= E: |w - κ| <= w tanh(Δ)",
        _uniform,
        partial(_uniform, inside=False),
    ),
    Lemma(
        "sharp.uniform_ends",
        "κ = 1/cosh(Δ): equality at both ends",
        _uniform_ends,
        partial(_uniform_ends, best=False),
    ),
    Lemma(
        "sharp.uniform_root",
        "κ = 1/cosh(Δ): the root is R tanh(Δ) + X(1 + tanh(Δ)), X = U + ε",
        _uniform_root,
        partial(_uniform_root, both=False),
    ),
    Lemma("sharp.hull", "κ = 0 proves λ = max R", _hull, partial(_hull, zero=False)),
    Lemma(
        "sharp.closed",
        "κ = 1: |w-1|R - λw <= (E-1)R - λF, so T <= 0 at the closed form",
        _closed,
        partial(_closed, one=False),
    ),
    Lemma(
        "sharp.lowered_end",
        "κ = 1, λ >= R tanh(Δ/2): the end w = F decides",
        _lowered_end,
        partial(_lowered_end, large=False),
    ),
    Lemma(
        "sharp.attained",
        "n = 2, a' = (1/2, 1/2), V = ±R, w = (E, F): O - c = R tanh(Δ)",
        _attained,
        partial(_attained, half=False),
    ),
    Lemma(
        "sharp.dual",
        "a token of the Lagrangian: w x - λw - κx over |x| <= R is at most |w-κ|R - λw, attained",
        _dual,
        partial(_dual, within=False),
    ),
)
