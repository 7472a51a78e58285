"""Halves, steps times codes, and products of significands are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Exhaustive, require_all, require_equal
from certkv.proofs.exhaustive.sixteen import TYPES, finite, integers
from certkv.reference.formats.affine import HALF
from certkv.reference.numbers import FLOAT16, FloatType

CODES = np.arange(256)


def halving(half: np.float32 = HALF) -> None:
    """Check ``x/2`` in float32 for every number: an original, an end of the range, a step."""
    for ft in TYPES:
        numbers, exact = finite(ft)
        halved = half * numbers.astype(np.float32)
        require_equal(halved.astype(np.float64), exact / 2, f"half of a {ft.name} in float32", x=exact)
        require_equal((halved + halved).astype(np.float64), exact, f"twice the half of a {ft.name}", x=exact)


def _steps(ft: FloatType) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the nonnegative numbers in parts: as float32, and as integers m, e."""
    numbers, _ = finite(ft)
    numbers = numbers[~np.signbit(numbers)]
    for part in np.array_split(numbers, 16):
        m, e = integers(part.view(np.uint16), ft)
        yield part.astype(np.float32)[:, None], m[:, None], e[:, None]


def codes_times_steps(dtype: Any, multiply: Callable[[Any, Any], Any] = np.multiply) -> None:
    """Check every step times every code: the integer product, scaled; float32 may only overflow, to infinity."""
    for ft in TYPES:
        for step, m, e in _steps(ft):
            exact = np.ldexp((m * CODES).astype(np.float64), e)  # |m code| < 2**19
            with np.errstate(over="ignore"):
                product = multiply(step.astype(dtype), CODES.astype(dtype))
            wanted = exact
            if dtype is np.float32 and ft is not FLOAT16:
                wanted = np.where(exact > float(np.finfo(np.float32).max), np.inf, exact)
            require_all(
                product.astype(np.float64) == wanted,
                f"{ft.name} step times code in {np.dtype(dtype).name}",
                step=step,
                code=CODES,
                exact=exact,
            )


def _narrow(dtype: Any) -> Callable[[Any, Any], Any]:
    """Multiply in a type with fewer bits."""
    return lambda step, code: (step.astype(dtype) * code.astype(dtype)).astype(step.dtype)


def significands(first: int = 0, count: int = 2048) -> None:
    """Check all products of two significands; exponents shift both sides alike, far from the ends of float32."""
    every = np.arange(first, first + count)
    product = every.astype(np.float32)[:, None] * every.astype(np.float32)
    require_all(
        product.astype(np.int64) == every[:, None] * every, "product of significands", a=every[:, None], b=every
    )


FACTS = (
    Exhaustive(
        "rounding.halving",
        "rounding",
        "x/2 is exact in float32 for every finite float16 and bfloat16",
        halving,
        partial(halving, np.float32(1 / 3)),
    ),
    Exhaustive(
        "affine.product_float32",
        "affine",
        "every float16 and bfloat16 step times every code 0..255 is exact in float32 (beyond its range: infinite)",
        partial(codes_times_steps, np.float32),
        partial(codes_times_steps, np.float32, _narrow(np.float16)),
    ),
    Exhaustive(
        "affine.product_float64",
        "affine",
        "every float16 and bfloat16 step times every code 0..255 is exact in float64",
        partial(codes_times_steps, np.float64),
        partial(codes_times_steps, np.float64, _narrow(np.float32)),
    ),
    Exhaustive(
        "rounding.significands",
        "rounding",
        "all 2048 x 2048 products of 11-bit significands are exact in float32",
        significands,
        partial(significands, 8160, 32),
    ),
)
