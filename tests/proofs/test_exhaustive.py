"""Every exhaustive fact holds, every broken variant fails, and the definitions they compare with are right."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certkv.proofs.exhaustive import FACTS, Exhaustive
from certkv.proofs.exhaustive.conversions import by_integers
from certkv.proofs.exhaustive.model import CheckFailed, require_all, require_equal
from certkv.proofs.exhaustive.sixteen import TYPES, ascending, finite, positive
from certkv.proofs.lemmas import all_lemmas
from certkv.proofs.verify.finding import Task
from certkv.proofs.verify.run import run_task
from certkv.proofs.verify.tasks import must_fail
from certkv.reference.numbers import FloatType

facts = pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)


@facts
def test_it_holds(fact: Exhaustive) -> None:
    fact.run()


@facts
def test_its_broken_variant_fails(fact: Exhaustive) -> None:
    with pytest.raises(CheckFailed, match=r"\d"):
        fact.broken()


def test_ids() -> None:
    ids = [fact.id for fact in FACTS]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {lemma.id for lemma in all_lemmas()}  # one table shows both
    for fact in FACTS:
        assert fact.id.startswith(f"{fact.theorem}.")
        assert fact.statement
    stems = {"packing", "affine", "rounding", "operator_norm", "log_codes", "rotation", "oscar_element", "planes"}
    assert {fact.theorem for fact in FACTS} == stems


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_all_numbers_are_there(ft: FloatType) -> None:
    # both zeros, and all patterns but those of one exponent, in both signs
    numbers, exact = finite(ft)
    assert len(numbers) == 65536 - 2**ft.precision
    assert np.array_equal(numbers.astype(np.float64), exact)
    assert np.array_equal(np.signbit(numbers), np.signbit(exact))
    assert len(ascending(ft)) == len(numbers) - 1
    assert positive(ft)[0] == ft.smallest_subnormal
    assert positive(ft)[-1] == ft.max


def by_fractions(x: float, ft: FloatType, direction: str) -> float:
    """Round by rational arithmetic; no integers of numpy, no bits."""
    if x == 0:
        return x
    quantum = Fraction(2) ** max(math.frexp(x)[1] - ft.precision, round(math.log2(ft.smallest_subnormal)))
    steps = Fraction(x) / quantum
    whole = {"nearest": round(steps), "up": math.ceil(steps), "down": math.floor(steps)}[direction]
    result = float(whole * quantum)
    if abs(result) <= ft.max:
        return math.copysign(result, x)
    away = direction == "nearest" or (direction == "up") == (x > 0)
    return math.copysign(math.inf if away else ft.max, x)


@pytest.mark.parametrize("direction", ["nearest", "up", "down"])
@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@given(x=st.floats(allow_nan=False, allow_infinity=False, width=64) | st.floats(-1e-36, 1e-36))
@example(x=-0.0)
@example(x=5e-324)
@example(x=-65519.99999999999)
def test_definition_in_integers(ft: FloatType, direction: str, x: float) -> None:
    got = float(by_integers(np.array([x]), ft, direction)[0])
    wanted = by_fractions(x, ft, direction)
    assert (got, math.copysign(1, got)) == (wanted, math.copysign(1, wanted))


def test_a_failure_shows_its_first_case() -> None:
    x = np.arange(5)
    require_all(x < 5, "small", x=x)
    with pytest.raises(CheckFailed, match=r"small: x = 3, y = 0\.5; 2 of 5 cases fail"):
        require_all(x < 3, "small", x=x, y=np.array(0.5))
    with pytest.raises(CheckFailed, match=r"x = 1; 1 of 4 cases fail"):
        require_all(np.array([[True, True], [False, True]]), "rows", x=np.array([[0], [1]]))


def test_a_check_of_nothing_is_refused() -> None:
    """Neither held nor noticed: a ``CheckFailed`` would pass for a planted mistake that was found."""
    for nothing in (np.zeros(0, bool), np.zeros((3, 0), bool)):
        with pytest.raises(ValueError, match="small: no case to check"):
            require_all(nothing, "small")
    with pytest.raises(ValueError, match="no case"):
        require_equal(np.zeros(0), np.zeros(0), "same")
    planted = must_fail(lambda: require_all(np.zeros(0, bool), "small"), "every case")
    assert not run_task(Task("x!", "affine", "exhaustive", "", True, planted)).ok


def test_equality_minds_signs_and_nan() -> None:
    require_equal(np.array([1.0, np.nan, -0.0]), np.array([1.0, np.nan, -0.0]), "same")
    for other in ([1.0, np.nan, 0.0], [1.0, 2.0, -0.0], [np.nan, np.nan, -0.0]):
        with pytest.raises(CheckFailed, match="1 of 3 cases fail"):
            require_equal(np.array(other), np.array([1.0, np.nan, -0.0]), "same")
