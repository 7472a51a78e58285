"""Norms and factors that are rounded outward."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, CheckFailed, Exhaustive, require_all
from certkv.proofs.exhaustive.sixteen import TYPES, finite
from certkv.reference.numbers import U, gamma, norm_lb, norm_ub, outward

Norm = Callable[[Any], Array]


def one_number(upper: Norm = norm_ub, lower: Norm = norm_lb) -> None:
    """Check the norm of every 16-bit number by itself, which is its magnitude."""
    for ft in TYPES:
        _, x = finite(ft)
        size = np.abs(x)
        require_all(upper(x[:, None]) >= size, f"{ft.name}: upper bound", x=x, got=upper(x[:, None]))
        require_all(lower(x[:, None]) <= size, f"{ft.name}: lower bound", x=x, got=lower(x[:, None]))


def two_significands(upper: Norm = norm_ub, lower: Norm = norm_lb) -> None:
    """Check pairs of 11-bit significands: the sum of squares is an integer below 2**23, and IEEE roots are nearest.

    So the exact norm lies strictly between the two neighbours of the computed root, unless that is exact.
    """
    every = np.arange(2048)
    for part in np.array_split(every, 32):
        pair = np.stack(np.broadcast_arrays(part[:, None], every), axis=-1).astype(np.float64)
        squares = np.sum(pair * pair, axis=-1)
        root = np.sqrt(squares)
        whole = (root == np.rint(root)) & (root * root == squares)  # squares of integers this small are exact
        above = np.where(whole, root, np.nextafter(root, np.inf))
        below = np.where(whole, root, np.nextafter(root, 0.0))
        cases: dict[str, Any] = {"a": part[:, None], "b": every}
        require_all(upper(pair) >= above, "upper bound of a pair", **cases)
        require_all(lower(pair) <= below, "lower bound of a pair", **cases)


def factors(most: int = 256, factor: Callable[[int], float] = outward) -> None:
    """Check ``gamma(n) >= nu/(1-nu)`` and ``F (1-u) ((1-u)/(1+u))**n >= 1`` in rational arithmetic, n <= `most`."""
    u = Fraction(U)
    shrunk = Fraction(1)
    for n in range(most + 1):
        if Fraction(gamma(n)) * (1 - n * u) < n * u:
            raise CheckFailed(f"gamma({n}) = {gamma(n)!r} is below n u / (1 - n u)")
        if Fraction(factor(n)) * (1 - u) * shrunk < 1:
            raise CheckFailed(f"outward({n}) = {factor(n)!r} does not cover {n} roundings and its own")
        shrunk *= (1 - u) / (1 + u)


def _plain(x: Any) -> Array:
    return np.asarray(np.sqrt(np.sum(x * x, axis=-1)))


def _single(x: Any) -> Array:
    """Square in float32: small numbers vanish."""
    with np.errstate(over="ignore", under="ignore"):
        return _plain(x.astype(np.float32))


FACTS = (
    Exhaustive(
        "rounding.norm_of_one",
        "rounding",
        "every finite float16 and bfloat16 x: norm_lb(x) <= |x| <= norm_ub(x)",
        one_number,
        partial(one_number, upper=_single),
    ),
    Exhaustive(
        "rounding.norm_of_two",
        "rounding",
        "all 2048 x 2048 pairs of 11-bit significands: norm_lb and norm_ub enclose the root of the integer a^2 + b^2",
        two_significands,
        partial(two_significands, upper=_plain),
    ),
    Exhaustive(
        "rounding.factors",
        "rounding",
        "n = 0..256, in rational arithmetic: gamma(n) >= nu/(1-nu), and outward(n) covers n roundings and its own",
        factors,
        partial(factors, factor=lambda n: 1.0 + gamma(n)),
    ),
)
