"""The norm of a token, one FP32 number that takes the token's size out of the range it shares with its neighbours.

Squares of FP32 numbers are exact in float64 and neither overflow nor vanish there. Their sum is taken in a written
order: channels, filled with zeros to a power of two w, in halves (``s[i] + s[i + w/2]`` for i < w/2, then again), then,
in the joint scope, KV head after KV head from the first. One root in float64, one rounding to FP32. Source: OScaR
(arXiv 2605.19660), which sums in FP32.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from certkv.reference.formats.rotation import EXPONENT
from certkv.reference.numbers.types import Float32Array, FloatArray

Scope = Literal["joint", "head"]

LARGEST = np.float32(np.finfo(np.float32).max)


def sum_of_squares(y: Float32Array) -> FloatArray:
    """Sum the squares over the last axis in the written order; float32 [..., d] -> float64 [...]."""
    squares = np.square(y.astype(np.float64))
    width = 1 << (y.shape[-1] - 1).bit_length()
    missing = np.zeros((*y.shape[:-1], width - y.shape[-1]))
    squares = np.concatenate([squares, missing], axis=-1)
    while width > 1:
        width //= 2
        squares = squares[..., :width] + squares[..., width:]
    return np.asarray(squares[..., 0])


def token_norm(y: Float32Array, scope: Scope) -> Float32Array:
    """Norms of tokens that are given times ``2**EXPONENT``, with the same factor on them.

    Parameters
    ----------
    y : float32 [..., B, d]
        In the joint scope the axis before the tokens is that of the KV heads, if there is one.
    scope : {"joint", "head"}
        One norm for all KV heads of a token, or one for each.

    Returns
    -------
    float32 [..., B]
        0 for a token of zeros and for no other. At most ``2**EXPONENT`` times the largest FP32 number, so that the
        norm itself is finite; what was larger is then divided by less than its norm, which nothing relies on.
    """
    squares = sum_of_squares(y)
    if scope == "joint" and squares.ndim > 1:
        total = squares[..., 0, :]
        for head in range(1, squares.shape[-2]):
            total = total + squares[..., head, :]
        squares = np.broadcast_to(total[..., None, :], squares.shape)
    with np.errstate(over="ignore"):
        norm = np.sqrt(squares).astype(np.float32)
    return np.asarray(np.minimum(norm, LARGEST * np.float32(2.0**EXPONENT)))


def unscaled(norm: Float32Array) -> Float32Array:
    """Return norms without the factor, as they are stored; exact."""
    return np.asarray(norm * np.float32(2.0**-EXPONENT))


def divide(y: Float32Array, norm: Float32Array) -> Float32Array:
    """Return ``y / norm`` in FP32, 0 where the norm is; [..., B, d] by [..., B]."""
    n = norm[..., None]
    return np.asarray(np.where(n > 0, y / np.where(n > 0, n, np.float32(1.0)), np.float32(0.0)))
