"""Operator norms of small matrices, which have a formula."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, Exhaustive, require_all
from certkv.reference.annotations.operator_norm import operator_norm_ub

SIZES = (0, -1074, -700, 1000)
"""Binary exponents of the unit: with squares that underflow or overflow, or not."""

Norm = Callable[[Any], Array]


def two_by_two(norm: Norm = operator_norm_ub) -> None:
    """Check all 2 x 2 matrices of whole numbers up to 4: ``2 ||X||^2 = T + sqrt(T^2 - 4 D^2)``, T the sum of squares.

    In rational arithmetic: ``b >= ||X||`` iff ``r = 2 b^2 - T >= 0`` and ``r^2 >= T^2 - 4 D^2``.
    """
    digits = np.arange(-4, 5)
    a, b, c, d = (axis.ravel() for axis in np.meshgrid(digits, digits, digits, digits, indexing="ij"))
    squares, determinant = a * a + b * b + c * c + d * d, a * d - b * c
    rest = squares**2 - 4 * determinant**2
    x = np.stack([a, b, c, d], axis=-1).reshape(-1, 2, 2).astype(np.float64)
    for size in SIZES:
        found = norm(np.ldexp(x, size))
        unit = Fraction(2) ** size
        bounds = [Fraction(float(one)) / unit for one in found]
        over = [2 * one * one - int(t) for one, t in zip(bounds, squares, strict=True)]
        holds = np.array([r >= 0 and r * r >= int(s) for r, s in zip(over, rest, strict=True)])
        require_all(holds, f"norm of a 2 x 2 matrix of units 2^{size}", a=a, b=b, c=c, d=d, got=found)


def _power(x: Any) -> Array:
    """Ten steps of power iteration from the first axis: a lower bound."""
    y = np.zeros((*x.shape[:-2], x.shape[-1]))
    y[..., 0] = 1.0
    for _ in range(10):
        image = np.einsum("...bd,...d->...b", x, y)
        y = np.einsum("...bd,...b->...d", x, image)
        size = np.linalg.norm(y, axis=-1, keepdims=True)
        y = y / np.where(size > 0, size, 1.0)
    return np.asarray(np.linalg.norm(np.einsum("...bd,...d->...b", x, y), axis=-1))


FACTS = (
    Exhaustive(
        "operator_norm.two_by_two",
        "operator_norm",
        "all 2 x 2 matrices with entries -4..4, in units of 1, 2^-1074, 2^-700, 2^1000: at least the exact norm",
        two_by_two,
        partial(two_by_two, norm=_power),
    ),
)
