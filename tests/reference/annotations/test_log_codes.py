"""Log codes: at least the number, little more, total; and what a code means, digit by digit."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.annotations import log_codes
from certkv.reference.numbers import BFLOAT16, round_up

STEP = Fraction(2 ** (1 / 8)) * (1 + Fraction(1, 2**15)) * (1 + Fraction(1, 2**50))
"""Largest factor between two codes; the last factor makes up for the rounding of the root."""


MANTISSAS = [next(m for m in range(32768, 65537) if m**8 >= 2 ** (128 - j)) for j in range(8)]
"""Eighth roots in whole numbers."""


def meaning(code: int, maximum: float) -> Fraction:
    """As the documentation has it."""
    return Fraction(maximum) * Fraction(MANTISSAS[code % 8], 2 ** (16 + code // 8))


@pytest.mark.parametrize("maximum", [1.0, 1.9921875, 3.0e38, 2.0**-126, 2.0**-133])
def test_meanings(maximum: float) -> None:
    stored = np.array(maximum, BFLOAT16.dtype)
    decoded = log_codes.decode(np.arange(256, dtype=np.uint8), stored)
    exact = [meaning(code, float(stored)) for code in range(256)]
    assert [Fraction(x) for x in decoded.tolist()] == exact
    assert decoded[0] == float(stored)
    assert decoded[255] / decoded[0] == pytest.approx(2.0**-31.875, rel=2.0**-15)


@settings(max_examples=300, deadline=None)
@given(
    largest=st.floats(2.0**-133, 2.0**127),
    shares=st.lists(st.one_of(st.just(0.0), st.floats(0.0, 1.0), st.floats(-40.0, 0.0).map(lambda e: 2.0**e))),
)
def test_codes_bound_from_above(largest: float, shares: list[float]) -> None:
    """Every number of a block, whose largest is rounded up to what is stored."""
    x = np.array([largest, *(share * largest for share in shares)])
    maximum = round_up(np.max(x), BFLOAT16)
    codes = log_codes.encode(x, maximum)
    assert codes.dtype == np.uint8
    for number, code, bound in zip(x.tolist(), codes.tolist(), log_codes.decode(codes, maximum).tolist(), strict=True):
        assert Fraction(bound) == meaning(code, float(maximum))
        assert bound >= number
        assert code == 255 or Fraction(bound) <= STEP * Fraction(number)
        assert code == 255 or meaning(code + 1, float(maximum)) < Fraction(number)


def test_shapes() -> None:
    x = np.random.default_rng(0).random((3, 2, 5))
    maximum = round_up(x.max(axis=-1), BFLOAT16)
    codes = log_codes.encode(x, maximum)
    assert codes.shape == x.shape
    for i in np.ndindex(3, 2):
        np.testing.assert_array_equal(codes[i], log_codes.encode(x[i], maximum[i]))
    assert log_codes.encode(np.zeros((0, 4)), np.zeros(0, BFLOAT16.dtype)).shape == (0, 4)


def test_corners() -> None:
    """A block of zeros, one beyond the range, and numbers that are none: nothing raises, nothing warns."""
    zero, inf = np.array(0.0, BFLOAT16.dtype), np.array(np.inf, BFLOAT16.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert log_codes.decode(log_codes.encode(np.zeros(3), zero), zero).tolist() == [0.0] * 3
        codes = log_codes.encode(np.array([0.0, 1e300, np.inf]), inf)
        assert codes.tolist() == [0, 0, 0]
        assert log_codes.decode(codes, inf).tolist() == [np.inf] * 3
        assert log_codes.encode(np.array([np.nan]), np.array(1.0, BFLOAT16.dtype)).tolist() == [0]
        tiny = np.array(2.0**-133, BFLOAT16.dtype)
        assert log_codes.encode(np.array([2.0**-1074, 2.0**-133]), tiny).tolist() == [255, 0]


def test_a_fixed_range_fails() -> None:
    """The defect: codes from 2^8 down, whatever the block holds."""
    norm = 1e4
    fixed = log_codes.decode(log_codes.encode(np.array([norm]).clip(max=2.0**8), np.array(2.0**8)), np.array(2.0**8))
    assert fixed[0] < norm
    maximum = round_up(np.float64(norm), BFLOAT16)
    assert log_codes.decode(log_codes.encode(np.array([norm]), maximum), maximum)[0] >= norm


def test_what_it_costs() -> None:
    """The figures of the derivation: log-uniform numbers are 4.5 % too large on average, 9.1 % at most."""
    x = np.exp2(np.linspace(-30.0, 0.0, 100_001))
    found = log_codes.decode(log_codes.encode(x, np.array(1.0)), np.array(1.0)) / x - 1.0
    assert found.mean() == pytest.approx(0.0447, abs=1e-3)
    assert found.max() <= float(STEP) - 1.0 < 0.0906
