"""Every number of the 16-bit types, every midpoint, and the float64 neighbours of both."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certkv.reference.numbers import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FloatType,
    next_up,
    round_down,
    round_nearest,
    round_up,
)

HALVES = [FLOAT16, BFLOAT16]
TYPES = [FLOAT16, BFLOAT16, FLOAT32]
named = pytest.mark.parametrize("ft", HALVES, ids=lambda ft: ft.name)


def finite_numbers(ft: FloatType) -> npt.NDArray[np.float64]:
    """All finite numbers of a 16-bit type in increasing order, zero once; built from the definition of the type."""
    fraction = 2 ** (ft.precision - 1)
    positive = [0.0]
    while positive[-1] < ft.max:
        index = len(positive)
        exponent = max(index // fraction, 1) - 1
        significand = index % fraction + (fraction if index >= fraction else 0)
        positive.append(math.ldexp(significand * ft.smallest_subnormal, exponent))
    tail = np.array(positive[1:])
    return np.concatenate([-tail[::-1], [0.0], tail])


@named
def test_every_pattern_is_itself(ft: FloatType) -> None:
    patterns = np.arange(65536, dtype=np.uint16).view(ft.dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the patterns
        patterns = patterns[~np.isnan(patterns)]
    x = patterns.astype(np.float64)
    assert np.array_equal(np.unique(x[np.isfinite(x)]), finite_numbers(ft))
    for rounding in (round_nearest, round_up, round_down):
        assert np.array_equal(rounding(x, ft).view(np.uint16), patterns.view(np.uint16))
        assert np.isnan(rounding(np.array([np.nan, -np.nan]), ft)).all()


@named
def test_neighbours_and_midpoints_to_nearest(ft: FloatType) -> None:
    numbers = finite_numbers(ft)
    low, high = numbers[:-1], numbers[1:]
    mid = low + (high - low) / 2  # exact: at most one bit more than the type has
    even = np.where(np.arange(len(low)) % 2 == (len(numbers) // 2) % 2, low, high)  # zero is even, then every second
    assert np.array_equal(round_nearest(mid, ft).astype(np.float64), even)
    assert np.array_equal(round_nearest(np.nextafter(mid, -np.inf), ft).astype(np.float64), low)
    assert np.array_equal(round_nearest(np.nextafter(mid, np.inf), ft).astype(np.float64), high)


@named
def test_neighbours_and_midpoints_directed(ft: FloatType) -> None:
    numbers = finite_numbers(ft)
    low, high = numbers[:-1], numbers[1:]
    for between in (np.nextafter(low, np.inf), low + (high - low) / 2, np.nextafter(high, -np.inf)):
        assert np.array_equal(round_up(between, ft).astype(np.float64), high)
        assert np.array_equal(round_down(between, ft).astype(np.float64), low)
    assert np.array_equal(next_up(low.astype(ft.dtype), ft).astype(np.float64), high)


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_overflow(ft: FloatType) -> None:
    half_ulp = ft.max * ft.unit_roundoff / (2.0 - 2.0 * ft.unit_roundoff)
    tie = ft.max + half_ulp
    beyond = np.array([np.nextafter(ft.max, np.inf), np.nextafter(tie, 0.0), tie, 1e300, np.inf])
    assert round_nearest(beyond, ft).tolist() == [ft.max, ft.max, np.inf, np.inf, np.inf]
    assert np.array_equal(round_nearest(-beyond, ft), -round_nearest(beyond, ft))
    assert (round_up(beyond, ft) == np.inf).all()
    assert round_down(beyond, ft).tolist() == [ft.max] * 4 + [np.inf]
    assert (round_down(-beyond, ft) == -np.inf).all()
    assert round_up(-beyond, ft).tolist() == [-ft.max] * 4 + [-np.inf]


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_underflow(ft: FloatType) -> None:
    tiny = np.array([5e-324, ft.smallest_subnormal / 2, np.nextafter(ft.smallest_subnormal, 0.0)])
    assert round_up(tiny, ft).tolist() == [ft.smallest_subnormal] * 3
    assert round_down(tiny, ft).tolist() == [0.0] * 3
    assert round_up(-tiny, ft).tolist() == [0.0] * 3
    assert round_down(-tiny, ft).tolist() == [-ft.smallest_subnormal] * 3
    assert round_nearest(tiny, ft).tolist() == [0.0, 0.0, ft.smallest_subnormal]


def test_float64_to_bfloat16_rounds_once() -> None:
    # Through float32 this is first a tie, then even: 1. The exact neighbour is above the tie.
    assert float(round_nearest(1.0 + 2.0**-8 + 2.0**-40, BFLOAT16)) == 1.0 + 2.0**-7
    assert float(round_nearest(1.0 + 3 * 2.0**-8 - 2.0**-40, BFLOAT16)) == 1.0 + 2.0**-7


def nearest_fraction(x: float, ft: FloatType) -> float:
    """Round to nearest even by rational arithmetic."""
    if not math.isfinite(x) or x == 0:
        return x
    quantum = max(math.frexp(x)[1] - ft.precision, round(math.log2(ft.smallest_subnormal)))
    rounded = round(Fraction(x) / Fraction(2) ** quantum) * Fraction(2) ** quantum
    return float(rounded) if abs(rounded) <= ft.max else math.copysign(math.inf, x)


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@settings(max_examples=300, deadline=None)
@given(x=st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False) | st.floats(-1e-37, 1e-37))
@example(x=-0.0)
def test_any_float64(ft: FloatType, x: float) -> None:
    up, down, nearest = (float(f(x, ft)) for f in (round_up, round_down, round_nearest))
    assert nearest == nearest_fraction(x, ft)
    assert down <= x <= up
    assert nearest in (down, up)
    if down == x or up == x:
        assert down == up
    else:
        assert float(next_up(np.array(down, dtype=ft.dtype), ft)) == up


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_next_up_at_the_ends(ft: FloatType) -> None:
    tiny = ft.smallest_subnormal
    y = np.array([-np.inf, -tiny, -0.0, 0.0, ft.max, np.inf], dtype=ft.dtype)
    assert next_up(y, ft).tolist() == [-ft.max, 0.0, tiny, tiny, np.inf, np.inf]
    assert np.isnan(next_up(np.array(np.nan, dtype=ft.dtype), ft))


def test_shape_is_kept() -> None:
    x: npt.NDArray[Any] = np.zeros((2, 0, 3))
    for rounding in (round_nearest, round_up, round_down):
        assert rounding(x, FLOAT16).shape == (2, 0, 3)
        assert rounding(1.0, BFLOAT16).shape == ()
