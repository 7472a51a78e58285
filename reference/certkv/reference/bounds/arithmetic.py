"""The rounding of the reference's own float64 step, as terms of the certificate (theorem ``arithmetic``).

Model. ``+ - * /`` round to nearest (``|theta| <= u = 2**-53``); a dot product or sum of n terms may be taken in any
order, with or without fused multiply-add (Higham, Section 3.1), so its relative error is at most ``gamma_n`` times
the sum of absolute values, and every term meets at most n factors ``1 + theta``; NumPy's ``exp`` and ``expm1`` are
within ``EXP_ULPS`` ulp - an assumption, tested against enclosures.

**Weights.** With ``k'`` the float64 decode (one rounding from the exact meaning ``k_hat``), the computed score is
``s' = fl(scale * fl(q . k'))``, so ``|s' - scale q . k_hat| <= gamma_{d+2} |scale| ||q|| ||k_hat||``. The computed
weight is ``p = fl(exp(x'))``, ``x' = fl(s' - m)``; m is a float64 number, the same for every token, so it cancels.
Hence ``ln p = scale q . k_hat - m + eps`` with ``|eps| <= gamma_{d+2} |scale| ||q|| ||k_hat|| + u |s' - m| +
2**-49``. Where ``x' < -700`` the effective weight is *defined* as ``exp(s' - m)`` (no rounding of the difference or
of ``exp``), and both it and p are below ``NEGLIGIBLE = 2**-1000``; the difference is charged to the accumulation.

**Accumulation.** With ``L = sum p``, ``M = sum p ||v'||``: ``o`` meets at most ``N + 4`` roundings on a path (N
terms, decode, two joins of partial sums), l at most N, the quotient one, so ``||c - sum p v / L|| <= gamma_{2N+6} M /
L``. Replacing p by the effective weights moves the quotient by at most ``2 N NEGLIGIBLE max||v|| / L``, and ``L >=
1/2`` because the largest weight is ``exp(0)``.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import U, gamma, outward
from certkv.reference.numbers.types import FloatArray

EXP_ULPS = 4
"""Assumed accuracy of NumPy's exp and expm1, in units in the last place."""

EXP_LOG_ERROR = 2.0**-49
"""``|ln(1 +- EXP_ULPS * 2**-52)|``, rounded up."""

UNDERFLOW = -700.0
"""Below this exponent a weight is charged absolutely."""

NEGLIGIBLE = 2.0**-1000
"""More than ``exp(UNDERFLOW)`` with its roundings: ``exp(-700) < 2**-1009``."""

LOST_TO_UNDERFLOW = 2.0**-900
"""More than all underflow of a step can lose.

A product that underflows is off by at most 2**-1075; at most 2**30 of them go into a component of the output (weights
times values) or into the certificate, where what follows multiplies them by at most 2**139, more than any radius
(head sizes up to 2**20).
"""


def score_rounding_ub(scale: float, q_norm_ub: FloatArray, k_norm_ub: FloatArray, head_dim: int) -> FloatArray:
    """Upper bound of ``|s' - scale q . k_hat|``: what rounding does to a score, before the maximum is taken off."""
    zero = np.asarray(q_norm_ub) == 0.0
    # the dot product of a zero query is exact, also with keys whose norm is beyond the annotation's range
    product = np.where(zero, 0.0, np.where(zero, 1.0, q_norm_ub) * k_norm_ub)
    return np.asarray(gamma(head_dim + 2) * abs(scale) * product * outward(4))


def log_weight_error_ub(
    scale: float, q_norm_ub: FloatArray, k_norm_ub: FloatArray, spread: FloatArray, head_dim: int
) -> FloatArray:
    """Upper bound of ``|ln(effective weight) - scale q . k_hat - const|`` over the tokens of each block.

    Parameters
    ----------
    scale : float
    q_norm_ub : float64 [heads, 1]
    k_norm_ub : float64 [heads, blocks]
        Largest norm of the keys as they were used (decoded, or original).
    spread : float64 [heads, blocks]
        Largest ``|s' - m|`` among the tokens of the block whose exponent is at least ``UNDERFLOW``.
    head_dim : int

    Returns
    -------
    float64 [heads, blocks]
    """
    dot = score_rounding_ub(scale, q_norm_ub, k_norm_ub, head_dim)
    # 6 roundings: a product, two sums, and |s' - m| <= |x'| / (1 - u) with room to spare
    return np.asarray((dot + U * spread + EXP_LOG_ERROR) * outward(6))


def accumulation_ub(tokens: int, mean_norm_ub: FloatArray, max_norm_ub: FloatArray) -> FloatArray:
    """Upper bound of ``||c - O_hat||``: what summation and division add (``eps_acc``).

    Parameters
    ----------
    tokens : int
        N.
    mean_norm_ub : float64 [heads]
        Upper bound of the mass-weighted norm of the values as used, ``M / L``.
    max_norm_ub : float64 [heads]
        Upper bound of their largest norm.

    Returns
    -------
    float64 [heads]
    """
    absolute = 4.0 * tokens * NEGLIGIBLE * max_norm_ub + LOST_TO_UNDERFLOW
    return np.asarray((gamma(2 * tokens + 6) * mean_norm_ub + absolute) * outward(8))


def mass_ub(mass: FloatArray, tokens: int) -> FloatArray:
    """Upper bound of the effective mass from a computed share ``fl(sum_b p / l)``; always positive."""
    return np.asarray(mass * outward(tokens + 2) + 4.0 * tokens * NEGLIGIBLE)


def mass_lb(mass: FloatArray, tokens: int) -> FloatArray:
    """Lower bound of the effective mass from a computed share; never negative."""
    return np.asarray(np.maximum(mass / outward(tokens + 2) - 4.0 * tokens * NEGLIGIBLE, 0.0))


def expm1_ub(x: FloatArray) -> FloatArray:
    """Upper bound of ``e**x - 1`` for x >= 0; ``+inf`` where that overflows."""
    with np.errstate(over="ignore"):
        # EXP_ULPS ulp are at most 2**-50 of the value; the product rounds once more
        return np.asarray(np.expm1(x) * (1.0 + 2.0**-48))


def exp_minus_lb(x: FloatArray) -> FloatArray:
    """Lower bound of ``e**-x`` for x >= 0; 0 where that underflows."""
    # as above, from below
    value = np.exp(-np.minimum(x, -UNDERFLOW)) * (1.0 - 2.0**-48)
    return np.asarray(np.where(x <= -UNDERFLOW, value, 0.0))
