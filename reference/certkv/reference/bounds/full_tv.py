"""Lemma ``full_tv``: total variation between softmaxes whose scores differ by at most Delta everywhere.

Statement. If ``|s_t - s'_t| <= Delta`` for all t, then
``TV(softmax(s), softmax(s')) <= tanh(Delta/2) = (E-1)/(E+1)``, ``E = e^Delta``; attained.

Source: arXiv 2605.20868, Lemma "full TV", claims ``tanh(Delta)`` and calls it tight. Form: `as_stated` is sound,
never attained for Delta > 0 and loose by up to 2; `sharp` is the corrected one. Derivation:
docs/derivations/full_tv.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.decay import DECAY_ROUNDINGS, decay
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def sharp(delta: ArrayLike) -> FloatArray:
    """``tanh(Delta/2)``, rounded up; at most 1.

    Parameters
    ----------
    delta : float64 [...]
        Upper bound of the score errors, at least 0.

    Returns
    -------
    float64 [...]
    """
    small, rest = decay(delta)
    # (1 - F) / (1 + F): two exponentials, one sum, one quotient.
    return np.asarray(np.minimum(outward(2 * DECAY_ROUNDINGS + 2) * (rest / (1.0 + small)), 1.0))


def as_stated(delta: ArrayLike) -> FloatArray:
    """``tanh(Delta)``, rounded up; at most 1. Parameters as in `sharp`."""
    return sharp(2.0 * np.asarray(delta, dtype=np.float64))


def attaining_example(delta: float) -> tuple[FloatArray, FloatArray]:
    """Two tokens whose softmaxes are exactly ``tanh(Delta/2)`` apart.

    Parameters
    ----------
    delta : float

    Returns
    -------
    s, s_prime : float64 [2]
        Scores with ``|s - s'| = Delta`` in both places, all exact.
    """
    return np.array([delta / 2, -delta / 2]), np.array([-delta / 2, delta / 2])
