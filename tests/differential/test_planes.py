"""Caches and steps with refinement planes against the reference's, under any events; and the comparison can fail."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .planes_machine import PlanesCacheMachine, PlanesStepMachine


def run(machine: Any, examples: int, steps: int) -> None:
    """Drive so many histories of up to so many events; the same ones every time."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_caches_are_the_same_under_any_events() -> None:
    run(PlanesCacheMachine, 40, 15)


def test_every_output_is_within_its_bound_under_any_events() -> None:
    run(PlanesStepMachine, 80, 25)
