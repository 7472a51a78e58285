"""Lemma ``tail_tv``: total variation when scores are wrong on a tail only.

Statement. Let ``s_t = s'_t`` outside a set T and ``|s_t - s'_t| <= Delta`` on T; let ``alpha`` be the mass of T
under *either* softmax, ``E = e^Delta``, ``x = E - 1``, ``V_0 = 1 - alpha (1 - 1/E)``. Then
``TV(softmax(s), softmax(s')) <= tau(alpha, E)`` with

    tau = alpha (1 - alpha) x / (1 + alpha x)                if alpha^2 x + 3 alpha <= 1,
    tau = (sqrt(E) - sqrt(V_0))^2 / (E - 1/E)                otherwise,

attained in both cases, increasing in alpha and Delta, and ``tau <= alpha x / (1 + alpha x) <= alpha x``;
``tau(1, E) = tanh(Delta/2)``.

Source: arXiv 2605.20868, Lemma "tail TV", states ``alpha (e^{2 Delta} - 1)`` for the true mass. Form: `as_stated`
is sound and at least twice too large; `sharp` and `simple` are ours. Derivation: docs/derivations/tail_tv.md.

All functions round up. With ``F = 1/E`` and ``y = 1 - F`` the two cases are evaluated without cancellation or
overflow as ``alpha (1 - alpha) y / (F + alpha y)`` and ``y (1 + alpha F)^2 / ((1 + sqrt(V_0 F))^2 (1 + F))``,
``V_0 = (1 - alpha) + alpha F``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.decay import DECAY_ROUNDINGS, decay
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray

_MARGIN = 2.0**-40
"""The second formula is never below the first, so taking it a little too early is sound; too late would not be."""


def as_stated(alpha: ArrayLike, delta: ArrayLike) -> FloatArray:
    """``alpha (e^{2 Delta} - 1)``, alpha the true mass of the tail; rounded up, may exceed 1.

    Parameters
    ----------
    alpha : float64 [...]
        Mass of the tail, from 0 to 1.
    delta : float64 [...]
        Upper bound of the score errors on the tail, at least 0.

    Returns
    -------
    float64 [...]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        bound = outward(12) * (np.asarray(alpha, np.float64) * np.expm1(2.0 * np.asarray(delta, np.float64)))
    return np.asarray(np.where(np.isnan(bound), np.inf, bound))


def simple(alpha: ArrayLike, delta: ArrayLike) -> FloatArray:
    """``alpha x / (1 + alpha x)``; rounded up, at most 1. Parameters as in `as_stated`, alpha under either softmax."""
    alpha = np.minimum(alpha, 1.0)
    small, rest = decay(delta)
    with np.errstate(invalid="ignore", divide="ignore"):
        bound = outward(4 * DECAY_ROUNDINGS + 4) * (alpha * rest / (small + alpha * rest))
    return _at_most_one(bound)


def sharp(alpha: ArrayLike, delta: ArrayLike) -> FloatArray:
    """``tau(alpha, e^Delta)``; rounded up, at most 1. Parameters as in `as_stated`, alpha under either softmax."""
    alpha = np.minimum(alpha, 1.0)
    small, rest = decay(delta)
    below = 1.0 - alpha
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        raised = alpha * below * rest / (small + alpha * rest)
        root = np.sqrt((below + alpha * small) * small)
        split = rest * (1.0 + alpha * small) ** 2 / ((1.0 + root) ** 2 * (1.0 + small))
        is_raised = alpha * alpha * rest + 3.0 * alpha * small <= (1.0 - _MARGIN) * small
    # At most six occurrences of an exponential on a path, each worth DECAY_ROUNDINGS, and 24 other operations.
    bound = outward(6 * DECAY_ROUNDINGS + 24) * np.where(is_raised, raised, split)
    return _at_most_one(bound)


def attaining_example(alpha: float, delta: float) -> tuple[FloatArray, FloatArray]:
    """Three tokens, the last two the tail, whose softmaxes are ``tau`` apart up to the rounding of the example.

    Parameters
    ----------
    alpha, delta : float
        ``0 < alpha < 1``, ``delta > 0`` and below 300.

    Returns
    -------
    mass : float64 [3]
        ``a'``: the token outside the tail, and the two tokens of the tail (the last may be 0).
    error : float64 [3]
        ``s - s'``: 0, Delta, -Delta.
    """
    e = float(np.exp(delta))
    v0 = 1.0 - alpha * (1.0 - 1.0 / e)
    wanted = (np.sqrt(e * v0) - v0) / (e - 1.0 / e)
    raised = min(float(wanted), alpha)
    return np.array([1.0 - alpha, raised, alpha - raised]), np.array([0.0, delta, -delta])


def _at_most_one(bound: FloatArray) -> FloatArray:
    """Cut at 1, which every total variation satisfies; so does what is not a number."""
    return np.asarray(np.fmin(bound, 1.0))
