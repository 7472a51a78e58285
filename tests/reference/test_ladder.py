"""The ladder as a pure function: severity order, and NaN never accepted."""

from __future__ import annotations

import itertools
import math

import pytest

from certkv.reference.ladder import Action, Observation, next_action

NUMBERS = (0.0, 0.5, 1.0, math.inf, math.nan)


@pytest.mark.parametrize(
    ("finite", "present", "consistent", "ranked", "bounded"), list(itertools.product([False, True], repeat=5))
)
def test_every_observation(finite: bool, present: bool, consistent: bool, ranked: bool, bounded: bool) -> None:
    """All 32 x 50 observations against the order of severity, written out independently."""
    for bound, tolerance, rounds in itertools.product(NUMBERS, NUMBERS, (0, 1)):
        seen = Observation(
            finite=finite,
            originals_present=present,
            consistent=consistent,
            ranked=ranked,
            bounded=bounded,
            bound=bound,
            tolerance=tolerance,
            rounds_left=rounds,
        )
        action = next_action(seen)
        if not (finite and present):
            assert action is Action.ERROR
        elif not consistent:
            assert action is Action.DENSE
        elif not (ranked and bounded):
            assert action is Action.EXACT_HEAD
        elif tolerance > 0 and bound <= tolerance:
            assert action is Action.ACCEPT
        else:
            assert action is (Action.REFINE if rounds and tolerance > 0 else Action.EXACT_HEAD)


def test_accepts_only_what_is_proved() -> None:
    """No NaN, no zero tolerance, no bound above the tolerance is ever accepted."""
    for bound, tolerance in itertools.product(NUMBERS, NUMBERS):
        action = next_action(Observation(bound=bound, tolerance=tolerance))
        if math.isnan(bound) or math.isnan(tolerance) or tolerance == 0 or bound > tolerance:
            assert action is Action.EXACT_HEAD


def test_nothing_observed_is_accepted_only_without_a_tolerance() -> None:
    assert next_action(Observation()) is Action.ACCEPT
    assert next_action(Observation(tolerance=1.0)) is Action.EXACT_HEAD
