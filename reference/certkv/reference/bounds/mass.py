"""Theorem ``mass``: how much true mass a set of tokens can have, given its mass under wrong scores.

Statement. If ``|s_t - s'_t| <= Delta`` for all t and ``rho`` is a set's mass under softmax(s'), its mass under
softmax(s) is at most ``rho E^2 / (1 + rho (E^2 - 1)) <= e^{2 Delta} rho``, ``E = e^Delta``; the first is attained.
With a quantized query the score error is ``Delta_k + Delta_q``, so the factor is ``e^{2 (Delta_k + Delta_q)}``.

Source: arXiv 2605.20868, Theorem 3. Form: `as_stated` (``e^{2 Delta}``) is sound; the paper's ``e^{3 Delta}`` for a
quantized query, `as_stated_quantized_query`, is **not**: Delta_q is not a multiple of Delta_k (which may be 0).
`with_query_error` is the corrected form. Derivation: docs/derivations/mass.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.decay import DECAY_ROUNDINGS, decay
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def as_stated(delta: ArrayLike, mass: ArrayLike) -> FloatArray:
    """``e^{2 Delta} rho``, rounded up; may exceed 1.

    Parameters
    ----------
    delta : float64 [...]
        Upper bound of the score errors, at least 0.
    mass : float64 [...]
        ``rho``: mass of the set under the scores that were computed.

    Returns
    -------
    float64 [...]
    """
    return _factor(2.0 * np.asarray(delta, dtype=np.float64), mass)


def as_stated_quantized_query(delta: ArrayLike, mass: ArrayLike) -> FloatArray:
    """``e^{3 Delta} rho`` with the keys' Delta alone: **unsound**, kept to reproduce the paper's numbers."""
    return _factor(3.0 * np.asarray(delta, dtype=np.float64), mass)


def with_query_error(delta_k: ArrayLike, delta_q: ArrayLike, mass: ArrayLike) -> FloatArray:
    """``e^{2 (Delta_k + Delta_q)} rho``, rounded up.

    Parameters
    ----------
    delta_k : float64 [...]
        Upper bound of ``|scale q . (k - k_hat)|``.
    delta_q : float64 [...]
        Upper bound of ``|scale (q - q_hat) . k_hat|`` (`certkv.reference.bounds.score_error.query_l2`).
    mass : float64 [...]

    Returns
    -------
    float64 [...]
    """
    return as_stated(outward(1) * (np.asarray(delta_k, np.float64) + np.asarray(delta_q, np.float64)), mass)


def sharp(delta: ArrayLike, mass: ArrayLike) -> FloatArray:
    """``rho E^2 / (1 + rho (E^2 - 1))``, rounded up; at most 1. Parameters as in `as_stated`."""
    mass = np.asarray(mass, dtype=np.float64)
    small, rest = decay(2.0 * np.asarray(delta, dtype=np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        bound = outward(2 * DECAY_ROUNDINGS + 4) * (mass / (small + mass * rest))
    return np.asarray(np.fmin(bound, 1.0))


def _factor(exponent: FloatArray, mass: ArrayLike) -> FloatArray:
    """``e^exponent rho``; what is not defined is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        bound = outward(10) * (np.exp(exponent) * mass)
    return np.asarray(np.where(np.isnan(bound), np.inf, bound))
