"""Theorem ``block_bound`` against rational and interval arithmetic, and on heads at the ends of its hypotheses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds.block_bound import block_bound
from certkv.reference.bounds.quotient import BlockBound, over
from certkv.reference.numbers import norm_ub


def evaluate(**changes: np.ndarray) -> BlockBound:
    """One head, two blocks, unit numbers, unless changed."""
    given_ = {
        "mass_ub": np.array([[0.5, 0.5]]),
        "mass_lb": np.array([[0.5, 0.5]]),
        "key_delta_ub": np.array([[0.1, 0.2]]),
        "rounding_delta_ub": np.full((1, 2), 1e-12),
        "radius_ub": np.array([[1.0, 2.0]]),
        "value_error_ub": np.array([[0.1, 0.0]]),
        "accumulation_ub": np.array([1e-13]),
    }
    return block_bound(**(given_ | changes))


def test_against_intervals() -> None:
    """The evaluated number is at least the formula and at most 1 + 1e-12 times it (about 30 roundings and exp)."""
    result = evaluate()
    e1, e2 = (arb(0.1) + arb(1e-12)).exp(), (arb(0.2) + arb(1e-12)).exp()
    top = arb(0.5) * (e1 - 1) * 1 + arb(0.5) * (e2 - 1) * 2 + arb(0.5) * arb(0.1) + arb(1e-13)
    exact = top / (arb(0.5) / e1 + arb(0.5) / e2)
    assert arb(float(result.bound[0])) >= exact
    assert arb(float(result.bound[0])) <= exact * (1 + arb(1e-12))


@given(
    st.lists(st.tuples(st.floats(1e-6, 1), st.floats(0, 3), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=6)
)
def test_parts_add_up(blocks: list[tuple[float, float, float, float]]) -> None:
    """Their sum, also in FP32, is at least the bound, and the value part is exactly the value terms."""
    mass, delta, radius, eta = np.array(blocks).T[:, None, :]
    mass = mass / mass.sum()
    result = evaluate(
        mass_ub=mass,
        mass_lb=mass,
        key_delta_ub=delta,
        rounding_delta_ub=np.full_like(delta, 1e-13),
        radius_ub=radius,
        value_error_ub=eta,
    )
    parts = np.stack([result.key, result.value, result.arithmetic])
    assert Fraction(float(result.bound[0])) <= sum(Fraction(float(p)) for p in parts[:, 0])
    assert result.bound[0] <= radius.max(), "never above the hull"
    assert (parts >= 0).all()


def test_unknown_is_infinite_and_hull_limits() -> None:
    """NaN or infinity in any input never lowers the bound below the hull, and a NaN radius makes it infinite."""
    bad = np.array([[np.nan, 0.2]])
    for name in ("mass_ub", "mass_lb", "key_delta_ub", "rounding_delta_ub", "value_error_ub"):
        assert evaluate(**{name: bad}).bound[0] == 2.0, name
    assert evaluate(accumulation_ub=np.array([np.nan])).bound[0] == 2.0
    assert evaluate(radius_ub=bad).bound[0] == np.inf
    assert evaluate(key_delta_ub=np.array([[1e6, 0.0]])).bound[0] == 2.0
    infinite = evaluate(radius_ub=np.array([[np.inf, 1.0]]))
    assert infinite.bound[0] == np.inf
    assert not np.isnan([infinite.key[0], infinite.value[0], infinite.arithmetic[0]]).any()


def test_what_is_not_coded_has_no_part() -> None:
    """With a denominator of 0, a part whose own terms are 0 is 0 and not the whole bound."""
    lost = {"key_delta_ub": np.array([[1e6, 1e6]]), "value_error_ub": np.zeros((1, 2))}
    result = evaluate(**lost)
    assert (result.bound[0], result.value[0], result.key[0]) == (2.0, 0.0, 2.0)


def test_over() -> None:
    quotient = over(np.array([0.0, 1.0, np.inf, 0.0, 1.0]), np.array([0.0, 0.0, np.inf, 1.0, 2.0]))
    assert quotient.tolist() == [np.inf, np.inf, np.inf, 0.0, 0.5]


def test_theorem_on_random_heads() -> None:
    """The statement itself, with free choice of weights, log errors and values."""
    rng = np.random.default_rng(5)
    worst = 0.0
    for _ in range(400):
        blocks, size, d = rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 4)
        shape = (blocks, size)
        computed = rng.random(shape) ** 3 + 1e-9
        computed /= computed.sum()
        delta_ub = rng.random(blocks) * rng.choice([0.01, 0.3, 2.0])
        # errors at the ends of their range are the worst
        delta = delta_ub[:, None] * rng.choice([-1.0, 1.0], shape)
        true = computed * np.exp(-delta)
        true /= true.sum()
        v = rng.standard_normal((*shape, d))
        v_hat = v + rng.standard_normal((*shape, d)) * rng.choice([0.0, 0.01, 0.3])
        output = np.einsum("bt,btd->d", computed, v_hat)
        error = np.linalg.norm(np.einsum("bt,btd->d", true, v) - output)
        mass = computed.sum(axis=1)[None]
        result = evaluate(
            mass_ub=mass,
            mass_lb=mass,
            key_delta_ub=delta_ub[None],
            rounding_delta_ub=np.full((1, blocks), 1e-15),
            radius_ub=norm_ub(v - output).max(axis=1)[None],
            value_error_ub=norm_ub(v - v_hat).max(axis=1)[None],
            accumulation_ub=np.array([1e-15]),
        )
        # the error itself is computed with about 30 roundings of numbers below 30
        assert error <= result.bound[0] + 1e-12
        worst = max(worst, error / max(result.bound[0], 1e-12))
    assert worst > 0.5, "the inputs come close to the bound, so a bound half as large would fail"
