"""Theorem ``hull``: the error is at most the largest distance of a value from the output.

Statement. For every vector c, ``||O - c|| <= max_t ||V_t - c|| <= max_b R_b`` with
``R_b >= max_{t in b} ||V_t - c||``; for instance ``R_b = nu_b + ||c||``, or
``R_b = max_t ||V_t - mu|| + ||c - mu||`` with a fixed anchor mu.

Hypothesis: none about weights or scores. Form: ours; the paper has no such bound and reports numbers above it.
Derivation: docs/derivations/hull.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def hull(radius_ub: FloatArray) -> FloatArray:
    """``max_b R_b``.

    Parameters
    ----------
    radius_ub : float64 [..., n]
        ``R_b``, n >= 1, in the units of V.

    Returns
    -------
    float64 [...]
        ``inf`` where a radius is NaN.
    """
    largest = np.max(radius_ub, axis=-1)
    return np.asarray(np.where(np.isnan(largest), np.inf, largest))


def plain_radius(norm_ub: FloatArray, output_norm_ub: ArrayLike) -> FloatArray:
    """``nu_b + ||c||``.

    Parameters
    ----------
    norm_ub : float64 [..., n]
        ``nu_b``: upper bound of the largest value norm in each block, of the originals.
    output_norm_ub : float64 [...]
        Upper bound of ``||c||``.

    Returns
    -------
    float64 [..., n]
    """
    return np.asarray(outward(1) * (norm_ub + np.asarray(output_norm_ub)[..., None]))


def anchored_radius(anchored_norm_ub: FloatArray, offset_norm_ub: ArrayLike) -> FloatArray:
    """``max_t ||V_t - mu|| + ||c - mu||``, shapes as in `plain_radius`."""
    return plain_radius(anchored_norm_ub, offset_norm_ub)
