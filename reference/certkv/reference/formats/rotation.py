"""The rotation: Sylvester's Hadamard matrix H, normalised, on the channels of every token.

``H[i, j] = (-1)^popcount(i & j) / sqrt(n)`` for a size n = 2^m is symmetric, orthonormal and its own inverse. A head
size that is no power of two is cut into blocks by its binary expansion, the largest first (80 = 64 + 16), each with its
own ``1/sqrt(size)``; so every head size has a rotation, and a block of one channel stays as it is. No block is larger
than 256.

It is computed by butterflies: for h = 1, 2, 4, ..., n/2 in this order, every pair (i, i + h), i a multiple of 2h plus
less than h, becomes (a + b, a - b), each rounded once; at the end one multiplication by the rounded ``1/sqrt(n)``.
The same operations in the same order give the same bits anywhere. With L = log2 n, a norm is off by at most
``gamma_{L+2} ||x||``: L roundings, the factor's, and the last product's. Source: OScaR (arXiv 2605.19660); the order of
operations is ours. Derivation: docs/derivations/rotation.md.
"""

from __future__ import annotations

import math

import numpy as np

from certkv.reference.errors import ShapeError
from certkv.reference.numbers import gamma, outward
from certkv.reference.numbers.types import AnyArray, Float32Array, FloatArray

LARGEST = 256

EXPONENT = -8
"""FP32 rotations are stored times ``2**EXPONENT``: sums of 256 of the largest bfloat16 numbers do not overflow then,
and the smallest, a multiple of 2**-133, is still exact."""


def sizes(head_dim: int) -> tuple[int, ...]:
    """Return the sizes of the blocks, powers of two up to 256 that sum to the head size, the largest first.

    Raises
    ------
    ShapeError
        Less than one channel.
    """
    if head_dim < 1:
        raise ShapeError(f"head size {head_dim} must be at least 1")
    whole, rest = divmod(head_dim, LARGEST)
    return (LARGEST,) * whole + tuple(1 << bit for bit in reversed(range(8)) if rest >> bit & 1)


def factor(size: int) -> float:
    """Return ``1/sqrt(size)`` in float64, correctly rounded: the power of two is exact."""
    bits = size.bit_length() - 1
    return math.ldexp(math.sqrt(0.5) if bits % 2 else 1.0, -(bits // 2))


def roundings(head_dim: int) -> int:
    """Return r with ``||computed - H x|| <= gamma_r ||x||`` in float64: ``log2 n + 2``, n the largest block."""
    return sizes(head_dim)[0].bit_length() + 1


def rotate(x: FloatArray) -> FloatArray:
    """Return H x in float64, along the last axis; off by at most ``gamma(roundings(d)) ||x||`` in norm.

    Parameters
    ----------
    x : float64 [..., d]
        0 or at least 2**-900 in magnitude, at most 2**1000.
    """
    return np.asarray(_blocks(x))


def rotate_error_ub(x: FloatArray) -> FloatArray:
    """Upper bound of ``|rotate(x) - H x'|`` per channel, [..., d], where x is x' with each element rounded once.

    Every channel of a block of n sums n terms, which meet L roundings, the factor's, the last product's and the one of
    x: it is off by at most ``gamma_{L+3} / sqrt(n) sum |x'|``, and ``|x'| <= (1 + u) |x|``.
    """
    out = np.empty_like(x)
    start = 0
    for size in sizes(x.shape[-1]):
        part = slice(start, start + size)
        start += size
        total = np.abs(x[..., part]).sum(axis=-1, keepdims=True) * factor(size)
        # the sum itself has at most `size` roundings, then three products
        out[..., part] = total * gamma(size.bit_length() + 2) * outward(size + 3)
    return out


def rotate_originals(x: AnyArray) -> Float32Array:
    """Return ``2**EXPONENT H x`` in FP32, as an encoder computes it: the product with ``2**EXPONENT`` first, exact.

    Parameters
    ----------
    x : float16 or bfloat16 [..., d]
        Finite; nothing overflows.

    Returns
    -------
    float32 [..., d]
    """
    return np.asarray(_blocks(scaled(x)), np.float32)


def scaled(x: AnyArray) -> Float32Array:
    """Return ``2**EXPONENT x`` in FP32, exactly."""
    return np.asarray(x.astype(np.float32) * np.float32(2.0**EXPONENT))


def _blocks(x: AnyArray) -> AnyArray:
    """Rotate block by block in the type of x, float32 or float64."""
    out = np.empty_like(x)
    start = 0
    for size in sizes(x.shape[-1]):
        part = slice(start, start + size)
        start += size
        # rounding float64's correctly rounded factor once more to float32 is right for both values it can have
        out[..., part] = _butterflies(x[..., part]) * x.dtype.type(factor(size))
    return out


def _butterflies(x: AnyArray) -> AnyArray:
    """Return ``sqrt(n) H x``, n the power of two that is the last axis."""
    size = x.shape[-1]
    h = 1
    while h < size:
        pairs = x.reshape(*x.shape[:-1], size // (2 * h), 2, h)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        h *= 2
    return x
