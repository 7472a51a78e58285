"""The paper's formula, as stated: its numbers come out, and it bounds what it says it bounds."""

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.bounds import paper_total


def test_the_papers_example() -> None:
    # Delta = .18, tail .005: 2 * 1.4333 * .005 * .4333 = .00621
    exact = 2 * arb(0.005) * (2 * arb(0.18)).exp() * (2 * arb(0.18)).expm1()
    value = arb(float(paper_total.key_term(0.18, 0.005, 1.0)))
    assert not value < exact
    assert value <= exact * (1 + 100 * arb(2) ** -53)
    assert round(float(value), 3) == 0.006


def test_total_adds_the_value_term() -> None:
    mass, eta = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.1, 0.3], [0.2, 9.0]])
    value = paper_total.total(np.array([0.0, 0.18]), np.array([0.5, 0.005]), 3.0, mass, eta)
    key = 2 * 3 * np.exp(0.36) * 0.005 * np.expm1(0.36)
    np.testing.assert_allclose(value, [0.2, 0.2 + key], rtol=1e-14)
    assert value[0] >= 0.2


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 8), delta=st.floats(0, 3))
def test_bounds_the_distance_to_the_original_keys_and_values(seed: int, tokens: int, delta: float) -> None:
    rng = np.random.default_rng(seed)
    scores, v = rng.standard_normal(tokens) * 2, rng.standard_normal((tokens, 3))
    tail = rng.random(tokens) < 0.5
    moved = scores + np.where(tail, rng.uniform(-delta, delta, tokens), 0.0)
    v_hat = v + 0.1 * rng.standard_normal(v.shape)
    a, b = (np.exp(s) / np.exp(s).sum() for s in (scores, moved))
    error = np.linalg.norm(b @ v_hat - a @ v)
    eta = np.linalg.norm(v - v_hat, axis=1)
    bound = paper_total.total(delta, b[tail].sum(), np.linalg.norm(v, axis=1).max(), b, eta)
    assert error <= bound + 1e-14  # 50 roundings of numbers below 10, against zero bounds


def test_ends() -> None:
    assert paper_total.key_term([np.inf, 400.0, np.nan, 400.0], [0.0, 0.1, 0.1, 0.0], 1.0).tolist() == [
        np.inf,
        np.inf,
        np.inf,
        0.0,
    ]
    assert paper_total.key_term(1.0, 0.5, 0.0) == 0.0


def test_a_planted_single_exponential_misses_the_tail_growth() -> None:
    # alpha_hat (e^{2D} - 1) without e^{2D}, as if the estimated tail were the true one, and half of it
    planted = 0.005 * np.expm1(0.36)
    assert planted < paper_total.key_term(0.18, 0.005, 1.0) / 2
    assert paper_total.key_term(0.18, 0.005, 1.0) / 2 / planted == pytest.approx(np.exp(0.36), rel=1e-13)
