"""Counts of what happened, mergeable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

KINDS = ("quantized", "rounding", "cast")
"""What a bound is mostly made of: quantization; float64 rounding; or the output was rounded to 16 or 32 bits."""


@dataclass
class Ratio:
    """Error over bound of some head-steps, from proved *lower* limits of the error: what was attained at least."""

    largest: float = 0.0
    where: str = ""
    log_sum: float = 0.0
    positive: int = 0

    def add(self, value: float, where: str) -> None:
        """Count one head-step."""
        if value > self.largest:
            self.largest, self.where = value, where
        if value > 0.0:
            self.log_sum += math.log(value)
            self.positive += 1

    def merge(self, other: Ratio) -> None:
        """Add another's counts."""
        if other.largest > self.largest:
            self.largest, self.where = other.largest, other.where
        self.log_sum += other.log_sum
        self.positive += other.positive

    @property
    def mean(self) -> float:
        """Geometric mean of the positive ratios; NaN for none."""
        return math.exp(self.log_sum / self.positive) if self.positive else math.nan


@dataclass
class Tally:
    """Counts over head-steps: one query head of one step under one policy.

    Attributes
    ----------
    head_steps, long_steps, very_long_steps : int
        All; those with N >= 1,024 and d >= 64; those with N >= 16,384.
    enclosed : int
        Judged by an enclosure.
    undecided : list of str
        Judged, and neither a violation nor proved to be within the bound; one line each.
    infinite : int
        Bound is ``+inf``: nothing is claimed.
    violations, breaks, warnings : list of str
        One line each, with the command that repeats it: a bound too small; any other promise broken; a warning that
        escaped from the reference, which no finite input should cause.
    least_tokens, most_tokens : int
        Tokens seen by a query.
    cases : int
        Cases that these counts are of.
    seconds : float
        Processor time that they took.
    rungs : list of int
        Head-steps per rung, 0 to 4.
    promoted : list of int
        Head-steps that promoted nothing, keys only, values only, both.
    ratios : dict
        A `Ratio` for each of `KINDS`.
    """

    head_steps: int = 0
    long_steps: int = 0
    very_long_steps: int = 0
    enclosed: int = 0
    infinite: int = 0
    undecided: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    least_tokens: int = 2**62
    most_tokens: int = 0
    cases: int = 0
    seconds: float = 0.0
    promoted: list[int] = field(default_factory=lambda: [0] * 4)
    rungs: list[int] = field(default_factory=lambda: [0] * 5)
    ratios: dict[str, Ratio] = field(default_factory=lambda: {kind: Ratio() for kind in KINDS})

    def merge(self, other: Tally) -> None:
        """Add another's counts."""
        for name in ("head_steps", "long_steps", "very_long_steps", "enclosed", "infinite", "cases", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.undecided += other.undecided
        self.violations += other.violations
        self.breaks += other.breaks
        self.warnings += other.warnings
        self.least_tokens = min(self.least_tokens, other.least_tokens)
        self.most_tokens = max(self.most_tokens, other.most_tokens)
        self.promoted = [a + b for a, b in zip(self.promoted, other.promoted, strict=True)]
        self.rungs = [a + b for a, b in zip(self.rungs, other.rungs, strict=True)]
        for kind in KINDS:
            self.ratios[kind].merge(other.ratios[kind])
