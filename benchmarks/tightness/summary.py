"""Rows joined to figures, and figures to text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.tightness.rows import Row


def pick(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Rows whose attributes have the wanted values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


@dataclass(frozen=True)
class Spread:
    """Geometric mean, smallest and largest of some head-steps' ratios."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.mean)} ({number(self.low)}..{number(self.high)})"


def spread(rows: Sequence[Row], name: str) -> Spread:
    """Join the spreads of several rows."""
    some = [row for row in rows if row.quantized and math.isfinite(getattr(row, name))]
    low = min((float(getattr(row, f"{name}_min")) for row in some), default=math.nan)
    high = max((float(getattr(row, f"{name}_max")) for row in some), default=math.nan)
    return Spread(geometric(some, name), low, high)


def geometric(rows: Sequence[Row], name: str) -> float:
    """Geometric mean over the head-steps of several rows."""
    weight = sum(row.quantized for row in rows)
    if not weight:
        return math.nan
    return math.exp(sum(row.quantized * math.log(getattr(row, name)) for row in rows) / weight)


def mean(rows: Sequence[Row], name: str, weight: str = "head_steps") -> float:
    """Arithmetic mean over the head-steps of several rows."""
    total = sum(getattr(row, weight) for row in rows)
    return sum(getattr(row, weight) * getattr(row, name) for row in rows) / total if total else math.nan


def number(x: float) -> str:
    """Three digits at most."""
    return "-" if math.isnan(x) else f"{x:.0f}" if x >= 20 else f"{x:.1f}"


def percent(x: float) -> str:
    """Two digits at most."""
    return "-" if math.isnan(x) else f"{100 * x:.1f}" if x < 0.1 else f"{100 * x:.0f}"


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Lay out a table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
