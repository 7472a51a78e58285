"""Correctly rounded conversions on tensors, and factors that cover rounding errors of float64.

Model of float64: every operation + - * / and square root returns the exact result times ``1 + delta``,
``|delta| <= u``, barring overflow and underflow.

FP32 operations are computed in float64 and rounded (`fp32`). 53 bits are at least 2 * 24 + 2, so for one + - * / of
FP32 numbers the two roundings together are one (Figueroa, "When is double rounding innocuous?", 1995). That holds in
the subnormal range too: a sum is exact there, and a quotient that is not on a midpoint m of two FP32 numbers is away
from it by more than 2**-49 m. So no code depends on how a device divides FP32 numbers, or whether it flushes there.
"""

from __future__ import annotations

import math

import torch

from certkv.fast.errors import DTypeError, InputError

U = 2.0**-53
"""Unit roundoff of float64."""

_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def gamma(n: int) -> float:
    """Upper bound of ``n u / (1 - n u)``.

    Raises
    ------
    InputError
        If ``n < 0`` or ``n u >= 1/2``: then the bound says nothing.
    """
    if n < 0 or n * U >= 0.5:
        raise InputError(f"gamma({n}) is undefined: the number of roundings must be from 0 to below 2**52")
    return 0.0 if n == 0 else math.nextafter(n * U / (1.0 - n * U), math.inf)


def outward(n: int) -> float:
    """Return F with ``fl(F x) >= e`` and ``fl(x / F) <= e`` for x computed from e >= 0 in at most n roundings.

    The n roundings are those on any path from an input to the result of sums, products, quotients and square roots of
    nonnegative numbers: ``e (1-u)**n / (1+u)**n <= x <= e (1+u)**n / (1-u)**n``.
    """
    return math.nextafter(1.0 + gamma(2 * n + 2), math.inf)


def norm_factor(n: int, extra: int = 0) -> float:
    """Return `outward` for the root of a sum of n squares, in any order, of numbers with `extra` roundings each.

    The n roundings of square and sum are halved by the root, which adds its own.
    """
    return outward(n // 2 + 3 + extra)


def fp32(x: torch.Tensor) -> torch.Tensor:
    """Round float64 to the nearest FP32 number, ties to even; the result is float64."""
    return x.to(torch.float32).to(torch.float64)


def smallest(dtype: torch.dtype) -> float:
    """Smallest positive number of a type."""
    info = torch.finfo(dtype)
    return float(info.smallest_normal * info.eps)


def next_up(x: torch.Tensor) -> torch.Tensor:
    """Return the smallest number of the type of x that is greater than x, which is not NaN nor ``+inf``."""
    bits = x.view(_BITS[x.dtype])
    up = torch.where(x == 0, 1, torch.where(bits >= 0, bits + 1, bits - 1))
    return up.to(bits.dtype).view(x.dtype)


def _at_least(nearest: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `nearest`, or the number above it where that is below x; both are compared exactly in float64."""
    return torch.where(nearest.to(torch.float64) < x.to(torch.float64), next_up(nearest), nearest)


def round_up(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to the smallest number of a type that is not below it; NaN stays.

    It goes by way of FP32, since no device converts float64 to 16 bits in one rounding; rounding up twice is rounding
    up once.

    Raises
    ------
    DTypeError
        The type is none of float16, bfloat16, float32.
    """
    if dtype not in _BITS:
        raise DTypeError(f"cannot round to {dtype}; use float16, bfloat16 or float32")
    single = _at_least(x.to(torch.float32), x)
    return single if dtype == torch.float32 else _at_least(single.to(dtype), single)


def round_down(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to the largest number of a type that is not above it; see `round_up`."""
    return -round_up(-x, dtype)


def row_norms(x: torch.Tensor) -> torch.Tensor:
    """Root of the sum of squares over the last axis, float64, rounded as `norm_factor` covers.

    No scaling: x holds numbers that are 0 or from 2**-400 to 2**400, so that squares neither overflow nor underflow.
    Originals, decoded numbers and their differences are multiples of 2**-149 below 2**137, and quotients of residuals
    and steps are from 2**-277 to 2**282 in magnitude.
    """
    return torch.sqrt((x * x).sum(-1))
