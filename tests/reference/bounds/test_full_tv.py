"""tanh(Delta/2) is a bound, is attained, and is the smallest such number; tanh(Delta) is neither."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certkv.reference.bounds import full_tv
from certkv.reference.bounds.decay import decay

DELTAS = [1e-300, 1e-9, 0.01, 0.18, 1.0, 5.0, 30.0, 600.0]


@pytest.mark.parametrize("delta", DELTAS)
def test_rounds_up_and_is_tight(delta: float) -> None:
    for function, factor in ((full_tv.sharp, 0.5), (full_tv.as_stated, 1.0)):
        exact = (arb(delta) * factor).tanh()
        value = float(function(delta))
        assert not arb(value) < exact
        # outward(20) and two exponentials of 8 u: less than 100 u above
        assert arb(value) <= exact * (1 + 100 * arb(2) ** -53)


@pytest.mark.parametrize("delta", DELTAS)
def test_attained(delta: float, softmax: Callable[..., Any], total_variation: Callable[..., Any]) -> None:
    s, s_prime = full_tv.attaining_example(delta)
    assert np.abs(s - s_prime).tolist() == [delta, delta]
    tv = total_variation(softmax(s.tolist()), softmax(s_prime.tolist()))
    assert abs(tv - (arb(delta) / 2).tanh()) < arb(2) ** -150


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.floats(-40, 40), min_size=1, max_size=8),
    signs=st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    delta=st.floats(0, 20),
)
def test_no_softmax_passes_it(
    softmax: Callable[..., Any],
    total_variation: Callable[..., Any],
    scores: list[float],
    signs: list[float],
    delta: float,
) -> None:
    moved = [arb(s) + arb(delta) * sign for s, sign in zip(scores, signs, strict=False)]
    tv = total_variation(softmax(scores), softmax(moved))
    assert not tv > float(full_tv.sharp(delta))


def planted(delta: float) -> float:
    """tanh(Delta/2) less one part in 10^6: must be caught by the attaining example."""
    return math.tanh(delta / 2) * (1 - 1e-6)


@pytest.mark.parametrize("delta", [1e-9, 0.18, 5.0])
def test_anything_smaller_is_wrong(
    delta: float, softmax: Callable[..., Any], total_variation: Callable[..., Any]
) -> None:
    s, s_prime = full_tv.attaining_example(delta)
    assert total_variation(softmax(s.tolist()), softmax(s_prime.tolist())) > planted(delta)


@pytest.mark.parametrize("delta", [0.01, 0.18, 1.0, 5.0])
def test_what_the_paper_calls_tight_is_loose(delta: float) -> None:
    # tanh(D) / tanh(D/2) = 2 / (1 + tanh(D/2)^2): up to 2
    ratio = float(full_tv.as_stated(delta) / full_tv.sharp(delta))
    assert ratio == pytest.approx(2 / (1 + math.tanh(delta / 2) ** 2), rel=1e-13)  # 200 u in each


def test_the_papers_attaining_case_is_infeasible() -> None:
    # It needs a'_1/a_1 = e^{2D} and a'_2/a_2 = e^{-2D} at once; their quotient is e^{d_1 - d_2}, at most e^{2D}.
    delta = 0.3
    rng = np.random.default_rng(0)
    errors = rng.uniform(-delta, delta, (1000, 5))
    scores = rng.standard_normal((1000, 5))
    a, b = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (scores, scores + errors))
    ratio = b / a
    assert (ratio.max(axis=1) / ratio.min(axis=1)).max() <= math.exp(2 * delta) * (1 + 1e-14)  # 40 roundings
    assert math.exp(4 * delta) > math.exp(2 * delta)


def test_ignorance_is_one() -> None:
    assert full_tv.sharp([np.inf, np.nan, 701.0, 1e308]).tolist() == [1.0] * 4
    assert full_tv.sharp(0.0) == 0.0


def test_decay_is_within_nine_roundings() -> None:
    rng = np.random.default_rng(7)
    points = np.concatenate([rng.uniform(0, 700, 2000), np.exp(rng.uniform(-600, 6, 2000)), [0.0]])
    for x, small, rest in zip(points.tolist(), *(y.tolist() for y in decay(points)), strict=True):
        assert abs(arb(small) - (-arb(x)).exp()) <= 8 * arb(2) ** -53 * (-arb(x)).exp()
        assert abs(arb(rest) + (-arb(x)).expm1()) <= 8 * arb(2) ** -53 * -(-arb(x)).expm1()
