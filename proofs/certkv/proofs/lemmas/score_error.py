"""Theorem ``score_error``: ``|scale q . (k - k_hat)|`` from sums and norms, one channel at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, real, reals


def _abs(x: Any) -> Any:
    return z3.If(x >= 0, x, -x)


def _l1(*, measured: bool = True) -> Goal:
    # |sum q e| <= z sum |q| s survives a channel with |e| <= z s
    total, size, q, e, z, s = reals("total size q e z s")
    limit = z * s if measured else 2 * z * s
    return real(at_most(total + q * e, z * (size + _abs(q) * s)), at_most(total, z * size), at_most(e, limit), s >= 0)


def _amgm(*, factor: int = 2) -> Goal:
    # the mixed term of the next lemma
    total, Q, R, q, e = reals("total Q R q e")
    return real(factor * total * q * e <= Q * e * e + R * q * q, Q >= 0, R >= 0, total * total <= Q * R)


def _cauchy_schwarz(*, both: bool = True) -> Goal:
    # (sum q e)^2 <= (sum q^2)(sum e^2) survives a channel
    total, Q, R, q, e = reals("total Q R q e")
    return real(
        (total + q * e) * (total + q * e) <= (Q + q * q) * (R + e * e if both else R),
        Q >= 0,
        R >= 0,
        total * total <= Q * R,
        2 * total * q * e <= Q * e * e + R * q * q,
    )


def _lagrange(*, factor: int = 2) -> Goal:
    # what Cauchy-Schwarz leaves over, three channels
    q, e = reals("q0 q1 q2"), reals("e0 e1 e2")
    pairs = ((0, 1), (0, 2), (1, 2))
    dot = z3.Sum([q[c] * e[c] for c in range(3)])
    squares = z3.Sum([x * x for x in q]) * z3.Sum([x * x for x in e])
    cross = z3.Sum(
        [q[i] * q[i] * e[j] * e[j] + q[j] * q[j] * e[i] * e[i] - factor * q[i] * e[i] * q[j] * e[j] for i, j in pairs]
    )
    return real(squares - dot * dot == cross)


def _largest(*, every: bool = True) -> Goal:
    # one norm for the tokens of a block
    dot, q, residual, largest = reals("dot q residual largest")
    return real(
        at_most(dot, q * largest),
        q >= 0,
        residual >= 0,
        at_most(dot, q * residual),
        residual <= largest if every else residual <= 2 * largest,
    )


def _scale(*, magnitude: bool = True) -> Goal:
    # the caller's scale multiplies score and error, whatever its sign
    scale, dot, bound = reals("scale dot bound")
    factor = _abs(scale) if magnitude else z3.RealVal(1)
    return real(at_most(scale * dot, factor * bound), at_most(dot, bound))


def _query_split(*, decoded: bool = True) -> Goal:
    # one channel of q.k - q_hat.k_hat = q.(k - k_hat) + (q - q_hat).k_hat
    q, q_hat, k, k_hat = reals("q q_hat k k_hat")
    second = (q - q_hat) * (k_hat if decoded else k)
    return real(q * k - q_hat * k_hat == q * (k - k_hat) + second)


def _query(*, both: bool = True) -> Goal:
    keys, query, delta_k, delta_q = reals("keys query delta_k delta_q")
    return real(
        at_most(keys + query, delta_k + delta_q if both else 3 * delta_k),
        at_most(keys, delta_k),
        at_most(query, delta_q),
    )


def _smaller(*, both: bool = True) -> Goal:
    error, one, two, least = reals("error one two least")
    return real(
        error <= least,
        error <= one,
        *([error <= two] if both else []),
        least == z3.If(one <= two, one, two),
    )


def _half_step(*, exact: bool = True) -> Goal:
    # the paper's form is the measured one at z = 1/2, if and only if the quantizer keeps to half a step
    total, size, z = reals("total size z")
    return real(at_most(2 * total, size), size >= 0, at_most(total, z * size), 2 * z <= 1 if exact else 1000 * z <= 502)


def _normalised(*, zero: bool = True) -> Goal:
    # a channel of q . e in units of its step: e = s x, and x = 0 where s = 0
    q, e, s, x = reals("q e s x")
    counted = z3.Implies(s == 0, e == 0) if zero else z3.BoolVal(True)
    return real(q * e == (s * q) * x, z3.Implies(s != 0, x * s == e), s >= 0, counted)


def _norm_scale(*, squared: bool = True) -> Goal:
    # the scale leaves the norm over a block's tokens by its magnitude: two scores, squares
    scale, x, y, limit = reals("scale x y limit")
    magnitude = _abs(scale)
    return real(
        (scale * x) * (scale * x) + (scale * y) * (scale * y)
        <= (magnitude * magnitude if squared else magnitude) * (limit * limit),
        x * x + y * y <= limit * limit,
    )


def _one_of_norm(*, norm: bool = True) -> Goal:
    # a token's error is at most the norm of all
    x, others, norm_ub = reals("x others norm")
    return real(
        at_most(x, norm_ub), x * x + others <= norm_ub * norm_ub, norm_ub >= 0, others >= 0 if norm else others <= 0
    )


LEMMAS = (
    Lemma(
        "score_error.l1",
        "induction: |Σqe| <= z Σ|q|s survives a channel with |e| <= z s",
        _l1,
        partial(_l1, measured=False),
    ),
    Lemma("score_error.mixed_term", "T² <= QR gives 2Tqe <= Qe² + Rq²", _amgm, partial(_amgm, factor=3)),
    Lemma(
        "score_error.cauchy_schwarz",
        "induction: (Σqe)² <= Σq² Σe² survives a channel, the mixed term given",
        _cauchy_schwarz,
        partial(_cauchy_schwarz, both=False),
    ),
    Lemma(
        "score_error.lagrange",
        "identity, 3 channels: Σq² Σe² - (Σqe)² = Σ_{i<j} (q_i e_j - q_j e_i)²",
        _lagrange,
        partial(_lagrange, factor=1),
    ),
    Lemma(
        "score_error.largest",
        "a token's |q·e| <= ‖q‖ max_t ‖e_t‖",
        _largest,
        partial(_largest, every=False),
    ),
    Lemma(
        "score_error.scale",
        "|q·e| <= P gives |scale q·e| <= |scale| P for any scale",
        _scale,
        partial(_scale, magnitude=False),
    ),
    Lemma(
        "score_error.query_split",
        "one channel: qk - q̂k̂ = q(k - k̂) + (q - q̂)k̂",
        _query_split,
        partial(_query_split, decoded=False),
    ),
    Lemma(
        "score_error.query",
        "keys and query: the errors add; a multiple of the keys' alone is refuted",
        _query,
        partial(_query, both=False),
    ),
    Lemma("score_error.smaller", "two upper bounds: so is the smaller", _smaller, partial(_smaller, both=False)),
    Lemma(
        "score_error.half_step",
        "z <= 1/2 exactly: the paper's form holds; at z = 0.502 it does not",
        _half_step,
        partial(_half_step, exact=False),
    ),
    Lemma(
        "score_error.normalised",
        "one channel: qe = (sq)(e/s), with 0/0 = 0 where s = 0 and e = 0",
        _normalised,
        partial(_normalised, zero=False),
    ),
    Lemma(
        "score_error.norm_scale",
        "two tokens: x² + y² <= L² gives (scale x)² + (scale y)² <= (|scale| L)²",
        _norm_scale,
        partial(_norm_scale, squared=False),
    ),
    Lemma(
        "score_error.one_of_norm",
        "a token's error is at most the norm of all of them",
        _one_of_norm,
        partial(_one_of_norm, norm=False),
    ),
)
