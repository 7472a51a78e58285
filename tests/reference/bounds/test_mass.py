"""e^{2 Delta} bounds a set's true mass; e^{3 Delta} does not once the query is quantized."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certkv.reference.bounds import mass, score_error
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import FloatArray


def test_the_papers_factors() -> None:
    assert round(float(mass.as_stated(0.18, 1.0)), 2) == 1.43
    assert round(float(mass.as_stated_quantized_query(0.18, 1.0)), 2) == 1.72


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    signs=st.lists(st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 1.0])), min_size=8, max_size=8),
    members=st.integers(0, 255),
    delta=st.floats(0, 10),
)
def test_no_set_passes_it(
    softmax: Callable[..., Any], scores: list[float], signs: list[float], members: int, delta: float
) -> None:
    moved = [arb(s) + arb(delta) * sign for s, sign in zip(scores, signs, strict=False)]
    estimated, true = (sum((p for t, p in enumerate(softmax(s)) if members >> t & 1), arb(0)) for s in (scores, moved))
    rho = min(math.nextafter(float(estimated.upper()), 2), 1.0)
    assert not true > float(mass.as_stated(delta, rho))
    assert not true > float(mass.sharp(delta, rho))
    assert mass.sharp(delta, rho) <= mass.as_stated(delta, rho) * (1 + 2.0**-40)  # each is within 100 u


@pytest.mark.parametrize(("rho", "delta"), [(1e-9, 0.18), (0.01, 0.18), (0.3, 2.0), (0.9, 10.0), (1e-6, 300.0)])
def test_sharp_is_attained_and_rounds_up(rho: float, delta: float) -> None:
    # The set gains e^Delta, the rest loses e^Delta.
    raised, lowered = rho * arb(delta).exp(), (1 - arb(rho)) * arb(-delta).exp()
    true = raised / (raised + lowered)
    value = arb(float(mass.sharp(delta, rho)))
    assert not value < true
    assert value <= true * (1 + 200 * arb(2) ** -53)
    assert true > value * (1 - 1e-9)  # so nothing smaller by 1e-9 holds
    # As rho -> 0 the simple factor is attained as well: 2 Delta in the exponent cannot be less.
    if rho * math.exp(2 * delta) < 1e-6:
        assert true > float(mass.as_stated(1.999 / 2 * delta, rho))


def quantized_query() -> tuple[FloatArray, FloatArray, FloatArray]:
    """A query rounded to eighths, keys that are their own codes: Delta_k = 0."""
    q = np.array([1.06, -0.44, 0.31, 0.07])
    q_hat = np.round(q * 8) / 8
    k = np.array([[4.0, -4.0, 4.0, 4.0], [-4.0, 4.0, -4.0, -4.0]]) * np.sign(q - q_hat)
    return q, q_hat, k


def test_three_delta_does_not_cover_a_quantized_query(softmax: Callable[..., Any]) -> None:
    q, q_hat, k = quantized_query()
    scale = 0.5
    exact, computed = (
        softmax([arb(scale) * sum(map(arb, (key * query).tolist()), arb(0)) for key in k]) for query in (q, q_hat)
    )  # the keys are powers of two, so the products are exact
    delta_k = 0.0
    delta_q = float(score_error.query_l2(scale, norm_ub(q - q_hat)[None], norm_ub(k)).max())
    true, estimated = max(zip(exact, computed, strict=True), key=lambda pair: float(pair[0] - pair[1]))
    rho = float(estimated.upper())
    assert true > float(mass.as_stated_quantized_query(delta_k, rho))  # the planted defect, caught
    assert not true > float(mass.with_query_error(delta_k, delta_q, rho))


def test_query_error_adds() -> None:
    assert float(mass.with_query_error(0.1, 0.2, 0.01)) == pytest.approx(0.01 * math.exp(0.6), rel=1e-13)
    assert float(mass.with_query_error(0.1, 0.2, 0.01)) >= 0.01 * math.exp(0.6)


def test_ignorance() -> None:
    assert mass.as_stated(np.inf, 0.0) == np.inf
    assert mass.as_stated(800.0, 0.5) == np.inf
    assert mass.as_stated(np.nan, 0.5) == np.inf
    assert mass.sharp([np.inf, np.nan, 400.0, 400.0], [0.0, 0.5, 0.0, 0.1]).tolist() == [1.0] * 4
    assert mass.sharp(1.0, [0.0, 1.0]).tolist() == [0.0, 1.0]
