"""Widening, and rounding to nearest, up and down, against a definition in integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, Exhaustive, require_all, require_equal
from certkv.proofs.exhaustive.sixteen import TYPES, Float64, ascending, finite, is_finite, patterns
from certkv.reference.numbers import FLOAT32, FloatType, next_up, round_down, round_nearest, round_up

Rounding = Callable[[Any, FloatType], Array]


def widening(convert: Callable[[Array, Any], Array] = lambda x, to: x.astype(to)) -> None:
    """Check every pattern: float32 and float64 hold its number, and give back its pattern."""
    for ft in TYPES:
        numbers, exact = finite(ft)
        for to in (np.float32, np.float64):
            wide = convert(numbers, to)
            require_equal(wide.astype(np.float64), exact, f"{ft.name} widened to {np.dtype(to).name}", exact=exact)
            back = round_nearest(wide.astype(np.float64), ft).view(np.uint16)
            require_equal(back, numbers.view(np.uint16), f"{ft.name} there and back", exact=exact)
        rest = patterns()[~is_finite(patterns(), ft)].view(ft.dtype)
        with np.errstate(invalid="ignore"):  # signalling NaNs are among them
            wide = convert(rest, np.float32)
        require_all(~np.isfinite(wide), f"{ft.name}: no NaN or infinity becomes a number", wide=wide)


def _narrow(x: Array, to: Any) -> Array:
    """Widen by way of float16, as a kernel with the wrong operand type would."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x.astype(np.float16).astype(to))


def by_integers(x: Float64, ft: FloatType, direction: str) -> Float64:
    """Round float64 by the definition, in integers: a multiple of the spacing at x, below, above or nearest.

    ``|x| = M 2**e`` with an integer ``M < 2**53``; numbers of the type near x are multiples of ``2**q``, q the larger
    of the exponent of the smallest number and ``floor(log2 |x|) - p + 1``.
    """
    smallest = round(np.log2(ft.smallest_subnormal))
    fraction, exponent = np.frexp(np.abs(x))
    M = np.ldexp(fraction, 53).astype(np.int64)
    e = exponent.astype(np.int64) - 53
    q = np.maximum(e + 53 - ft.precision, smallest)
    shift = np.minimum(q - e, 60)  # M < 2**53: from 55 on nothing is left, and less than half a unit is lost
    kept, lost = M >> shift, M & ((np.int64(1) << shift) - 1)
    half = np.int64(1) << np.maximum(shift - 1, 0)
    if direction == "nearest":
        bump = (lost > half) | ((lost == half) & (kept & 1 == 1))
    else:
        bump = (lost > 0) & ((x > 0) == (direction == "up"))
    size = np.ldexp((kept + bump).astype(np.float64), q)
    beyond = np.inf if direction == "nearest" else np.where((x > 0) == (direction == "up"), np.inf, ft.max)
    return np.asarray(np.copysign(np.where(size > ft.max, beyond, size), x))


def around(ft: FloatType) -> Float64:
    """Return every finite number, every midpoint, and the float64 neighbours of both, also beyond the largest."""
    numbers = ascending(ft)
    after = float(np.ldexp(1.0, int(np.frexp(ft.max)[1])))
    numbers = np.concatenate([[-after], numbers, [after]])
    middle = numbers[:-1] + (numbers[1:] - numbers[:-1]) / 2
    centre = np.concatenate([numbers, middle, [-0.0]])
    everything = [centre, np.nextafter(centre, np.inf), np.nextafter(centre, -np.inf)]
    return np.concatenate(everything)


def rounding(direction: str, convert: Rounding) -> None:
    """Check one conversion at every number, midpoint and neighbour."""
    for ft in TYPES:
        x = around(ft)
        got = convert(x, ft)
        require_equal(got.astype(np.float64), by_integers(x, ft, direction), f"{direction} to {ft.name}", x=x)


def float32_rounding(direction: str, convert: Rounding) -> None:
    """Check one conversion to float32 around all 16-bit numbers: the code path is the same, the type is not 16-bit."""
    for ft in TYPES:
        near = ascending(ft).astype(np.float32)
        low = np.concatenate([near, np.nextafter(near, np.float32(np.inf))]).astype(np.float64)
        high = np.nextafter(low.astype(np.float32), np.float32(np.inf)).astype(np.float64)
        middle = low + (high - low) / 2
        x = np.concatenate([low, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
        got = convert(x, FLOAT32).astype(np.float64)
        require_equal(got, by_integers(x, FLOAT32, direction), f"{direction} to float32", x=x)


def successors(successor: Rounding = next_up) -> None:
    """Check that next_up of every finite number is the following one, and infinity after the largest."""
    for ft in TYPES:
        numbers = ascending(ft)
        got = successor(numbers.astype(ft.dtype), ft).astype(np.float64)
        require_all(got == np.append(numbers[1:], np.inf), f"next_up in {ft.name}", y=numbers, got=got)


def _through_float32(x: Any, ft: FloatType) -> Array:
    """Round to float32 first: twice, which is wrong just above a tie."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.asarray(x, np.float64).astype(np.float32).astype(ft.dtype))


def _no_subnormals(x: Any, ft: FloatType) -> Array:
    """Flush what rounds up to a subnormal number."""
    y = round_up(x, ft)
    return np.asarray(np.where(np.abs(y.astype(np.float64)) < 2.0**-14, np.zeros_like(y), y))


def _plus_one(y: Any, ft: FloatType) -> Array:
    """Add 1 to every pattern, negative ones too."""
    return np.asarray((np.asarray(y, ft.dtype).view(ft.bits_dtype) + ft.bits_dtype.type(1)).view(ft.dtype))


FACTS = (
    Exhaustive(
        "rounding.widening",
        "rounding",
        "all 65,536 float16 and all bfloat16 patterns: float32 and float64 hold the number, and give back the pattern",
        widening,
        partial(widening, _narrow),
    ),
    *[
        Exhaustive(
            f"rounding.{direction}",
            "rounding",
            f"round_{direction} to float16 and bfloat16 at every number, every midpoint, and their float64 neighbours "
            "is the definition in integers",
            partial(rounding, direction, right),
            partial(rounding, direction, wrong),
        )
        for direction, right, wrong in (
            ("nearest", round_nearest, _through_float32),
            ("up", round_up, _no_subnormals),
            ("down", round_down, round_nearest),
        )
    ],
    *[
        Exhaustive(
            f"rounding.float32_{direction}",
            "rounding",
            f"round_{direction} to float32 at, between and beside the float32 numbers at all 16-bit ones is the "
            "definition in integers",
            partial(float32_rounding, direction, right),
            partial(float32_rounding, direction, round_nearest if direction != "nearest" else round_up),
        )
        for direction, right in (("nearest", round_nearest), ("up", round_up), ("down", round_down))
    ],
    Exhaustive(
        "rounding.next_up",
        "rounding",
        "next_up of every finite float16 and bfloat16 is the following number, infinity after the largest",
        successors,
        partial(successors, _plus_one),
    ),
)
