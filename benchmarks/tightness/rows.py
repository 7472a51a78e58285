"""Rows of the result file: many head-steps of one group under one policy, condensed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks import table
from benchmarks.tightness.cases import KEYS, Group
from benchmarks.tightness.measure import HeadStep, Setup


@dataclass(frozen=True)
class Row:
    """One row. Means of ratios are geometric and taken over head-steps in which quantized blocks took part.

    Attributes
    ----------
    run, commit, versions : str
        When (UTC), of which commit ("+": with changes), with what.
    source, head, tokens, head_dim, keys, values, block
        As in `Group`.
    policy, tolerance, relative_to
        As in `Setup`.
    head_steps, quantized, violations : int
    certificate, paper, block_terms : float
        Over the true error: mean; with ``_min`` and ``_max``. The last two only where nothing is promoted.
    paper_over_certificate : float
        Mean.
    bound_share : float
        Certificate over the median value norm, geometric mean.
    key_part, value_part : float
        Mean share of the bound.
    keys_promoted, values_promoted, read, read_max : float
        Shares of the blocks; bytes of originals read over dense bytes, mean and worst head-step.
    rounds_0 .. rounds_3, rung_3 : int
        Head-steps accepted after so many rounds of promotion; computed from the originals.
    """

    run: str
    commit: str
    versions: str
    source: str
    head: str
    tokens: int
    head_dim: int
    keys: str
    values: str
    block: int
    policy: str
    tolerance: float
    relative_to: str
    head_steps: int
    quantized: int
    violations: int
    certificate: float
    certificate_min: float
    certificate_max: float
    paper: float
    paper_min: float
    paper_max: float
    block_terms: float
    block_terms_min: float
    block_terms_max: float
    paper_over_certificate: float
    bound_share: float
    key_part: float
    value_part: float
    keys_promoted: float
    values_promoted: float
    read: float
    read_max: float
    rounds_0: int
    rounds_1: int
    rounds_2: int
    rounds_3: int
    rung_3: int


def geometric(ratios: Sequence[float]) -> float:
    """Geometric mean; NaN of nothing."""
    return math.exp(float(np.mean(np.log(ratios)))) if len(ratios) else math.nan


def condense(run: str, commit: str, versions: str, group: Group, setup: Setup, steps: Sequence[HeadStep]) -> Row:
    """Make the row of a group under one policy."""
    coded = [step for step in steps if step.quantized and step.error > 0.0]
    ratios = {
        "certificate": [step.bound / step.error for step in coded],
        "paper": [step.paper / step.error for step in coded],
        "block_terms": [step.block_terms / step.error for step in coded],
    }
    spread = {}
    for name, values in ratios.items():
        spread[name] = geometric(values)
        spread[f"{name}_min"] = min(values, default=math.nan)
        spread[f"{name}_max"] = max(values, default=math.nan)
    rounds = [step.rounds for step in steps]
    return Row(
        run=run,
        commit=commit,
        versions=versions,
        source=group.source,
        head=group.head,
        tokens=group.tokens,
        head_dim=group.head_dim,
        keys=KEYS,
        values=group.values,
        block=group.block,
        policy=setup.name,
        tolerance=setup.share,
        relative_to=setup.unit,
        head_steps=len(steps),
        quantized=len(coded),
        violations=sum(step.violated for step in steps),
        **spread,
        paper_over_certificate=geometric([step.paper / step.bound for step in coded]),
        bound_share=geometric([step.norm_share for step in coded]),
        key_part=_mean([step.key_share for step in coded]),
        value_part=_mean([step.value_share for step in coded]),
        keys_promoted=_mean([step.keys for step in steps]),
        values_promoted=_mean([step.values for step in steps]),
        read=_mean([step.read for step in steps]),
        read_max=max(step.read for step in steps),
        rounds_0=rounds.count(0),
        rounds_1=rounds.count(1),
        rounds_2=rounds.count(2),
        rounds_3=rounds.count(3),
        rung_3=rounds.count(-1),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def append(file: Path, rows: Iterable[Row]) -> None:
    """Append rows to a result file; see `table.append`."""
    table.append(file, Row, rows)


def last_run(file: Path) -> list[Row]:
    """Read the rows of the newest run."""
    return table.last_run(file, Row)
