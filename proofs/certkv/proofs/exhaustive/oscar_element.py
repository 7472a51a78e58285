"""The rule with an integer zero point on every group of two numbers that a 16-bit number makes with some others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, Exhaustive, require_all
from certkv.proofs.exhaustive.sixteen import TYPES, ascending, finite
from certkv.reference.bounds.oscar_element import SLACK, element_ub
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import FloatType, next_up

Quantize = Callable[[Any, int, int, FloatType], tuple[Array, Array, Array]]


def _require_bound(x: Any, levels: int, ft: FloatType, encode: Quantize, what: str) -> None:
    """Check the element bound for groups along the first axis, [tokens, groups], and constants in particular."""
    codes, step, shift = encode(x, 0, levels, ft)
    exact = x.astype(np.float64)
    s, z = step.astype(np.float64), shift.astype(np.float64)
    error = np.abs((exact - z) - s * codes)
    # float16 loses nothing in float64; of bfloat16 the first difference rounds, by 2^-53 of what e holds 2^-8 of
    bound = element_ub(s, z, levels, ft) * (1 - 2.0**-40)
    cases = {"first": exact[0], "second": exact[1], "step": s, "shift": z}
    spread = exact.max(axis=0) != exact.min(axis=0)
    require_all((s > 0) == spread, f"{ft.name}: step 0 only where constant, {what}", **cases)
    require_all(np.where(spread, True, error.max(axis=0) == 0), f"{ft.name}: a constant is exact, {what}", **cases)
    require_all(error.max(axis=0) <= bound, f"{ft.name}: element within its bound, L = {levels}, {what}", **cases)
    require_all(codes.max(axis=0) <= levels, f"{ft.name}: code in range, {what}", **cases)


def two_tokens(encode: Quantize = quantize_zero_point) -> None:
    """Check every finite x beside 0, beside -x, beside the largest number, and with both 0 and -x (ties)."""
    for ft in TYPES:
        x, _ = finite(ft)
        others = {"0": np.zeros_like(x), "-x": -x, "max": np.full_like(x, ft.max)}
        for levels in SLACK:
            for name, other in others.items():
                _require_bound(np.stack([x, other]), levels, ft, encode, f"beside {name}")
            _require_bound(np.stack([x, -x, np.zeros_like(x)]), levels, ft, encode, "around 0")


def neighbours(encode: Quantize = quantize_zero_point, share: float = 1.0) -> None:
    """Check every finite x beside the next number: no group is farther from zero in units of its range."""
    for ft in TYPES:
        exact = ascending(ft)[:-1]
        x = exact.astype(ft.dtype)
        above = next_up(x, ft)
        gap = above.astype(np.float64) - exact
        ratio = np.abs(exact) / gap
        require_all(ratio <= share * 2.0**ft.precision, f"{ft.name}: a gap is 2^-p of its number", x=exact, gap=gap)
        for levels in SLACK:
            _require_bound(np.stack([x, above]), levels, ft, encode, "beside its neighbour")


def _half_step(x: Any, axis: int, levels: int, ft: FloatType) -> tuple[Array, Array, Array]:
    """Store a zero step as 2/3, as OScaR's code does."""
    codes, step, shift = quantize_zero_point(x, axis, levels, ft)
    return codes, np.where(step == 0, np.asarray(2 / 3, step.dtype), step).astype(step.dtype), shift


def _clamped_zero(x: Any, axis: int, levels: int, ft: FloatType) -> tuple[Array, Array, Array]:
    """Clamp the zero point to the codes: groups far from zero are lost."""
    codes, step, shift = quantize_zero_point(x, axis, levels, ft)
    s = step.astype(np.float64)
    low = np.clip(shift.astype(np.float64), -levels * s, 0.0)
    divisor = np.where(s > 0, s, 1.0)
    again = np.clip(
        np.rint((x.astype(np.float64) - np.expand_dims(low, axis)) / np.expand_dims(divisor, axis)), 0, levels
    )
    return again.astype(codes.dtype), step, low.astype(shift.dtype)


FACTS = (
    Exhaustive(
        "oscar_element.two_tokens",
        "oscar_element",
        "the zero-point encoder on every 16-bit x beside 0, -x, the largest number, and both 0 and -x, 2 and 4 bits: "
        "element bound, constants exact with step 0",
        two_tokens,
        partial(two_tokens, _half_step),
    ),
    Exhaustive(
        "oscar_element.neighbours",
        "oscar_element",
        "every 16-bit x and the next number: |x| <= 2^p gap, so |min|/step <= 2^p L; and the element bound there",
        neighbours,
        partial(neighbours, _clamped_zero),
    ),
)
