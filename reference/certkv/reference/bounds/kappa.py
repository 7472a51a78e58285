"""The free number kappa of theorem ``sharp``. Any value is sound, so nothing here is rounded outward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.decay import decay
from certkv.reference.bounds.hull import hull
from certkv.reference.bounds.root import smallest_certified
from certkv.reference.bounds.sharp import Function, sharp
from certkv.reference.numbers.types import FloatArray

STEPS = 20
"""Golden-section steps for log kappa: each leaves 0.618 of the interval."""

LARGEST = 30.0
"""``|log kappa|`` is at most this, and at most the largest Delta: outside that range T rises with the distance."""

_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


def uniform_kappa(delta: ArrayLike) -> FloatArray:
    """``1 / cosh Delta``, the best kappa where all blocks have one Delta, one R and no other error.

    Parameters
    ----------
    delta : float64 [...]
        NaN counts as unbounded.

    Returns
    -------
    float64 [...]
        0 beyond 700.
    """
    f, _ = decay(delta)
    return np.asarray(2.0 * f / (1.0 + f * f))


def choose_kappa(
    *,
    mass_ub: FloatArray,
    mass_lb: FloatArray,
    delta_ub: FloatArray,
    radius_ub: FloatArray,
    value_and_accumulation_ub: FloatArray,
    start_ub: FloatArray,
) -> FloatArray:
    """Choose for each head about the kappa whose root is the smallest.

    That is the root of ``min over kappa of T``. T is convex in kappa and lambda together, so the minimum is convex in
    lambda, and a golden section finds it for each lambda. About 400 evaluations of T.

    Parameters
    ----------
    mass_ub, mass_lb, delta_ub, radius_ub, value_and_accumulation_ub, start_ub
        As in `sharp`.

    Returns
    -------
    float64 [heads]
        Finite, at least 0.
    """
    kappa = np.ones(len(mass_ub))
    if not np.size(mass_ub):
        return kappa
    reach = np.minimum(np.nan_to_num(delta_ub, nan=0.0, posinf=LARGEST).max(axis=-1), LARGEST)

    def function(log_kappa: FloatArray) -> Function:
        return Function.of(
            mass_ub, mass_lb, delta_ub, radius_ub, value_and_accumulation_ub, np.exp(log_kappa), None, None
        )

    def best(bound: FloatArray) -> FloatArray:
        return golden_section(lambda log_kappa: function(log_kappa).at(bound)[0], -reach, reach)

    def smallest(bound: FloatArray) -> tuple[FloatArray, FloatArray]:
        # the slope of a minimum is not that of its kappa where two ends of a block tie: bisection instead of Newton
        return function(best(bound)).at(bound)[0], np.full_like(bound, np.nan)

    start = sharp(
        mass_ub=mass_ub,
        mass_lb=mass_lb,
        delta_ub=delta_ub,
        radius_ub=radius_ub,
        value_and_accumulation_ub=value_and_accumulation_ub,
        start_ub=np.fmin(start_ub, hull(radius_ub)),
    )
    bound = smallest_certified(smallest, start, 1.0)
    return np.exp(best(np.where(np.isfinite(bound), bound, 0.0)))


def golden_section(at: Callable[[FloatArray], FloatArray], low: FloatArray, high: FloatArray) -> FloatArray:
    """Where a function of [heads] that falls and then rises is smallest between ``low`` and ``high`` [heads]."""
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_inner, at_outer = at(inner), at(outer)
    for _ in range(STEPS):
        left = at_inner <= at_outer
        low, high = np.where(left, low, inner), np.where(left, outer, high)
        new = np.where(left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = at(new)
        inner, outer = np.where(left, new, outer), np.where(left, inner, new)
        at_inner, at_outer = np.where(left, at_new, at_outer), np.where(left, at_inner, at_new)
    return np.asarray(np.where(at_inner <= at_outer, inner, outer))
