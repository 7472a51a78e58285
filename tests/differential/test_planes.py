"""Caches and steps with refinement planes against the reference's, under any events; and the comparison can fail."""

from __future__ import annotations

from .histories import run
from .planes_machine import PlanesCacheMachine, PlanesStepMachine


def test_caches_are_the_same_under_any_events() -> None:
    run(PlanesCacheMachine, 40, 15)


def test_every_output_is_within_its_bound_under_any_events() -> None:
    run(PlanesStepMachine, 80, 25)
