"""The smallest bound that a decreasing function of the bound is seen to prove; serves theorem ``sharp``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.numbers.types import BoolArray, FloatArray

ROUNDS = 8
"""Newton steps, and as many of regula falsi; what is left after them is size, never soundness."""

CLOSE = 2.0**-40
"""Relative distance from the root at which the search ends."""

At = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""From bounds [heads] to the function there, rounded up, and about its slope."""


def certifies(at: At, bound: FloatArray) -> BoolArray:
    """Whether each bound [heads] is finite, at least 0, and proved: the function is at most 0 there.

    For a tolerance that is fixed in advance this is the whole test; no root is needed.
    """
    with np.errstate(invalid="ignore"):
        usable = (bound >= 0.0) & np.isfinite(bound)
    total_ub, _ = at(np.where(usable, bound, 0.0))
    return np.asarray(usable & (total_ub <= 0.0))


def smallest_certified(at: At, start: FloatArray, inflation: float, floor: ArrayLike = 0.0) -> FloatArray:
    """Close in on the root from both sides: from below by Newton's method, from above by regula falsi.

    Where the function is convex, a Newton step never passes the root and a regula falsi step never falls short of it.
    Where it is not, or where rounding interferes, steps that leave the bracket are replaced by bisection. Whatever a
    step lands on is evaluated and becomes the upper end only if it is proved.

    Parameters
    ----------
    at : callable
    start : float64 [heads]
        Bounds that are known to be valid.
    inflation : float
        At least 1: factor on a regula falsi step, against the wavering of the evaluated function about its root.
    floor : float64 [heads]
        Where to begin from below; at least 0. Nothing below it is returned.

    Returns
    -------
    float64 [heads]
        ``start``, or a number below it at which `certifies` holds.
    """
    active = certifies(at, start)
    high = np.where(active, start, 1.0)
    low = np.minimum(floor, high)
    (at_low, slope), (at_high, _) = at(low), at(high)
    high, at_high = np.where(at_low <= 0.0, low, high), np.where(at_low <= 0.0, at_low, at_high)
    for _ in range(ROUNDS):
        if (~active | (low >= high * (1.0 - 2.0 * CLOSE))).all():
            break
        for step in ("newton", "regula falsi"):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                if step == "newton":
                    # just below the upper end at the latest: if that is not proved, the search is over
                    end = high * (1.0 - CLOSE)
                    newton = low - at_low / slope
                    candidate = np.where(newton >= end, end, newton)
                else:
                    chord = (low + (high - low) * (at_low / (at_low - at_high))) * inflation
                    # a Newton step that was cut at the upper end and proved all the same: not convex there
                    candidate = np.where(high == end, np.nan, chord)
            inside = (candidate > low) & (candidate < high)
            middle = np.where(inside, candidate, 0.5 * (low + high))
            total, its_slope = at(middle)
            proved = total <= 0.0
            high, at_high = np.where(proved, middle, high), np.where(proved, total, at_high)
            low, at_low = np.where(proved, low, middle), np.where(proved, at_low, total)
            slope = np.where(proved, slope, its_slope)
    return np.asarray(np.where(active, np.minimum(high, start), start))
