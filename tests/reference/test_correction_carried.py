"""Errors that are carried from correction to correction, against rational arithmetic; the rule, and references."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.correction_carried import (
    BIAS,
    KEPT,
    LEFT,
    Carried,
    carry,
    first,
    must_recompute,
    output_ub,
    risen,
)

RATES = st.sampled_from([2.0**-20, 2.0**-12, 2.0**-8])


@given(st.integers(0, 2**32 - 1), RATES, st.integers(1, 4))
def test_whatever_a_round_leaves_is_carried(seed: int, rate: float, rounds: int) -> None:
    """Every sum is off by as much as it may be, upwards: numbers are rational, so nothing else is."""
    rng = np.random.default_rng(seed)
    weights, values = rng.exponential(size=12) + 2.0**-30, rng.standard_normal(12)
    exact = [Fraction(float(x)) for x in weights]
    v = [Fraction(float(x)) for x in values]
    r = Fraction(rate)
    # what was summed, all of it too large
    l_now = sum(exact) * (1 + r)
    o_now = sum((w * x for w, x in zip(exact, v, strict=True)), Fraction(0)) + r * sum(
        (w * abs(x) for w, x in zip(exact, v, strict=True)), Fraction(0)
    )
    sizes = float(np.abs(weights * values).sum()) * 1.0001
    lost = first(np.asarray(float(l_now)), np.asarray(sizes), rate, rate, 0.0)
    for _ in range(rounds):
        token = int(rng.integers(12))
        keys = bool(rng.integers(2))
        a = exact[token] / (1 + r)  # read a little too small
        b = Fraction(float(rng.exponential() * 10.0 ** rng.integers(-3, 3))) if keys else a
        new = Fraction(float(rng.standard_normal()))
        l_now += b - a
        o_now += b * new - a * v[token]
        out, into = (np.asarray([float(x), float(x * abs(y))]) for x, y in ((a, v[token]), (b, new)))
        lost = carry(lost, out, into, rate, keys)
        if keys:
            exact[token] = b
        v[token] = new
        total = sum(exact)
        assert abs(l_now - total) <= Fraction(float(lost.weight))
        mean = sum((w * x for w, x in zip(exact, v, strict=True)), Fraction(0))
        assert abs(o_now - mean) <= Fraction(float(lost.value))
        bound = float(output_ub(lost, np.asarray(float(l_now)), np.asarray(abs(float(o_now / l_now)) * 1.0001)))
        if np.isfinite(bound):
            assert abs(o_now / l_now - mean / total) <= Fraction(bound)


def test_a_state_that_is_kept_has_a_sixteenth_of_the_first() -> None:
    lost = first(np.asarray(1.0), np.asarray(0.0), 0.0, 0.0, 0.0)
    assert not must_recompute(lost, np.asarray(KEPT * 1.001))
    assert must_recompute(lost, np.asarray(KEPT * 0.999))
    assert float(output_ub(lost, np.asarray(KEPT * 0.999), np.asarray(1.0))) == np.inf


@pytest.mark.parametrize(("weight", "l_new"), [(1.0, 1023.9), (np.nan, 1.0), (1.0, np.nan), (1.0, np.inf), (0.0, -1.0)])
def test_what_is_not_known_is_given_up(weight: float, l_new: float) -> None:
    assert must_recompute(Carried(np.asarray(weight), np.asarray(0.0)), np.asarray(l_new))
    assert not must_recompute(Carried(np.asarray(1.0), np.asarray(0.0)), np.asarray(1.0 / LEFT))


@given(st.floats(-200.0, 200.0), st.lists(st.floats(-200.0, 200.0), min_size=1, max_size=8))
def test_weights_of_a_risen_reference_fit_binary16(reference: float, bits: list[float]) -> None:
    scores = np.asarray(bits)
    new = float(risen(np.asarray(reference), scores))
    assert new >= reference
    assert np.isfinite(np.exp2(scores - new).astype(np.float16)).all()
    # as low as it may be
    assert new == reference or new == scores.max() - BIAS
