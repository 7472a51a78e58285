"""The numbers behind the plots and the tables under them, taken from the judged head-steps and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from certkv.cli.measure import HeadStep, PolicyRun
from certkv.cli.summary import NAN
from certkv.reference.numbers.types import FloatArray

PARTS = ("key", "value", "arithmetic")


def positive(x: float) -> bool:
    """Whether a number has a place on a logarithmic axis."""
    return 0 < x < math.inf


def drawn(run: PolicyRun) -> list[HeadStep]:
    """Return the head-steps with quantized blocks, and every violation: of the rest, only rounding is known."""
    return [step for step in run.steps if step.quantized or step.violated]


def pairs(steps: Iterable[HeadStep], limit: Callable[[HeadStep], float]) -> FloatArray:
    """Return error and limit of the head-steps where both are positive and finite, float64 [2, n]."""
    found = [(step.error, limit(step)) for step in steps if positive(step.error) and positive(limit(step))]
    return np.array(found, np.float64).reshape(-1, 2).T


def layers(run: PolicyRun) -> dict[int, list[HeadStep]]:
    """Return the head-steps of every layer, in ascending order of layers."""
    found: dict[int, list[HeadStep]] = {}
    for step in run.steps:
        found.setdefault(step.layer, []).append(step)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Grid:
    """One number per layer and head.

    Attributes
    ----------
    layers : tuple of int
        Numbers of the layers, one per row.
    cells : float64 [layers, heads]
        NaN where a layer has fewer heads than another.
    """

    layers: tuple[int, ...]
    cells: FloatArray


def grid(run: PolicyRun, figure: Callable[[Sequence[HeadStep]], float]) -> Grid:
    """Compute a figure from the head-steps of every head of every layer."""
    found: dict[tuple[int, int], list[HeadStep]] = {}
    for step in run.steps:
        found.setdefault((step.layer, step.head), []).append(step)
    numbers = tuple(sorted({layer for layer, _ in found}))
    cells = np.full((len(numbers), 1 + max((head for _, head in found), default=-1)), NAN)
    for (layer, head), steps in found.items():
        cells[numbers.index(layer), head] = figure(steps)
    return Grid(numbers, cells)


def mean_rung(steps: Sequence[HeadStep]) -> float:
    """Return the mean of the highest rungs taken."""
    return sum(step.rung for step in steps) / len(steps)


def host_share(steps: Sequence[HeadStep]) -> float:
    """Return the bytes needed from the originals over those of all originals seen."""
    return sum(step.host_bytes for step in steps) / sum(step.dense_bytes for step in steps)


def plane_share(steps: Sequence[HeadStep]) -> float:
    """Return the bytes of refinement planes that were read, wherever they lie, over those of all originals seen."""
    return sum(step.plane_bytes for step in steps) / sum(step.dense_bytes for step in steps)


def part_shares(steps: Iterable[HeadStep]) -> FloatArray:
    """Return the mean share of key, value and arithmetic in the sum of the three, float64 [3]; NaN where none is known.

    Only head-steps with quantized blocks count: in the others there is arithmetic alone.
    """
    shares = []
    for step in steps:
        parts = [getattr(step, part) for part in PARTS]
        if step.quantized and positive(total := sum(parts)):
            shares.append([part / total for part in parts])
    return np.mean(shares, axis=0) if shares else np.full(3, NAN)
