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

from certkv.reference.errors import ShapeError
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import FLOAT32, norm_lb, norm_ub, outward, round_down, round_up
from certkv.reference.numbers.types import AnyArray, Float32Array, FloatArray


def check_fit(original: AnyArray, encoded: Encoded) -> None:
    """Raise ShapeError unless `encoded` has the shape of the blocks `original`, [..., B, d]."""
    shape = (*encoded.leading, encoded.block, encoded.head_dim)
    if original.shape != shape:
        raise ShapeError(f"originals have shape {original.shape}, but the encoded blocks stand for {shape}")


def residual_magnitude(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
    """Return a, [..., B, d], with ``|k - k_hat| <= a (1 + u)/(1 - u)`` per element."""
    difference = original.astype(np.float64) - fmt.decode(encoded)
    return np.asarray(np.abs(difference) + fmt.decode_error_ub(encoded))


def inexact_norm_ub(magnitude: FloatArray) -> FloatArray:
    """Upper bound of the L2 norm over channels of elements at most ``magnitude (1 + u)/(1 - u)``; [..., B]."""
    return np.asarray(norm_ub(magnitude, axis=-1) * outward(1))


def original_norms_ub(original: AnyArray) -> FloatArray:
    """Upper bound of every token's norm, [..., B]; the originals are exact in float64."""
    return norm_ub(original.astype(np.float64), axis=-1)


def original_norms_lb(original: AnyArray) -> FloatArray:
    """Lower bound of every token's norm, [..., B]."""
    return norm_lb(original.astype(np.float64), axis=-1)


def residual_norms_ub(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
    """Upper bound of every token's ``||k_t - k_hat_t||``, absolute, in the units of the originals; [..., B]."""
    return inexact_norm_ub(residual_magnitude(original, encoded, fmt))


def decoded_norms_ub(encoded: Encoded, fmt: Format) -> FloatArray:
    """Upper bound of every token's ``||k_hat_t||``; [..., B].

    Decoding rounds at most once, so ``|k_hat| <= (1 + u) |D|``, which `inexact_norm_ub` covers.
    """
    return inexact_norm_ub(fmt.decode(encoded))


def token_max(per_token: FloatArray) -> FloatArray:
    """Return the maximum over the tokens of a block, [..., B] -> [...]; NaN stays NaN."""
    return np.asarray(np.max(per_token, axis=-1))


def store_ub(x: FloatArray) -> Float32Array:
    """Round up to the stored FP32 number; above the FP32 range that is ``+inf``."""
    return round_up(x, FLOAT32)


def store_lb(x: FloatArray) -> Float32Array:
    """Round down to the stored FP32 number, which is finite for finite x >= 0."""
    return round_down(x, FLOAT32)
