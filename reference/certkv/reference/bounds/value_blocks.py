"""Theorem ``value_blocks``: the error of coded values is at most the mean residual norm under the executed weights.

Statement. Let ``a'`` be the weights that were multiplied with the decoded values,
``eta_b >= max_{t in b} ||V_t - V_hat_t||`` (absolute, in the units of V) and ``rho_b = sum_{t in b} a'_t``. Then
``||sum a'_t V_hat_t - sum a'_t V_t|| <= sum_b rho_b eta_b <= max_b eta_b``.

Source: arXiv 2605.20868, Theorem 1. Hypothesis: rho_b are the masses of the *executed* pass; those of a scoring pass
under-report the error. Form: as stated. Derivation: docs/derivations/value_blocks.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def blockwise(mass: FloatArray, eta: FloatArray) -> FloatArray:
    """``sum_b rho_b eta_b``.

    Parameters
    ----------
    mass : float64 [..., n]
        ``rho_b``, or upper bounds of them.
    eta : float64 [..., n]
        Largest residual norm in each block, in the units of V; 0 for blocks with original values.

    Returns
    -------
    float64 [...]
        Rounded up; ``inf`` where a product is not defined.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        terms = mass * eta
        bound = outward(terms.shape[-1]) * terms.sum(axis=-1)
    return np.asarray(np.where(np.isnan(bound), np.inf, bound))


def uniform(eta: FloatArray) -> FloatArray:
    """``max_b eta_b``: needs no masses.

    Parameters
    ----------
    eta : float64 [..., n]

    Returns
    -------
    float64 [...]
    """
    largest = np.max(eta, axis=-1, initial=0.0)
    return np.asarray(np.where(np.isnan(largest), np.inf, largest))
