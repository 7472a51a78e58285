"""The rotation: Sylvester's Hadamard matrix H, normalised, on the channels of every token.

``H[i, j] = (-1)^popcount(i & j) / sqrt(n)`` for a size n = 2^m is symmetric, orthonormal and its own inverse. A head
size that is no power of two is cut into blocks by its binary expansion, the largest first (80 = 64 + 16), each with its
own ``1/sqrt(size)``; no block is larger than 256.

It is computed by butterflies: for h = 1, 2, 4, ..., n/2 in this order, every pair (i, i + h), i a multiple of 2h plus
less than h, becomes (a + b, a - b), each rounded once; at the end one multiplication by the rounded ``1/sqrt(n)``. Bit
for bit that of docs/derivations/rotation.md; kernels are in `certkv.fast.kernels.rotation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from certkv.fast.errors import ShapeError
from certkv.fast.numbers import fp32, gamma, outward

LARGEST = 256

EXPONENT = -8
"""FP32 rotations are of originals times ``2**EXPONENT``: sums of 256 of the largest bfloat16 numbers do not overflow
then, and the smallest, a multiple of 2**-133, is still exact."""


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
    """Return ``1/sqrt(size)`` in float64, correctly rounded; rounded once more it is the right FP32 number."""
    bits = size.bit_length() - 1
    return math.ldexp(math.sqrt(0.5) if bits % 2 else 1.0, -(bits // 2))


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Return H x in float64, along the last axis; numbers are 0 or from 2**-900 to 2**1000."""
    return _blocks(x, _as_it_is)


def rotate_fp32(x: torch.Tensor) -> torch.Tensor:
    """Return H x, every operation rounded to FP32, from FP32 numbers in float64; nothing may overflow."""
    return _blocks(x, fp32)


def rotate_originals(x: torch.Tensor) -> torch.Tensor:
    """Return ``2**EXPONENT H x`` of 16-bit originals as an encoder computes it: FP32 numbers in float64."""
    return rotate_fp32(scaled(x))


def scaled(x: torch.Tensor) -> torch.Tensor:
    """Return ``2**EXPONENT x`` of 16-bit originals in float64, exactly."""
    return x.to(torch.float64) * 2.0**EXPONENT


def rotate_error_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``|rotate(x) - H x'|`` per channel, [..., d], where x is x' with each element rounded once.

    Every channel of a block of n sums n terms, which meet L roundings, the factor's, the last product's and the one of
    x: it is off by at most ``gamma_{L+3} / sqrt(n) sum |x'|``, and ``|x'| <= (1 + u) |x|``.
    """
    total = [
        part.abs().sum(-1, keepdim=True).expand(part.shape)
        for part in torch.split_with_sizes(x, sizes(x.shape[-1]), -1)
    ]
    return torch.cat([one * error_factor(one.shape[-1]) for one in total], -1)


def error_factor(size: int) -> float:
    """Return F with ``F fl(sum |x|)`` a bound of the error of a channel of a block, its own roundings included."""
    # the sum has at most ``size - 1`` roundings, then there are the factor's and three of products
    return factor(size) * gamma(size.bit_length() + 2) * outward(size + 3)


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


def _blocks(x: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    parts = []
    for part in torch.split_with_sizes(x, sizes(x.shape[-1]), -1):
        last = torch.full((), factor(part.shape[-1]), dtype=torch.float64, device=x.device)
        parts.append(rounded(_butterflies(part, rounded) * rounded(last)))
    return torch.cat(parts, -1)


def _butterflies(x: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return ``sqrt(n) H x``, n the power of two that is the last axis."""
    size = x.shape[-1]
    h = 1
    while h < size:
        a, b = x.reshape(*x.shape[:-1], size // (2 * h), 2, h).unbind(-2)
        x = torch.stack([rounded(a + b), rounded(a - b)], dim=-2).flatten(-3)
        h *= 2
    return x
