"""The norm of a token, one FP32 number that takes the token's size out of the range it shares with its neighbours.

Squares of FP32 numbers are exact in float64. They are summed in a written order: channels, filled with zeros to a power
of two w, in halves (``s[i] + s[i + w/2]`` for i < w/2, then again), then, in the joint scope, KV head after KV head
from the first. One root in float64, one rounding to FP32: the same bits as the reference's, on any device.
"""

from __future__ import annotations

from typing import Literal

import torch

from certkv.fast.formats.rotation import EXPONENT
from certkv.fast.numbers import fp32

Scope = Literal["joint", "head"]

LARGEST = float(torch.finfo(torch.float32).max) * 2.0**EXPONENT
"""Largest norm of tokens that are given times ``2**EXPONENT``: stored without that factor it is finite."""


def sum_of_squares(y: torch.Tensor) -> torch.Tensor:
    """Sum the squares of FP32 numbers over the last axis in the written order; float64 [..., d] -> [...]."""
    head_dim = y.shape[-1]
    width = 1 << (head_dim - 1).bit_length()
    squares = torch.nn.functional.pad(y * y, (0, width - head_dim))
    while width > 1:
        width //= 2
        squares = squares[..., :width] + squares[..., width:]
    return squares[..., 0]


def token_norm(y: torch.Tensor, scope: Scope) -> torch.Tensor:
    """Norms of tokens that are given times ``2**EXPONENT``, with the same factor on them.

    Parameters
    ----------
    y : float64 [..., H, B, d]
        FP32 numbers.
    scope : {"joint", "head"}
        One norm for all KV heads of a token, or one for each.

    Returns
    -------
    float64 [..., 1 or H, B]
        FP32 numbers; 0 for a token of zeros and for no other.
    """
    squares = sum_of_squares(y)
    if scope == "joint":
        total = squares[..., :1, :]
        for head in range(1, squares.shape[-2]):
            total = total + squares[..., head : head + 1, :]
        squares = total
    return fp32(torch.sqrt(squares)).clamp(max=LARGEST)


def unscaled(norm: torch.Tensor) -> torch.Tensor:
    """Return norms without the factor, float32 as they are stored; exact."""
    return (norm * 2.0**-EXPONENT).to(torch.float32)


def divide(y: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Return ``y / norm`` rounded to FP32, 0 where the norm is; float64 [..., H, B, d] by [..., 1 or H, B]."""
    n = norm[..., None]
    return torch.where(n > 0, fp32(y / torch.where(n > 0, n, 1.0)), 0.0)
