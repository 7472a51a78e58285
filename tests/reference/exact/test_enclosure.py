"""Enclosures contain the definition's value, get tight on request, and never lie about hard inputs."""

import math

import ml_dtypes
import mpmath
import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import DTypeError, NonFiniteError, ShapeError
from certkv.reference.exact import Enclosure, attention_enclosure, attention_mp, distance
from certkv.reference.exact.enclosure import PRECISION, float_lb, float_ub, working_precision
from certkv.reference.numbers.types import AnyArray

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def contains(enclosure: arb, value: mpmath.mpf, digits: int) -> bool:
    """Whether a ball holds an mpmath number known to about ``digits`` decimal digits."""
    with mpmath.workdps(digits), working_precision(8 * digits):
        slack = arb(10) ** (8 - digits)  # mpmath's own rounding: a few units of 10^-digits, times what N and d add
        return bool((enclosure + arb(0, 1) * slack * (1 + abs(enclosure))).overlaps(arb(mpmath.nstr(value, digits))))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 12),
    dim=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    scale=st.floats(0.01, 2.0),
)
def test_contains_the_definition(seed: int, tokens: int, dim: int, dtype: type, size: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    q: AnyArray = (rng.standard_normal(dim) * size).astype(dtype)
    k: AnyArray = (rng.standard_normal((tokens, dim)) * size).astype(dtype)
    v: AnyArray = (rng.standard_normal((tokens, dim)) * size).astype(dtype)
    enclosed = attention_enclosure(q, k, v, scale, radius=1e-30)
    expected = attention_mp(q, k, v, scale, digits=60)
    assert all(x.rad() <= 1e-30 for x in enclosed)
    assert all(contains(x, y, 60) for x, y in zip(enclosed, expected, strict=True))


def test_one_token_is_its_value() -> None:
    v = np.array([[1.5, -2.0, 65504.0]], dtype=np.float16)
    enclosed = attention_enclosure(np.ones(2, np.float16), np.ones((1, 2), np.float16), v, 0.7)
    assert [float(x) for x in enclosed] == [1.5, -2.0, 65504.0]


def test_two_tokens_are_a_logistic_of_the_callers_scale() -> None:
    q, k, v = np.array([3.0]), np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    (enclosed,) = attention_enclosure(q, k, v, 0.1)
    with working_precision(256):
        assert enclosed.overlaps(1 / (1 + (-(arb(2) * 3 * arb(0.1) - arb(3) * arb(0.1))).exp()))
        assert not enclosed.overlaps(1 / (1 + arb(-3 / math.sqrt(2)).exp()))


def test_bfloat16_scores_of_1e76_stay_correct() -> None:
    # Two keys whose scores agree in their leading 2e76 and differ by q_1 * 2^-30: cancellation of 300 bits.
    q = np.array([2.0**126, 1.0, 2.0**30], dtype=ml_dtypes.bfloat16)
    k = np.array([[2.0**127, 1.0, 0.0], [2.0**127, 0.0, 2.0**-30], [2.0**127, 0.0, 0.0]], dtype=ml_dtypes.bfloat16)
    v = np.array([[1.0], [0.0], [-3.0]], dtype=ml_dtypes.bfloat16)
    (enclosed,) = attention_enclosure(q, k, v, 1.0, radius=1e-30)
    with working_precision(256):
        expected = (arb(1).exp() - 3) / (2 * arb(1).exp() + 1)
        assert enclosed.overlaps(expected)
    assert enclosed.rad() <= 1e-30


def test_without_a_radius_wide_but_not_wrong() -> None:
    q = np.array([2.0**126, 1.0], dtype=ml_dtypes.bfloat16)
    k = np.array([[2.0**127, 1.0], [2.0**127, 0.0]], dtype=ml_dtypes.bfloat16)
    v = np.array([[1.0], [0.0]], dtype=ml_dtypes.bfloat16)
    (enclosed,) = attention_enclosure(q, k, v, 1.0)
    assert not enclosed.is_finite() or enclosed.overlaps(1 / (1 + arb(-1).exp()))


def test_context_precision_is_put_back_even_after_an_error() -> None:
    before = ctx.prec
    Enclosure(np.ones((2, 2)), np.ones((2, 2))).attention(np.ones(2), 1.0, radius=0.0)
    assert ctx.prec == before
    with pytest.raises(ZeroDivisionError), working_precision(999):
        raise ZeroDivisionError
    assert ctx.prec == before
    assert before < PRECISION


def test_distance_encloses_the_norm() -> None:
    error = distance(np.array([3.0, 0.0]), [arb(0), arb(4)])
    assert error.contains(5)
    assert error.rad() < 1e-100
    assert distance(np.array([1.0]), [arb(1)]).contains(0)


@pytest.mark.parametrize("offset", [0.0, 1e-31, 1e-29])
def test_distance_from_a_ball_around_the_output(offset: float) -> None:
    with working_precision(200):
        around = arb(1, 1e-30) + arb(offset)
    error = distance(np.array([1.0]), [around])
    assert error.is_finite()
    assert error.contains(offset)
    assert error < 1.1e-30 + offset


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.floats(0, 1e300))
def test_floats_around_a_ball(middle: float, radius: float) -> None:
    ball = arb(middle, radius) / 3
    lb, ub = float_lb(ball), float_ub(ball)
    assert (arb(lb) <= ball) is True
    assert (arb(ub) >= ball) is True
    if radius == 0.0:  # two units of the last place around a ball of 53 bits' precision
        assert ub - lb <= 4 * math.ulp(middle / 3)


def test_floats_around_what_float64_cannot_hold() -> None:
    huge = arb(10) ** 400
    assert float_lb(huge) == np.finfo(np.float64).max
    assert float_ub(huge) == math.inf
    assert float_lb(arb(10) ** -400) == 0.0
    assert 0.0 < float_ub(arb(10) ** -400) < 1e-300
    assert math.isnan(float_lb(arb("nan")))


def test_refuses_what_it_cannot_enclose() -> None:
    good = np.ones((3, 2), np.float16)
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"k\[1, 1\]"):
        Enclosure(bad, good)
    with pytest.raises(NonFiniteError, match=r"v\[1, 1\]"):
        Enclosure(good, bad)
    with pytest.raises(NonFiniteError, match=r"q\[0\]"):
        Enclosure(good, good).attention(np.array([np.inf, 0.0]), 1.0)
    with pytest.raises(ShapeError):
        Enclosure(good, good[:2])
    with pytest.raises(ShapeError):
        Enclosure(good[:0], good[:0])
    with pytest.raises(ShapeError):
        Enclosure(good, good).attention(np.ones(3), 1.0)
    with pytest.raises(ShapeError):
        distance(np.ones(3), [arb(0)])
    with pytest.raises(DTypeError):
        Enclosure(good.astype(np.int64), good)
