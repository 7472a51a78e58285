"""Theorem ``quotient``: sums of terms over a sum of weights, cut at the hull, split into parts that cover it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds.arithmetic import LOST_TO_UNDERFLOW
from certkv.reference.bounds.quotient import BlockBound, over, quotient
from certkv.reference.numbers.types import FloatArray


def evaluate(**changes: FloatArray | None) -> BlockBound:
    """One head, two blocks, unless changed."""
    given_ = {
        "key_terms": np.array([[0.25, 0.5]]),
        "pure_key_terms": np.array([[0.125, 0.25]]),
        "value_terms": np.array([[0.125, 0.0]]),
        "weight_lb": np.array([[0.25, 0.5]]),
        "accumulation_ub": np.array([0.0625]),
        "hull_ub": np.array([8.0]),
        "sharper_ub": None,
    }
    return quotient(**(given_ | changes))  # type: ignore[arg-type]


terms = st.floats(1e-200, 1e3)
rows = st.lists(st.tuples(terms, terms, st.floats(1e-3, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=40)


@given(rows, terms, st.floats(1e-6, 1e6))
def test_against_rationals(blocks: list[tuple[float, ...]], accumulation: float, hull: float) -> None:
    """At least the formula, at most 1 + 1e-12 times it (about 60 roundings, as many made up for); parts cover it."""
    key, value, weight, share = np.array(blocks).T[:, None]
    found = evaluate(
        key_terms=key,
        pure_key_terms=key * share,
        value_terms=value,
        weight_lb=weight,
        accumulation_ub=np.array([accumulation]),
        hull_ub=np.array([hull]),
    )
    top = sum((Fraction(x) for x in [*key[0].tolist(), *value[0].tolist(), accumulation]), Fraction(0))
    exact = min(top / sum((Fraction(x) for x in weight[0].tolist()), Fraction(0)), Fraction(hull))
    bound = Fraction(float(found.bound[0]))
    assert exact <= bound <= exact * (1 + Fraction(1, 10**12))
    parts = [Fraction(float(x[0])) for x in (found.key, found.value, found.arithmetic)]
    assert all(part >= 0 for part in parts)
    assert sum(parts, Fraction(0)) >= bound
    assert Fraction(float(found.denominator[0])) <= sum((Fraction(x) for x in weight[0].tolist()), Fraction(0))


def test_plain_numbers() -> None:
    found = evaluate()
    assert found.bound[0] == pytest.approx(0.9375 / 0.75, rel=1e-12)
    assert found.key[0] == pytest.approx(0.5, rel=1e-12)
    assert found.value[0] == pytest.approx(0.125 / 0.75, rel=1e-12)
    assert found.key_gain.tolist() == [[0.25, 0.5]]
    assert found.value_gain.tolist() == [[0.125, 0.0]]
    assert found.weight.tolist() == [[0.25, 0.5]]


def test_the_smallest_of_what_is_proved() -> None:
    assert evaluate(hull_ub=np.array([0.5])).bound[0] == 0.5
    assert evaluate(sharper_ub=np.array([0.75])).bound[0] == 0.75
    assert evaluate(sharper_ub=np.array([np.nan])).bound[0] == evaluate().bound[0]
    assert evaluate(sharper_ub=np.array([9.0])).bound[0] == evaluate().bound[0]
    cut = evaluate(hull_ub=np.array([0.25]))
    assert cut.key[0] == 0.25, "parts are cut to the bound"
    assert cut.key[0] + cut.value[0] + cut.arithmetic[0] >= 0.25


@pytest.mark.parametrize("name", ["key_terms", "value_terms", "weight_lb"])
def test_unknown_terms_leave_the_hull(name: str) -> None:
    bad = np.array([[np.nan, 0.5]])
    assert evaluate(**{name: bad}).bound[0] == 8.0
    assert evaluate(accumulation_ub=np.array([np.nan])).bound[0] == 8.0
    assert evaluate(hull_ub=np.array([np.inf]), **{name: bad}).bound[0] == np.inf
    infinite = evaluate(hull_ub=np.array([np.inf]), **{name: bad})
    assert not np.isnan([infinite.key[0], infinite.value[0], infinite.arithmetic[0]]).any()


def test_no_weight_left() -> None:
    """A denominator that underflow could have raised counts as 0: only the hull is left."""
    for weight in (0.0, LOST_TO_UNDERFLOW / 4):
        found = evaluate(weight_lb=np.full((1, 2), weight))
        assert found.denominator[0] == 0.0
        assert found.bound[0] == 8.0
    assert evaluate(weight_lb=np.full((1, 2), LOST_TO_UNDERFLOW), hull_ub=np.array([np.inf])).bound[0] < np.inf
    nothing = evaluate(weight_lb=np.zeros((1, 2)), value_terms=np.zeros((1, 2)))
    assert nothing.value[0] == 0.0, "what is not coded has no part"


@given(rows, st.integers(0, 39), st.floats(0.0, 1.0), st.floats(1.0, 2.0))
def test_better_terms_never_raise_the_bound(
    blocks: list[tuple[float, ...]], which: int, less: float, more: float
) -> None:
    """Exactly so in floating point: every operation is a correctly rounded monotone one, in a fixed order."""
    key, value, weight, _ = np.array(blocks).T[:, None]
    which %= key.shape[1]
    plain = {"key_terms": key, "pure_key_terms": key, "value_terms": value, "weight_lb": weight}
    before = evaluate(**plain, hull_ub=np.array([np.inf])).bound[0]
    for name, factor in (("key_terms", less), ("value_terms", less), ("weight_lb", more)):
        better = plain[name].copy()
        better[0, which] *= factor
        assert evaluate(**(plain | {name: better}), hull_ub=np.array([np.inf])).bound[0] <= before


def test_over() -> None:
    ratio = over(np.array([0.0, 1.0, np.inf, 0.0, 1.0]), np.array([0.0, 0.0, np.inf, 1.0, 2.0]))
    assert ratio.tolist() == [np.inf, np.inf, np.inf, 0.0, 0.5]
