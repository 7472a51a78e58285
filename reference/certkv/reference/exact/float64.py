r"""Exact attention up to a proved error, in vectorised float64: the truth for quantities of head-steps.

**Claim.** ``error_ub >= ||output - O||_2`` with ``O`` the real-number attention of the given q, k, v and scale.

*Model.* u = 2^-53; gamma_n = n u / (1 - n u). Sums and dot products may be evaluated in any order, with or without
FMA. ``exp`` and ``expm1`` of the library are within 4 ulp, i.e. relative 8 u (an assumption about NumPy's build; the
tests measure it against enclosures).

*Derivation*, for one query. Let s_t be the exact scores, m the largest computed score (an exact number from now on),
x_t = exp(s_t - m); so O = sum x_t v_t / sum x_t. Let w_t be the computed weights, c the returned output.

1. Scores. |computed dot - dot| <= gamma_d sum_c |q_c k_tc| <= gamma_d ||q|| ||k_t||; the product with the scale makes
   it gamma_{d+1}. The difference to m errs by at most u |shift_t|, exp by |ln(1 +- 8u)| <= 9 u. So for tokens with
   shift_t >= -300 (set F; nothing underflows there) x_t = w_t e^{-e_t} with
   |e_t| <= delta_t = gamma_{d+1} |scale| ||q|| ||k_t|| + u |shift_t| + 9 u.
   The other tokens (set Z) get w_t = 0; there x_t <= e^{delta_t - 300}.
2. Sums. With at most K roundings on any path from a weight to the numerator and, the final division counted, from a
   weight through the denominator L = sum_F w_t to c: ||sum_F w_t v_t - L c|| <= gamma_K sum_F w_t (||v_t|| + ||c||).
   (Numerator: gamma_{K-1} per channel. Denominator and division: |c| (gamma_{K-1} + u (1 + gamma_{K-1})) L <=
   gamma_K |c| L.) Sums run over chunks of 256 tokens first, so K = min(N, 256) + ceil(N / 256), not N.
3. Sum x_t (v_t - c) = sum_F w_t (e^{-e_t} - 1)(v_t - c) + sum_F w_t (v_t - c) + sum_Z x_t (v_t - c), hence, with
   R_t = ||v_t|| + ||c|| >= ||v_t - c|| and sum x_t >= sum_F w_t e^{-delta_t},

   ||O - c|| <= [ sum_F w_t (e^{delta_t} - 1 + gamma_K) R_t + sum_Z e^{delta_t - 300} R_t ] / sum_F w_t e^{-delta_t}.

4. ||O - c|| <= max_t ||v_t|| + ||c|| always; the smaller of the two is returned. Underflow in the products of a dot
   and in the weighted sums and the division is below 2^-1000 in total and charged as that. What is not a number is
   replaced by infinity.

The bound itself is evaluated with quantities that are rounded outward (`certkv.reference.numbers.error`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.errors import ShapeError
from certkv.reference.exact.convert import to_float64
from certkv.reference.numbers import U, gamma, norm_ub, outward
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray

CHUNK = 256
FLUSH = 300.0
"""Weights below e^-300 are set to zero and charged: their products with anything in reach are normal numbers."""

UNDERFLOW = 2.0**-1000
EXP_ROUNDINGS = 9
"""Units of u that cover ``|ln(1 +- 8u)|`` (exp within 4 ulp) and the underflow of one product, 2^-1075."""


@dataclass(frozen=True, eq=False)
class ExactFloat64:
    """Attention of several queries on the same keys and values.

    Attributes
    ----------
    output : float64 array [G, d]
    error_ub : float64 array [G]
        Upper bound of the L2 distance to the exact output, in the units of v; ``inf`` where nothing is known.
    lse : float64 array [G]
        Natural logarithm of the sum of exp(score); not a bound.
    """

    output: FloatArray
    error_ub: FloatArray
    lse: FloatArray


def attention(q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> ExactFloat64:
    """Evaluate ``softmax(scale * q k^T) v`` with a proved error bound.

    Parameters
    ----------
    q, k, v : array [G, d_k], [N, d_k], [N, d]
        Originals: float16, bfloat16, float32 or float64.
    scale : float
        The softmax scale: this very float64 number.

    Returns
    -------
    ExactFloat64

    Raises
    ------
    ShapeError
        Shapes that do not fit each other, or no token.
    DTypeError
        A type that float64 does not hold exactly.
    """
    if q.ndim != 2 or k.ndim != 2 or v.ndim != 2 or q.shape[1] != k.shape[1] or len(k) != len(v) or len(k) == 0:
        raise ShapeError(f"q {q.shape}, k {k.shape}, v {v.shape} must be [G, d_k], [N, d_k], [N, d] with N >= 1")
    queries, keys, values = to_float64("q", q), to_float64("k", k), to_float64("v", v)
    # Infinities and NaN end in error_ub = inf, not in a warning.
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        scores = (queries @ keys.T) * scale
        top = scores.max(axis=1, keepdims=True)
        shift = scores - top
        kept = shift >= -FLUSH
        weights = np.where(kept, np.exp(shift), 0.0)
        numerator, denominator = _weighted_sums(weights, values)
        output = numerator / denominator[:, None]
        error_ub = _error_ub(queries, keys, values, scale, shift, kept, weights, output)
        return ExactFloat64(output, error_ub, top[:, 0] + np.log(denominator))


def _weighted_sums(weights: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return weights @ values [G, d] and the sums of weights [G], added in chunks of `CHUNK` tokens."""
    heads, tokens = weights.shape
    whole = tokens - tokens % CHUNK
    numerator = weights[:, whole:] @ values[whole:]
    denominator = weights[:, whole:].sum(axis=1)
    if whole:
        chunked = weights[:, :whole].reshape(heads, -1, CHUNK)
        numerator += (chunked.swapaxes(0, 1) @ values[:whole].reshape(-1, CHUNK, values.shape[1])).sum(axis=0)
        denominator += chunked.sum(axis=2).sum(axis=1)
    return numerator, denominator


def _error_ub(
    queries: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    scale: float,
    shift: FloatArray,
    kept: BoolArray,
    weights: FloatArray,
    output: FloatArray,
) -> FloatArray:
    """Evaluate steps 1 to 4 of the derivation above, [G]."""
    tokens, key_dim = keys.shape
    value_norms = norm_ub(values)
    output_norms = norm_ub(output)
    radii = value_norms + output_norms[:, None]
    # At most eight roundings on a path, all of nonnegative numbers.
    dots = gamma(key_dim + 1) * abs(scale) * norm_ub(queries)[:, None] * norm_ub(keys)
    constant = EXP_ROUNDINGS * U + abs(scale) * (key_dim * UNDERFLOW)
    delta = outward(8) * (dots + U * np.abs(shift) + constant)
    k_roundings = min(tokens, CHUNK) + -(-tokens // CHUNK)
    charged = np.where(kept, weights * (np.expm1(delta) + gamma(k_roundings)), 0.0)
    if not kept.all():
        # One is taken off the 300 for the rounding of the difference (below 1/8 unless the result is infinite).
        charged = np.where(kept, charged, np.exp(delta - (FLUSH - 1.0)))
    kept_mass = np.where(delta < FLUSH, weights * np.exp(-delta), 0.0).sum(axis=1)
    # Roundings on a path: tokens - 1 of a sum, at most eight others, and nine (relative 8u) of exp or expm1; twice.
    bound = outward(2 * tokens + 40) * ((charged * radii).sum(axis=1) / kept_mass) + UNDERFLOW
    trivial = outward(4) * (value_norms.max() + output_norms)
    smallest: FloatArray = np.fmin(bound * (1.0 + 4.0 * U), trivial)
    return np.where(np.isfinite(trivial), smallest, np.inf)
