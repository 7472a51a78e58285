"""Theorem ``block_bound``: the error of one head from block masses, block score errors and block value errors.

Let ``c`` be the reported output, ``rho_b`` the executed block masses, ``Delta_b`` an upper bound of the log-weight
error in block b (quantized keys and rounding together), ``R_b >= max_{t in b} ||V_t - c||``, ``U >= ||sum a'_t (V_t -
V_hat_t)||`` and ``eps_acc >= ||c - sum a'_t V_hat_t||``. Then

    ||O - c||  <=  ( sum_b rho_b (e^Delta_b - 1) R_b + U + eps_acc ) / sum_b rho_b e^-Delta_b.

Proof: the identity of ``decomposition`` with kappa = 1; ``|w_t - 1| <= e^Delta_b - 1`` and ``W >= sum_b rho_b
e^-Delta_b``. Also ``||O - c|| <= max_b R_b``, since O is a convex combination of the V_t (theorem ``hull``); the
smaller of the two is returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.arithmetic import LOST_TO_UNDERFLOW, exp_minus_lb, expm1_ub
from certkv.reference.bounds.hull import hull
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


@dataclass(frozen=True, eq=False)
class BlockBound:
    """The bound and its parts, float64 [heads]; and what refinement needs, float64 [heads, blocks].

    Attributes
    ----------
    bound : float64 [heads]
        At most the sum of the parts.
    key, value, arithmetic : float64 [heads]
        Key terms with rounding switched off, value terms, and the rest, each over the denominator.
    denominator : float64 [heads]
        Lower bound of ``W``.
    key_gain, value_gain : float64 [heads, blocks]
        What each block adds to the numerator through its keys and through its values.
    """

    bound: FloatArray
    key: FloatArray
    value: FloatArray
    arithmetic: FloatArray
    denominator: FloatArray
    key_gain: FloatArray
    value_gain: FloatArray


def over(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient of non-negative numbers in which everything undefined (0/0, inf/inf) is ``+inf``."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = numerator / denominator
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))


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
    # Roundings on a path: at most 6 in a term, the sum over blocks, two more sums and the quotient.
    factor = outward(mass_ub.shape[-1] + 12)
    delta = (key_delta_ub + rounding_delta_ub) * outward(1)
    with np.errstate(over="ignore", invalid="ignore"):
        key_terms = mass_ub * expm1_ub(delta) * radius_ub
        pure_key_terms = mass_ub * expm1_ub(key_delta_ub) * radius_ub
        key_sum = pure_key_terms.sum(axis=-1)
        value_terms = mass_ub * value_error_ub
        value_sum = value_terms.sum(axis=-1) * factor
        numerator = (key_terms.sum(axis=-1) + value_terms.sum(axis=-1) + accumulation_ub) * factor
    denominator = (mass_lb * exp_minus_lb(delta)).sum(axis=-1) / factor
    # below this, underflow of the terms could have raised the sum by more than its roundings did
    denominator = np.where(denominator < LOST_TO_UNDERFLOW, 0.0, denominator)
    theorem = over(numerator, denominator)
    bound = np.minimum(theorem, hull(radius_ub))
    # Where the hull is the smaller one the parts are cut to it, so that they stay finite and comparable.
    key = np.where(key_sum == 0.0, 0.0, np.minimum(over(key_sum, denominator), bound))
    value = np.where(value_sum == 0.0, 0.0, np.minimum(over(value_sum, denominator), bound))
    with np.errstate(invalid="ignore"):
        rest = bound - key - value
    # 4u(bound + key + value) is more than the two subtractions and the two additions of the parts can lose
    slack = np.where(np.isinf(bound), 0.0, 2.0**-50 * (bound + key + value))
    arithmetic = np.where(np.isinf(bound), np.inf, np.maximum(np.where(np.isnan(rest), 0.0, rest) + slack, 0.0))
    return BlockBound(bound, key, value, arithmetic, denominator, key_terms, value_terms)
