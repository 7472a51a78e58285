"""Theorem ``key_tv``: the error of coded keys is at most twice the largest value norm times the total variation.

Statement. For probability vectors a, a' and ``||V_t|| <= V_max``:
``||sum a'_t V_t - sum a_t V_t|| <= 2 V_max TV(a, a')``.

Source: arXiv 2605.20868, Theorem 2. Hypothesis: V_max covers every token, of the originals. Form: as stated; with the
diameter of the values in place of ``2 V_max`` it is sharp. Derivation: docs/derivations/key_tv.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def key_term(v_max: ArrayLike, tv: ArrayLike) -> FloatArray:
    """``2 V_max TV``, rounded up.

    Parameters
    ----------
    v_max : float64 [...]
        Upper bound of the value norms, in the units of V.
    tv : float64 [...]
        Upper bound of the total variation, from `full_tv` or `tail_tv`.

    Returns
    -------
    float64 [...]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        bound = outward(2) * (2.0 * np.asarray(v_max, np.float64) * np.asarray(tv, np.float64))
    return np.asarray(np.where(np.isnan(bound), np.inf, bound))


def total_variation(a: FloatArray, a_prime: FloatArray) -> FloatArray:
    """``1/2 sum_t |a_t - a'_t|`` in float64: a number to look at, not a bound.

    Parameters
    ----------
    a, a_prime : float64 [..., N]

    Returns
    -------
    float64 [...]
    """
    return np.asarray(0.5 * np.abs(a - a_prime).sum(axis=-1))
