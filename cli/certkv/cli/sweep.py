"""What a budget reads at other tolerances: the same queries, run again without computing any truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from certkv.cli.backends.base import Backend, Formats
from certkv.cli.backends.reference import ReferenceBackend
from certkv.cli.capture import Capture
from certkv.cli.measure import PolicyRun, Tick, head_steps
from certkv.reference import Budget, Policy

SHARES = (0.01, 0.02, 0.05, 0.1)
"""Tolerances relative to the values or to the output."""

FACTORS = (0.2, 0.4, 1.0, 2.0)
"""Absolute tolerances, as multiples of the one that was asked for: only the user knows the units."""


@dataclass
class Reading:
    """What all head-steps of a capture needed from the originals at one tolerance.

    Attributes
    ----------
    budget : Budget
    rungs : list of 5 int
        Head-steps per highest rung, 0 to 4.
    block_bytes, head_bytes : int
        Bytes needed from the host tier by heads that promoted blocks; by heads computed from the originals (rung 3, 4).
    dense_bytes : int
        Bytes of all the originals that were seen.
    """

    budget: Budget
    rungs: list[int] = field(default_factory=lambda: [0] * 5)
    block_bytes: int = 0
    head_bytes: int = 0
    dense_bytes: int = 0

    def add(self, rung: int, host_bytes: int, dense_bytes: int) -> None:
        """Count one head at one step."""
        self.rungs[rung] += 1
        if rung < 3:
            self.block_bytes += host_bytes
        else:
            self.head_bytes += host_bytes
        self.dense_bytes += dense_bytes

    @property
    def block_share(self) -> float:
        """Share of the originals that was read as promoted blocks."""
        return self.block_bytes / self.dense_bytes

    @property
    def head_share(self) -> float:
        """Share of the originals that was read for whole heads."""
        return self.head_bytes / self.dense_bytes

    @property
    def share(self) -> float:
        """Share of the originals that was read."""
        return (self.block_bytes + self.head_bytes) / self.dense_bytes


def asked_budget(policies: Sequence[Policy]) -> Budget:
    """Return the budget among the policies; the default one where there is none."""
    return next((policy for policy in policies if isinstance(policy, Budget)), Budget())


def tolerances(budget: Budget) -> list[Budget]:
    """Return the budget at a few tolerances in its own unit, the one it has among them, in ascending order."""
    if budget.relative_to == "absolute":
        wanted = {factor * budget.tolerance for factor in FACTORS}
    else:
        wanted = {*SHARES, budget.tolerance}
    return [dataclasses.replace(budget, tolerance=t) for t in sorted(wanted) if math.isfinite(t)]


def missing(budgets: Sequence[Budget], policies: Sequence[Policy]) -> list[Budget]:
    """Return the budgets that are not among the policies, and so have to be run."""
    return [budget for budget in budgets if budget not in policies]


def sweep(
    capture: Capture, budgets: Sequence[Budget], formats: Formats, tick: Tick, backend: Backend | None = None
) -> list[Reading]:
    """Run every query at every tolerance. Nothing is judged.

    Parameters
    ----------
    capture : Capture
    budgets : sequence of Budget
    formats : Formats
    tick : callable
        Progress.
    backend : Backend or None
        What computes; None for the reference.

    Returns
    -------
    list of Reading
        In the order of ``budgets``.
    """
    chosen = ReferenceBackend() if backend is None else backend
    readings = [Reading(budget) for budget in budgets]
    for layer in capture.layers if readings else ():
        tick(f"layer {layer.index}, encoding", 0)
        held = chosen.hold(layer, chosen.formats(budgets[0], formats))
        for which, query, step in held.steps(budgets):
            certificate = step.certificate
            for rung, host_bytes in zip(certificate.rung, certificate.host_bytes, strict=True):
                readings[which].add(int(rung), int(host_bytes), layer.seen_bytes(query))
            tick(f"layer {layer.index}, tolerance {budgets[which].tolerance:g}", len(certificate.rung))
    return readings


def readings_of(runs: Sequence[PolicyRun]) -> list[Reading]:
    """Read the same figures off the budgets that were run and judged."""
    found = []
    for run in runs:
        if isinstance(run.policy, Budget):
            reading = Reading(run.policy)
            for step in run.steps:
                reading.add(step.rung, step.host_bytes, step.dense_bytes)
            found.append(reading)
    return found


def sweep_size(capture: Capture, budgets: Sequence[Budget]) -> int:
    """Return the head-steps that `sweep` takes, for the progress bar."""
    return len(budgets) * head_steps(capture)
