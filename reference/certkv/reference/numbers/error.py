"""Rounding-error factors of float64, and norms rounded outward.

Model: every operation + - * / and square root returns the exact result times ``1 + delta``, ``|delta| <= u = 2**-53``,
barring overflow and underflow (IEEE 754, round to nearest).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from certkv.reference.errors import InputError
from certkv.reference.numbers.types import FloatArray

U = 2.0**-53
"""Unit roundoff of float64."""

_MAX = float(np.finfo(np.float64).max)
_SMALLEST_NORMAL = float(np.finfo(np.float64).smallest_normal)


def gamma(n: int) -> float:
    """Upper bound of ``n u / (1 - n u)``, hence of ``|prod_{i<=n} (1 + delta_i)**(+-1) - 1|`` (Higham, Lemma 3.1).

    ``n u`` and ``1 - n u`` are exact for n u < 1/2, so the quotient rounds once; the next number is above it.

    Raises
    ------
    InputError
        If ``n < 0`` or ``n u >= 1/2``: then the bound says nothing.
    """
    if n < 0 or n * U >= 0.5:
        raise InputError(f"gamma({n}) is undefined: the number of roundings must be from 0 to below 2**52")
    return 0.0 if n == 0 else math.nextafter(n * U / (1.0 - n * U), math.inf)


def outward(n: int) -> float:
    """Return a factor F with ``fl(F * x) >= e``, and ``fl(x / F) <= e``, for x computed from e in at most n roundings.

    Here e is a sum, product, quotient or square root of nonnegative numbers whose float64 evaluation x met at most n
    roundings on any path from an input to the result: ``e (1-u)**n / (1+u)**n <= x <= e (1+u)**n / (1-u)**n``.
    (A sum of m terms in any order has at most m - 1 roundings on a path.)  Multiplying, or dividing, rounds once more,
    and ``(1+u)**n / (1-u)**n (1+u) / (1-u) <= 1 / (1-u)**(2n+2) <= 1 / (1 - (2n+2) u) <= 1 + gamma(2n+2)``
    because ``1 + u <= 1 / (1-u)``; so F is that, rounded up.

    The evaluation must not underflow or overflow; x = 0 is fine if e = 0.
    """
    return math.nextafter(1.0 + gamma(2 * n + 2), math.inf)


def _scaled_norm(x: npt.ArrayLike, axis: int) -> tuple[FloatArray, FloatArray, float]:
    """Norm of ``x / scale`` with ``scale`` a power of two near ``max |x|``; also the scale and its outward factor.

    The exponent is clipped to [-1000, 1000] so that the power of two and its inverse are normal numbers.  Unless all
    elements are below 2**-1000 (then scaling and squaring lose nothing), the largest scaled element is at least 1/2,
    so the sum of squares is at least 1/4, and what underflows in scaled elements and squares, less than 2**-1000 for
    any n in memory, is less than one more rounding of the sum.  Roundings on a path: n of the sum of n squares, plus
    that one, halved by the root, plus the root, plus the final rescaling: at most ``n // 2 + 3``.
    """
    x64 = np.asarray(x, dtype=np.float64)
    n = x64.shape[axis]
    largest = np.max(np.abs(x64), axis=axis, keepdims=True, initial=0.0)
    exponent = np.clip(np.frexp(largest)[1], -1000, 1000)
    # Underflow is accounted for above; infinities and NaN pass through.
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        scaled = x64 * np.ldexp(1.0, -exponent)
        norm = np.sqrt(np.sum(scaled * scaled, axis=axis))
    return norm, np.squeeze(np.ldexp(1.0, exponent), axis=axis), outward(n // 2 + 3)


def norm_ub(x: npt.ArrayLike, axis: int = -1) -> FloatArray:
    """Upper bound of the L2 norm of float64 vectors along an axis.

    Parameters
    ----------
    x : array_like of float64
        Exact as given (roundings that led to x are the caller's business). Any finite magnitudes; an infinity gives
        ``inf``, a NaN gives NaN, an empty axis gives 0.
    axis : int

    Returns
    -------
    ndarray of float64
        At least the exact norm, and at most ``1 + 2 (n + 10) u`` times it (unless that is subnormal).
    """
    norm, scale, factor = _scaled_norm(x, axis)
    with np.errstate(over="ignore", under="ignore"):
        scaled = factor * norm * scale
    # A product in the subnormal range rounds absolutely, by less than one spacing.
    return np.asarray(np.where((scaled < _SMALLEST_NORMAL) & (norm > 0), np.nextafter(scaled, np.inf), scaled))


def norm_lb(x: npt.ArrayLike, axis: int = -1) -> FloatArray:
    """Lower bound of the L2 norm of float64 vectors along an axis; see `norm_ub`. Never negative, never ``inf``."""
    norm, scale, factor = _scaled_norm(x, axis)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.minimum(norm / factor * scale, _MAX)
    below = np.maximum(np.nextafter(scaled, -np.inf), 0.0)
    return np.asarray(np.where(scaled < _SMALLEST_NORMAL, below, scaled))
