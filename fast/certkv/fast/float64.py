r"""Attention of originals in float64 with a proved error: what rung 4's output is measured against.

**Claim.** ``error_ub >= ||output - O||_2`` with ``O`` the real-number attention of the given q, k, v and scale, if exp
and expm1 of the device are within 4 ulp in float64. With u = 2^-53, s the scores, m the largest computed one, w the
computed weights, ``R_t = ||v_t|| + ||c||`` and K the roundings on a path through a sum of N tokens in chunks::

    delta_t = gamma_{d+1} |scale| ||q|| ||k_t|| + u |s_t - m| + 9 u
    ||O - c|| <= [ sum w_t (e^delta_t - 1 + gamma_K) R_t + sum_Z e^(delta_t - 300) R_t ] / sum w_t e^-delta_t

Z are the tokens with ``s_t - m < -300``, whose weights are set to 0. The smaller of this and ``max ||v|| + ||c||`` is
returned; what is not a number is replaced by infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.numbers import U, gamma, norm_factor, outward, row_norms

CHUNK = 256
FLUSH = 300.0
UNDERFLOW = 2.0**-1000
EXP_ROUNDINGS = 9


class Exact(NamedTuple):
    """Attention of several queries on the same keys and values.

    Attributes
    ----------
    output : float64 [G, d]
    error_ub : float64 [G]
        Upper bound of the distance to the exact output; ``+inf`` where nothing is known.
    lse : float64 [G]
        Natural logarithm of the sum of exp(score); not a bound.
    """

    output: torch.Tensor
    error_ub: torch.Tensor
    lse: torch.Tensor


def norms_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bounds of the norms of rows, float64 [..., d] -> [...]; originals are far from overflow and underflow."""
    return row_norms(x) * norm_factor(x.shape[-1])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Exact:
    """Evaluate ``softmax(scale q k^T) v`` with a proved error bound.

    Parameters
    ----------
    q, k, v : float16, bfloat16 or float32 [G, d], [N, d], [N, d], N >= 1
    scale : float
        This very float64 number.
    """
    queries, keys, values = (x.to(torch.float64) for x in (q, k, v))
    tokens = len(keys)
    scores = (queries @ keys.T) * scale
    top = scores.amax(1, keepdim=True)
    shift = scores - top
    kept = shift >= -FLUSH
    weights = torch.where(kept, torch.exp(shift), 0.0)
    numerator, denominator = _weighted_sums(weights, values)
    output = numerator / denominator[:, None]

    value_norms, output_norms = norms_ub(values), norms_ub(output)
    radii = value_norms + output_norms[:, None]
    dots = gamma(keys.shape[1] + 1) * abs(scale) * norms_ub(queries)[:, None] * norms_ub(keys)
    constant = EXP_ROUNDINGS * U + abs(scale) * (keys.shape[1] * UNDERFLOW)
    delta = outward(8) * (dots + U * shift.abs() + constant)
    roundings = min(tokens, CHUNK) + -(-tokens // CHUNK)
    charged = weights * (torch.expm1(delta) + gamma(roundings))
    # one is taken off the 300 for the rounding of the difference
    charged = torch.where(kept, charged, torch.exp(delta - (FLUSH - 1.0)))
    mass = torch.where(delta < FLUSH, weights * torch.exp(-delta), 0.0).sum(1)
    # tokens - 1 roundings of a sum, at most eight others, and nine of exp or expm1; twice
    bound = outward(2 * tokens + 40) * ((charged * radii).sum(1) / mass) + UNDERFLOW
    trivial = outward(4) * (value_norms.max() + output_norms)
    least = torch.fmin(bound * (1.0 + 4.0 * U), trivial)
    return Exact(output, torch.where(torch.isfinite(trivial), least, torch.inf), top[:, 0] + torch.log(denominator))


def _weighted_sums(weights: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights @ values [G, d] and the sums of weights [G], added in chunks of `CHUNK` tokens."""
    heads, tokens = weights.shape
    whole = tokens - tokens % CHUNK
    numerator = weights[:, whole:] @ values[whole:]
    denominator = weights[:, whole:].sum(1)
    if whole:
        chunked = weights[:, :whole].reshape(heads, -1, CHUNK)
        numerator = numerator + (chunked.transpose(0, 1) @ values[:whole].reshape(-1, CHUNK, values.shape[1])).sum(0)
        denominator = denominator + chunked.sum(2).sum(1)
    return numerator, denominator


def distance_ub(output: torch.Tensor, exact: Exact) -> torch.Tensor:
    """Upper bound of the distance of outputs [G, d] from the real-number attention; NaN counts as infinite.

    Every difference rounds once, the sum with the error once more.
    """
    apart = norms_ub(output.to(torch.float64) - exact.output)
    # asked so that a NaN is not equal
    bound = torch.where(apart == 0.0, exact.error_ub, (apart * (1.0 + 2.0 * U) + exact.error_ub) * (1.0 + 4.0 * U))
    return torch.where(torch.isnan(bound), torch.inf, bound)
