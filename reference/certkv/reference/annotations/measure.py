"""Norms and residuals of blocks against the exact meaning of what is stored, as float64 upper bounds.

u = 2**-53.  The decoded float64 number D differs from the meaning k_hat by at most ``err`` (`Format.decode_error_ub`),
and the float64 difference ``r = fl(k - D)`` from ``k - D`` by at most ``u |r|`` (an IEEE sum; subtraction does not
underflow).  Hence, for every element,

    |k - k_hat| <= |k - D| + |D - k_hat| <= (1 + u) |r| + err <= (1 + u) (|r| + err),

and ``|r| + err`` computed in float64 is low by at most a factor ``1 - u``: the number returned by `residual_magnitude`
times ``(1 + u)/(1 - u)`` is an upper bound, which is what ``outward(1)`` covers.  The residual is exactly 0 where
decoding is exact and returns the original.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.annotations.operator_norm import operator_norm_ub
from certkv.reference.errors import ShapeError
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import BFLOAT16, U, norm_lb, norm_ub, outward, round_down, round_up
from certkv.reference.numbers.types import AnyArray, FloatArray


def check_fit(original: AnyArray, encoded: Encoded) -> None:
    """Raise ShapeError unless `encoded` has the shape of the blocks `original`, [..., B, d]."""
    shape = (*encoded.leading, encoded.block, encoded.head_dim)
    if original.shape != shape:
        raise ShapeError(f"originals have shape {original.shape}, but the encoded blocks stand for {shape}")


def residual(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
    """Return ``fl(k - D)``, [..., B, d]: the residual against the decoded float64 number."""
    return np.asarray(original.astype(np.float64) - fmt.decode(encoded))


def residual_magnitude(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
    """Return a, [..., B, d], with ``|k - k_hat| <= a (1 + u)/(1 - u)`` per element."""
    return np.asarray(np.abs(residual(original, encoded, fmt)) + fmt.decode_error_ub(encoded))


def relative_rows(difference: FloatArray, magnitude: FloatArray, unit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Divide residuals by stored units; return the quotients, and what they can be off by, both [..., B, d].

    Parameters
    ----------
    difference : float64 [..., B, d]
        Computed residuals r.
    magnitude : float64 [..., B, d]
        At least ``|r|``, with ``|true residual - r| <= (magnitude - |r|) + 3u magnitude``.
    unit : float64, broadcasts to [..., B, d]
        As stored, exactly; where it is 0 and the magnitude too, the quotient is 0, otherwise infinite. An infinite
        unit gives 0.
    """
    positive = unit > 0
    divisor = np.where(positive, unit, 1.0)
    quotient = np.where(positive, difference / divisor, np.where(magnitude == 0.0, 0.0, np.inf))
    # the excess of the magnitude over |r|; u of r for its own rounding and of the quotient for the division, doubled
    # because these terms are rounded as well
    slack = ((magnitude - np.abs(difference)) + 4.0 * U * magnitude) / divisor * (1.0 + 8.0 * U)
    return quotient, np.where(positive, slack, 0.0)


def rows_norm_ub(difference: FloatArray, magnitude: FloatArray, unit: FloatArray) -> FloatArray:
    """Upper bound of the operator norm of true residuals divided by units, [..., B, d] -> [...].

    The computed quotients are off by a matrix whose operator norm is at most its Frobenius norm.
    """
    quotient, slack = relative_rows(difference, magnitude, unit)
    off = norm_ub(slack.reshape(*slack.shape[:-2], slack.shape[-2] * slack.shape[-1]))
    return np.asarray((operator_norm_ub(quotient) + off) * outward(1))


def inexact_norm_ub(magnitude: FloatArray) -> FloatArray:
    """Upper bound of the L2 norm over channels of elements at most ``magnitude (1 + u)/(1 - u)``; [..., B]."""
    return np.asarray(norm_ub(magnitude, axis=-1) * outward(1))


def original_norms_ub(original: AnyArray) -> FloatArray:
    """Upper bound of every token's norm, [..., B]; the originals are exact in float64."""
    return norm_ub(original.astype(np.float64), axis=-1)


def original_norms_lb(original: AnyArray) -> FloatArray:
    """Lower bound of every token's norm, [..., B]."""
    return norm_lb(original.astype(np.float64), axis=-1)


def decoded_norms_ub(encoded: Encoded, fmt: Format) -> FloatArray:
    """Upper bound of every token's ``||k_hat_t||``; [..., B].

    ``|k_hat| <= |D| + err`` per element; that sum rounds once, which `inexact_norm_ub` covers.
    """
    return inexact_norm_ub(np.abs(fmt.decode(encoded)) + fmt.decode_error_ub(encoded))


def token_max(per_token: FloatArray) -> FloatArray:
    """Return the maximum over the tokens of a block, [..., B] -> [...]; NaN stays NaN."""
    return np.asarray(np.max(per_token, axis=-1))


def store_ub(x: FloatArray) -> AnyArray:
    """Round up to the stored bfloat16 number, at most 2**-7 above; beyond the largest one that is ``+inf``."""
    return round_up(x, BFLOAT16)


def store_lb(x: FloatArray) -> AnyArray:
    """Round down to the stored bfloat16 number, which is finite for finite x >= 0."""
    return round_down(x, BFLOAT16)
