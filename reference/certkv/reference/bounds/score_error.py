"""Score errors of coded keys: ``|scale q . (k - k_hat)| <= Delta_b`` for every token of a block.

Statement. With ``e = k - k_hat`` and the caller's ``scale`` (whatever it is: it multiplies the score, so it
multiplies the error), ``|scale q . e| <= |scale| sum_c |q_c| |e_c| <= |scale| ||q|| ||e||``. Per block this gives
four numbers:

- `paper_l1`: ``|scale|/2 sum_c |q_c| s_c``, as stated (arXiv 2605.20868, Section 4);
- `paper_l2`: ``|scale|/2 ||q|| ||s||``, as stated, its looser form;
- `measured_l1`: ``|scale| z sum_c |q_c| s_c`` with z = max |e_tc| / s_c measured, about 1/2: corrected;
- `measured_l2`: ``|scale| ||q|| max_t ||e_t||`` with the norm measured: corrected.

The paper's forms assume ``|e_c| <= s_c / 2``, which rounding breaks (by up to a factor 1.004 on 16-bit keys, far more
elsewhere); the measured forms assume nothing about the quantizer. Derivation: docs/derivations/score_error.md.

Every function returns an upper bound of its formula over the given float64 numbers. Elements of q, steps and norms
are 0 or at least 2^-300 in magnitude, which 16-bit and 32-bit numbers are, and the scale is at least 2^-128, so that no
product underflows.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import FloatArray


def paper_l1(scale: float, q: FloatArray, step: FloatArray) -> FloatArray:
    """``|scale|/2 sum_c |q_c| s_c``; as stated, sound only if ``|k - k_hat| <= s/2`` exactly.

    Parameters
    ----------
    scale : float
        Softmax scale of the caller.
    q : float64 [G, d]
    step : float64 [n, d]
        Affine scale of each block and channel, in the units of K.

    Returns
    -------
    float64 [G, n]
    """
    return measured_l1(scale, q, step, np.full(len(step), 0.5))


def paper_l2(scale: float, q: FloatArray, step: FloatArray) -> FloatArray:
    """``|scale|/2 ||q|| ||s||``; as stated. Parameters as in `paper_l1`."""
    return measured_l2(scale, q, 0.5 * norm_ub(step))


def measured_l1(scale: float, q: FloatArray, step: FloatArray, relative_max_ub: FloatArray) -> FloatArray:
    """``|scale| z_b sum_c |q_c| s_c``.

    Parameters
    ----------
    scale, q, step
        As in `paper_l1`.
    relative_max_ub : float64 [n]
        Upper bound of ``max_{t,c} |k - k_hat| / s_c`` in each block, 0/0 = 0; ``inf`` is allowed.

    Returns
    -------
    float64 [G, n]
        ``inf`` where the formula is not defined (an infinite ratio times a sum of 0).
    """
    # d + 2 roundings: d in each dot product of nonnegative numbers, two products.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.abs(q) @ step.T
        return _not_nan(outward(q.shape[1] + 2) * (abs(scale) * sums * relative_max_ub))


def measured_l2(scale: float, q: FloatArray, residual_norm_ub: FloatArray) -> FloatArray:
    """``|scale| ||q|| max_t ||k_t - k_hat_t||``.

    Parameters
    ----------
    scale, q
        As in `paper_l1`.
    residual_norm_ub : float64 [n]
        Upper bound of the largest residual norm in each block, in the units of K; ``inf`` is allowed.

    Returns
    -------
    float64 [G, n]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _not_nan(outward(2) * (abs(scale) * norm_ub(q)[:, None] * residual_norm_ub))


def query_l2(scale: float, query_residual_norm_ub: FloatArray, decoded_norm_ub: FloatArray) -> FloatArray:
    """``|scale| ||q - q_hat|| max_t ||k_hat_t||``: what quantizing the *query* adds to the score error.

    With scores computed from q_hat and k_hat, ``q . k - q_hat . k_hat = q . (k - k_hat) + (q - q_hat) . k_hat``, so
    the total is one of the bounds above plus this one. No multiple of the first covers the second: where keys are
    coded exactly the first is 0 and the second is not.

    Parameters
    ----------
    scale : float
    query_residual_norm_ub : float64 [G]
    decoded_norm_ub : float64 [n]
        Upper bound of the largest norm of a decoded key in each block.

    Returns
    -------
    float64 [G, n]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _not_nan(outward(2) * (abs(scale) * query_residual_norm_ub[:, None] * decoded_norm_ub))


def _not_nan(x: FloatArray) -> FloatArray:
    """Replace NaN, which every comparison lets pass, by infinity."""
    return np.asarray(np.where(np.isnan(x), np.inf, x))
