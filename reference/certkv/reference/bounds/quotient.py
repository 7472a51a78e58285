"""From terms per block to the bound of a head: sums, one quotient, the hull, and the parts that are reported.

Whatever theorem the terms come from, ``||O - c|| <= (sum_b C_b + sum_b U_b + eps_acc) / sum_b D_b`` with the
denominator a lower bound of ``W = sum a'_t w_t``: identity ``decomposition`` with kappa = 1. Also
``||O - c|| <= max_b R_b``, since O is a convex combination of the V_t (theorem ``hull``); the smaller is returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.arithmetic import LOST_TO_UNDERFLOW
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
    weight : float64 [heads, blocks]
        What each block adds to the denominator.
    """

    bound: FloatArray
    key: FloatArray
    value: FloatArray
    arithmetic: FloatArray
    denominator: FloatArray
    key_gain: FloatArray
    value_gain: FloatArray
    weight: FloatArray


def over(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient of non-negative numbers in which everything undefined (0/0, inf/inf) is ``+inf``."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = numerator / denominator
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))


def quotient(
    *,
    key_terms: FloatArray,
    pure_key_terms: FloatArray,
    value_terms: FloatArray,
    weight_lb: FloatArray,
    accumulation_ub: FloatArray,
    hull_ub: FloatArray,
    sharper_ub: FloatArray | None = None,
) -> BlockBound:
    """Sum, divide, and split into parts; rounded outward.

    Parameters
    ----------
    key_terms, pure_key_terms : float64 [heads, blocks]
        ``C_b``, with and without rounding in the score errors.
    value_terms : float64 [heads, blocks]
        ``U_b``.
    weight_lb : float64 [heads, blocks]
        ``D_b``.
    accumulation_ub : float64 [heads]
        ``eps_acc``.
    hull_ub : float64 [heads]
        Theorem ``hull``.
    sharper_ub : float64 [heads] or None
        Another proved bound; a NaN is none.

    Returns
    -------
    BlockBound
        Where anything is NaN or infinite beyond repair, ``bound`` is ``+inf``.
    """
    # Roundings on a path: at most 6 in a term, the sum over blocks, two more sums and the quotient.
    factor = outward(key_terms.shape[-1] + 12)
    with np.errstate(over="ignore", invalid="ignore"):
        key_sum = pure_key_terms.sum(axis=-1)
        value_sum = value_terms.sum(axis=-1) * factor
        numerator = (key_terms.sum(axis=-1) + value_terms.sum(axis=-1) + accumulation_ub) * factor
    denominator = weight_lb.sum(axis=-1) / factor
    # below this, underflow of the terms could have raised the sum by more than its roundings did
    denominator = np.where(denominator < LOST_TO_UNDERFLOW, 0.0, denominator)
    theorem = over(numerator, denominator)
    if sharper_ub is not None:
        theorem = np.fmin(theorem, sharper_ub)
    bound = np.minimum(theorem, hull_ub)
    # Where another bound is the smaller one the parts are cut to it, so that they stay finite and comparable.
    key = np.where(key_sum == 0.0, 0.0, np.minimum(over(key_sum, denominator), bound))
    value = np.where(value_sum == 0.0, 0.0, np.minimum(over(value_sum, denominator), bound))
    with np.errstate(invalid="ignore"):
        rest = bound - key - value
    # 4u(bound + key + value) is more than the two subtractions and the two additions of the parts can lose
    slack = np.where(np.isinf(bound), 0.0, 2.0**-50 * (bound + key + value))
    arithmetic = np.where(np.isinf(bound), np.inf, np.maximum(np.where(np.isnan(rest), 0.0, rest) + slack, 0.0))
    return BlockBound(bound, key, value, arithmetic, denominator, key_terms, value_terms, weight_lb)
