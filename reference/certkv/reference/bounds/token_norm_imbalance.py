"""Token norm imbalance: what two tokens of a group force upon its steps, in any orthonormal basis.

Statement. If codes 0..L with steps D_c per channel reach every number of a group, then for any two of its tokens

    ||D|| >= ||k_m - k_n|| / L >= | ||k_m|| - ||k_n|| | / L,

and neither side changes under a rotation. A step that was stored in a type of unit roundoff u and least positive number
2h is at least ``(1 - u)(1 - v)^2 range/L - h``, v of binary32, so stored steps obey
``L (||D|| + h sqrt(d)) >= (1 - u)(1 - v)^2 ||k_m - k_n||``. Source: OScaR (arXiv 2605.19660); the step from there to a
mean squared error is a rule of thumb and no part of it. Derivation: docs/derivations/token_norm_imbalance.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import FloatType, norm_lb, norm_ub
from certkv.reference.numbers.types import FloatArray

V = 2.0**-24
"""Unit roundoff of binary32."""


def steps_norm_lb(tokens: FloatArray, levels: int, ft: FloatType) -> float:
    """Return a lower bound of ``||D||``, D the stored steps per channel of a group that is quantized together.

    Parameters
    ----------
    tokens : float64 [n, d]
        What is quantized, n >= 1.
    levels : int
        Largest code.
    ft : FloatType
        Type of the stored steps.

    Returns
    -------
    float
        Not negative; by the pair of tokens that are farthest apart.
    """
    apart = norm_lb(tokens[:, None, :] - tokens[None, :, :])
    return _stored(float(apart.max()), levels, tokens.shape[-1], ft)


def steps_norm_by_norms_lb(tokens: FloatArray, levels: int, ft: FloatType) -> float:
    """Return the weaker bound, which depends on the largest and the smallest norm alone; parameters as above."""
    gap = float(norm_lb(tokens).max()) - float(norm_ub(tokens).min())
    return _stored(max(gap * (1.0 - 2.0**-52), 0.0), levels, tokens.shape[-1], ft)


def _stored(distance: float, levels: int, head_dim: int, ft: FloatType) -> float:
    """From a distance of tokens to the norm of stored steps."""
    rounded = (1.0 - ft.unit_roundoff) * (1.0 - V) ** 2 * distance / levels
    # five roundings of the product, two of the root and its product, one of the difference: 2^-50 is more than eight
    lost = ft.smallest_subnormal / 2 * float(np.sqrt(head_dim))
    return max(rounded * (1.0 - 2.0**-50) - lost * (1.0 + 2.0**-50), 0.0) * (1.0 - 2.0**-52)
