"""Theorem ``block_bound``: the error of one head from block masses, block score errors and block value errors.

Let ``c`` be the reported output, ``rho_b`` the executed block masses, ``Delta_b`` an upper bound of the log-weight
error in block b (quantized keys and rounding together), ``R_b >= max_{t in b} ||V_t - c||``, ``U >= ||sum a'_t (V_t -
V_hat_t)||`` and ``eps_acc >= ||c - sum a'_t V_hat_t||``. Then

    ||O - c||  <=  ( sum_b rho_b (e^Delta_b - 1) R_b + U + eps_acc ) / sum_b rho_b e^-Delta_b.

Proof: the identity of ``decomposition`` with kappa = 1; ``|w_t - 1| <= e^Delta_b - 1`` and ``W >= sum_b rho_b
e^-Delta_b``. The step takes, block by block, the smaller of these terms and those of ``spectral``.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds.arithmetic import exp_minus_lb, expm1_ub
from certkv.reference.bounds.hull import hull
from certkv.reference.bounds.quotient import BlockBound, quotient
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def key_terms(mass_ub: FloatArray, delta_ub: FloatArray, radius_ub: FloatArray) -> FloatArray:
    """``rho_b (e^Delta_b - 1) R_b`` but for three roundings, which `quotient` covers; float64 [heads, blocks]."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(mass_ub * expm1_ub(delta_ub) * radius_ub)


def weight_lb(mass_lb: FloatArray, delta_ub: FloatArray) -> FloatArray:
    """``rho_b e^-Delta_b`` but for one rounding, which `quotient` covers; float64 [heads, blocks]."""
    return np.asarray(mass_lb * exp_minus_lb(delta_ub))


def block_bound(
    *,
    mass_ub: FloatArray,
    mass_lb: FloatArray,
    key_delta_ub: FloatArray,
    rounding_delta_ub: FloatArray,
    radius_ub: FloatArray,
    value_error_ub: FloatArray,
    accumulation_ub: FloatArray,
) -> BlockBound:
    """Evaluate the theorem, rounded outward.

    Parameters
    ----------
    mass_ub, mass_lb : float64 [heads, blocks]
        Bounds of the executed masses ``rho_b``; ``mass_ub > 0``.
    key_delta_ub, rounding_delta_ub : float64 [heads, blocks]
        The two parts of ``Delta_b``; ``rounding_delta_ub > 0``.
    radius_ub : float64 [heads, blocks]
        ``R_b``, in the units of V.
    value_error_ub : float64 [heads, blocks]
        ``eta_b``: largest norm of a value residual in the block, 0 where values are original. Units of V.
    accumulation_ub : float64 [heads]
        ``eps_acc``.

    Returns
    -------
    BlockBound
        Where anything is NaN or infinite beyond repair, ``bound`` is ``+inf``.
    """
    delta = (key_delta_ub + rounding_delta_ub) * outward(1)
    with np.errstate(over="ignore", invalid="ignore"):
        value_terms = mass_ub * value_error_ub
    return quotient(
        key_terms=key_terms(mass_ub, delta, radius_ub),
        pure_key_terms=key_terms(mass_ub, key_delta_ub, radius_ub),
        value_terms=value_terms,
        weight_lb=weight_lb(mass_lb, delta),
        accumulation_ub=accumulation_ub,
        hull_ub=hull(radius_ub),
    )
