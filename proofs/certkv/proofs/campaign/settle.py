"""Judge again, far more finely, what the judge leaves open: where error and bound agree to many digits."""

from __future__ import annotations

import numpy as np

from certkv.reference.exact import Enclosure, Verdict, distance
from certkv.reference.exact.enclosure import float_lb, float_ub
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import AnyArray, FloatArray

RADII = (2.0**-24, 2.0**-60, 2.0**-200)
"""Of the enclosures, relative to the bound; the last is finer than any margin of a float64 bound that has one."""


def is_open(verdict: Verdict, bound: float) -> bool:
    """Whether a verdict is neither a violation nor a proof that the bound holds."""
    claimed = not np.isinf(bound) and not np.isnan(bound)
    return claimed and not verdict.violated and not verdict.error_ub <= bound


def settle(
    output: FloatArray, bound: float, q: AnyArray, enclosure: Enclosure, values: FloatArray, scale: float
) -> Verdict:
    """Judge one head by ever narrower enclosures.

    Parameters
    ----------
    output : float64 [d]
    bound : float
    q : array [d]
    enclosure : Enclosure
        Of the keys and values that the query sees.
    values : float64 [N, d]
    scale : float

    Returns
    -------
    Verdict
    """
    unit = bound if bound > 0.0 else float(norm_ub(values).max())
    verdict = Verdict(0.0, np.inf, False, "enclosure")
    for radius in RADII:
        error = distance(output, enclosure.attention(q, scale, radius * unit))
        lb, ub = float_lb(error), float_ub(error)
        if not (np.isnan(lb) or np.isnan(ub)):
            verdict = Verdict(max(lb, 0.0), ub, lb > bound, "enclosure")
        if not is_open(verdict, bound):
            break
    return verdict
