"""Score errors of coded keys: ``|scale q . (k - k_hat)| <= Delta_b`` for every token of a block.

Statement. With ``e = k - k_hat``, ``X = e / s`` the residuals in units of the stored steps and ``q~ = |scale| s o q``
(o: channel by channel), ``scale q . e_t = +-(X q~)_t``. Per block this gives five numbers:

- `paper_l1`: ``|scale|/2 sum_c |q_c| s_c``, as stated (arXiv 2605.20868, Section 4);
- `paper_l2`: ``|scale|/2 ||q|| ||s||``, as stated, its looser form;
- `measured_l1`: ``max|X_tc| ||q~||_1``, the largest element measured, about 1/2: corrected;
- `measured_l2`: ``max_t ||X_t|| ||q~||_2``: corrected;
- `measured_operator`: ``||X||_op ||q~||_2`` bounds the *norm* over the block, ``||(scale q . e_t)_t||_2``: ours. It is
  far below sqrt(B) times the others, because residuals of different tokens do not all point the same way.

The paper's forms assume ``|e_c| <= s_c / 2``, which rounding breaks (by up to a factor 1.004 on 16-bit keys, far more
elsewhere); the measured forms assume nothing about the quantizer. Derivation: docs/derivations/score_error.md.

Every function returns an upper bound of its formula over the given float64 numbers. Elements of q, steps and norms
are 0 or at least 2^-150 in magnitude, which 16-bit and 32-bit numbers are, and the scale is at least 2^-128, so that no
product and no square underflows.
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
    return _norms(scale, norm_ub(q), 0.5 * norm_ub(step))


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


def measured_l2(scale: float, q: FloatArray, step: FloatArray, relative_norm_ub: FloatArray) -> FloatArray:
    """``|scale| z_b ||s o q||``.

    Parameters
    ----------
    scale, q, step
        As in `paper_l1`.
    relative_norm_ub : float64 [n]
        Upper bound of ``max_t ||(k_t - k_hat_t) / s||`` in each block, 0/0 = 0; ``inf`` is allowed.

    Returns
    -------
    float64 [G, n]
        ``inf`` where the formula is not defined (an infinite ratio times a norm of 0).
    """
    # below the root: two squares, their product and a sum of d; then the root and two products
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = np.sqrt((q * q) @ (step * step).T) * outward(q.shape[1] // 2 + 4)
        return _not_nan(outward(3) * (abs(scale) * weighted * relative_norm_ub))


def measured_operator(scale: float, q: FloatArray, step: FloatArray, relative_operator_ub: FloatArray) -> FloatArray:
    """Bound the Euclidean norm of a block's score errors: the formula of `measured_l2` with an operator norm.

    Parameters
    ----------
    scale, q, step
        As in `paper_l1`.
    relative_operator_ub : float64 [n]
        Upper bound of the operator norm of the matrix with rows ``(k_t - k_hat_t) / s``, 0/0 = 0.

    Returns
    -------
    float64 [G, n]
    """
    return measured_l2(scale, q, step, relative_operator_ub)


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
    return _norms(scale, query_residual_norm_ub, decoded_norm_ub)


def _norms(scale: float, of_query: FloatArray, of_blocks: FloatArray) -> FloatArray:
    """``|scale| a b``: [G] and [n] -> [G, n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _not_nan(outward(2) * (abs(scale) * of_query[:, None] * of_blocks))


def _not_nan(x: FloatArray) -> FloatArray:
    """Replace NaN, which every comparison lets pass, by infinity."""
    return np.asarray(np.where(np.isnan(x), np.inf, x))
