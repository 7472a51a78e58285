"""Lemma ``weighted_sums``: what is known of a block's score errors, applied to nonnegative weights.

Statement. Let ``|delta_t| <= Delta`` for every token t of a block and ``||delta||_2 <= Omega``. For weights
``beta_t >= 0`` with largest element ``top`` and all but that one of norm ``rest``:

    sum beta_t |delta_t|    <=  min( Delta ||beta||_1,  Omega ||beta||_2,  top Delta + rest Omega )   (`first_order`)
    ||(beta_t delta_t)_t||  <=  min( top Omega,  Delta ||beta||_2 )                                   (`root_order`)
    sum beta_t delta_t^2    <=  min( Delta^2 ||beta||_1,  top Omega^2,  Delta Omega ||beta||_2 )      (`second_order`)

Proof: Hoelder and Cauchy-Schwarz; the third form of the first takes the heaviest token by Delta and the rest by
Cauchy-Schwarz. All are increasing in every beta_t, in Delta and in Omega, and positively homogeneous in beta.

Source: ours. Derivation: docs/derivations/weighted_sums.md. Every function returns an upper bound of its formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import FloatArray


@dataclass(frozen=True, eq=False)
class Sums:
    """Upper bounds of norms of nonnegative weights over the last axis; float64 [...].

    Attributes
    ----------
    l1, l2, top : float64 [...]
        Sum, Euclidean norm and largest element.
    rest : float64 [...]
        Euclidean norm of all but one largest element.
    """

    l1: FloatArray
    l2: FloatArray
    top: FloatArray
    rest: FloatArray


def without(weights: FloatArray, token: npt.NDArray[np.integer[Any]]) -> FloatArray:
    """Weights with one token's taken out, [..., B] and [...] (indices) -> [..., B]."""
    rest = weights.copy()
    np.put_along_axis(rest, token[..., None], 0.0, axis=-1)
    return rest


def sums(weights: FloatArray) -> Sums:
    """Take the norms of float64 weights [..., B], B >= 1."""
    heaviest = weights.argmax(axis=-1)
    return Sums(
        l1=weights.sum(axis=-1) * outward(weights.shape[-1]),
        l2=norm_ub(weights),
        top=weights.max(axis=-1),
        rest=norm_ub(without(weights, heaviest)),
    )


def first_order(beta: Sums, delta_ub: FloatArray, operator_ub: FloatArray) -> FloatArray:
    """Upper bound of ``sum beta_t |delta_t|``, [...]; ``inf`` where nothing is known."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _smallest(
            delta_ub * beta.l1, operator_ub * beta.l2, (beta.top * delta_ub + beta.rest * operator_ub) * outward(2)
        )


def root_order(beta: Sums, delta_ub: FloatArray, operator_ub: FloatArray) -> FloatArray:
    """Upper bound of ``||(beta_t delta_t)_t||_2``, [...]; ``inf`` where nothing is known."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _smallest(beta.top * operator_ub, delta_ub * beta.l2)


def second_order(beta: Sums, delta_ub: FloatArray, operator_ub: FloatArray) -> FloatArray:
    """Upper bound of ``sum beta_t delta_t^2``, [...]; ``inf`` where nothing is known."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _smallest(
            delta_ub * delta_ub * beta.l1, operator_ub * operator_ub * beta.top, delta_ub * operator_ub * beta.l2
        )


def _smallest(*bounds: FloatArray) -> FloatArray:
    """Smallest of the bounds that are numbers, two roundings outward; ``inf`` where none is."""
    least = np.fmin.reduce(np.stack(np.broadcast_arrays(*bounds)))
    return np.asarray(np.where(np.isnan(least), np.inf, least) * outward(2))
