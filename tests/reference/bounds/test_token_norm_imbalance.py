"""What tokens of different norms force upon steps: never more than the stored steps, rotated or not, and attained."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from flint import arb, fmpq
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds.token_norm_imbalance import steps_norm_by_norms_lb, steps_norm_lb
from certkv.reference.formats import key_format, rotation
from certkv.reference.formats.affine import quantize
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, round_nearest
from certkv.reference.numbers.types import AnyArray

TYPES = pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)
Rule = Callable[[Any, int, int, FloatType], tuple[Any, Any, Any]]
RULES: dict[str, Rule] = {"zero point": quantize_zero_point, "minimum": quantize}


def norm(x: Any) -> arb:
    """Of stored numbers, exactly."""
    squares = (Fraction(float(one)) ** 2 for one in np.ravel(x).astype(np.float64))
    return arb(fmpq(*sum(squares, Fraction(0)).as_integer_ratio())).sqrt()


def tokens(seed: int, ft: FloatType, exponent: int) -> AnyArray:
    """A group with tokens of very different norms, zeros among them."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 9)), int(rng.choice([1, 3, 8, 16, 24]))
    x = rng.standard_normal((n, d)) * np.exp2(rng.uniform(-8, 4, (n, 1)))
    x[rng.random(n) < 0.2] = 0.0
    return round_nearest(np.clip(np.ldexp(x, exponent), -ft.max, ft.max), ft)


@TYPES
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("levels", [3, 15])
@given(seed=st.integers(0, 2**32 - 1), small=st.booleans())
def test_steps_are_at_least_what_two_tokens_force(
    levels: int, rule: str, ft: FloatType, seed: int, small: bool
) -> None:
    """Subnormal groups too, in which a step may be stored too small by half the smallest number."""
    x = tokens(seed, ft, round(np.log2(ft.smallest_subnormal)) + 1 if small else 0)
    _, step, _ = RULES[rule](x, 0, levels, ft)
    stored = norm(step)
    by_distance = steps_norm_lb(x.astype(np.float64), levels, ft)
    by_norms = steps_norm_by_norms_lb(x.astype(np.float64), levels, ft)
    assert not arb(by_distance) > stored
    assert not arb(by_norms) > stored
    # the distance is at least the difference of norms; both are rounded, by 2^-48 in all
    assert by_norms <= by_distance * (1 + 2.0**-48)


@TYPES
def test_two_tokens_attain_it(ft: FloatType) -> None:
    """Two tokens are the extremes of every channel; parallel ones are as far apart as their norms."""
    direction = np.array([3.0, -6.0, 12.0, 1.5])
    x = np.stack([direction, 4.0 * direction]).astype(ft.dtype)
    _, step, _ = quantize(x, 0, 3, ft)
    stored = float(norm(step).mid())
    # steps are ranges over 3, exactly, so all that is lost is what the bound gives away for rounding
    given_away = 1.01 * (ft.unit_roundoff + 2 * 2.0**-24)
    assert steps_norm_lb(x.astype(np.float64), 3, ft) == pytest.approx(stored, rel=given_away)
    assert steps_norm_by_norms_lb(x.astype(np.float64), 3, ft) == pytest.approx(stored, rel=given_away)


@TYPES
@given(seed=st.integers(0, 2**32 - 1))
def test_no_rotation_removes_it(ft: FloatType, seed: int) -> None:
    """Norms are what they were, so the bound by norms is; and the steps of the rotated group obey it."""
    rng = np.random.default_rng(seed)
    x = round_nearest(rng.standard_normal((4, 16)) * np.array([[0.01], [1.0], [1.0], [5.0]]), ft)
    y = rotation.rotate_originals(x).astype(np.float64) * 2.0**-rotation.EXPONENT
    turned = round_nearest(y, ft)
    _, step, _ = quantize(turned, 0, 3, ft)
    before = steps_norm_by_norms_lb(x.astype(np.float64), 3, ft)
    after = steps_norm_by_norms_lb(turned.astype(np.float64), 3, ft)
    # the largest norm is that of a token, off by the rotation's 6 roundings and by u of the type in every channel
    off = (6 * 2.0**-23 + 2 * ft.unit_roundoff) * float(np.linalg.norm(x.astype(np.float64), axis=1).max()) / 3
    assert abs(after - before) <= 2 * off
    assert not arb(after) > norm(step)


def test_scaling_removes_it() -> None:
    """Parallel tokens of norms 1 to 1000: what they force falls to what their angle does, which is 0."""
    x = np.outer([1.0, 10.0, 1000.0], np.full(8, 8.0**-0.5)).astype(np.float16)[None]
    plain, scaled = key_format("oscar-rotation"), key_format("oscar")
    forced = steps_norm_by_norms_lb(x[0].astype(np.float64), 3, FLOAT16)
    assert forced == pytest.approx(333.0, rel=1e-3)  # norms are off by their float16 rounding, 2^-11
    assert not arb(forced) > norm(plain.encode(x).step)
    assert float(norm(scaled.encode(x).step).mid()) < 1e-3


def test_scaling_alone_makes_outliers() -> None:
    """The example of the source: a channel that is large in one token is as large as all of it after scaling."""
    a, b = [Fraction(1)] * 3 + [Fraction(100)], [Fraction(1, 10)] * 4
    squares = [sum((one * one for one in row), Fraction(0)) for row in (a, b)]
    assert squares == [10003, Fraction(4, 100)]
    # norms 100.015 and 0.2: to two digits 0.01, 0.01, 0.01, 1 and four halves
    scaled = [[float(one) / float(s) ** 0.5 for one in row] for row, s in zip((a, b), squares, strict=True)]
    assert [round(one, 2) for one in scaled[0]] == [0.01, 0.01, 0.01, 1.0]
    assert [round(one, 2) for one in scaled[1]] == [0.5] * 4
    spans = [[abs(x - y) for x, y in zip(*rows, strict=True)] for rows in ((a, b), scaled)]
    # relative to the token itself, the small token's channels were 9 steps of 0.3 and are one of 0.49
    assert [round(float(one), 2) for one in spans[1]] == [0.49, 0.49, 0.49, 0.5]


def test_small_groups_and_no_tokens_apart() -> None:
    for ft in (FLOAT16, BFLOAT16):
        assert steps_norm_lb(np.ones((3, 4)), 3, ft) == 0.0
        assert steps_norm_by_norms_lb(np.ones((3, 4)), 3, ft) == 0.0
        # two neighbouring subnormal numbers: a third of the unit may be stored as 0
        assert steps_norm_lb(np.array([[0.0], [ft.smallest_subnormal]]), 3, ft) == 0.0


def test_rounding_up_what_is_not_is_seen() -> None:
    """The defect: the bound without the step's rounding, for steps that were rounded to nearest."""
    x = np.array([[0.0], [0.7578125]]).astype(BFLOAT16.dtype)
    _, step, _ = quantize_zero_point(x, 0, 3, BFLOAT16)
    unrounded = float(x.astype(np.float64)[1, 0]) / 3
    assert unrounded > float(step[0])
    assert steps_norm_lb(x.astype(np.float64), 3, BFLOAT16) <= float(step[0])
