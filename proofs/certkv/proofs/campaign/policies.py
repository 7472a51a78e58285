"""Random policies, over the whole range of every field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from certkv.reference import Budget, Naive, PaperPolicy, Policy
from certkv.reference.policies import RELATIVE_TO

T = TypeVar("T")

OUT_DTYPES = ("float64", "float32", "float16", "bfloat16")
TOLERANCES = (0.0, 1e-12, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 1.0, 10.0, 1e6, 1e30)


def one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one option, of any type."""
    return options[int(rng.integers(len(options)))]


def paper(rng: np.random.Generator) -> PaperPolicy:
    """Draw the paper's thresholds half of the time, anything allowed otherwise."""
    if rng.random() < 0.5:
        return PaperPolicy(value_budget=one_of(rng, (None, None, 0.02)), exploration=one_of(rng, (0.0, 0.0, 0.02)))
    k_min = one_of(rng, (1, 2, 4))
    return PaperPolicy(
        coverage=one_of(rng, (0.0, 0.5, 0.9, 0.995, 1.0)),
        k_min=k_min,
        k_max=k_min + one_of(rng, (0, 2, 126)),
        tail_threshold=one_of(rng, (0.0, 0.02, 0.5, 1.0)),
        expansion=one_of(rng, (1.0, 1.5, 2.0, 4.0)),
        value_tolerance=one_of(rng, (0.0, 1e-3, 0.05, 1e9)),
        value_budget=one_of(rng, (None, None, 0.0, 0.01, 1e6)),
        rank=one_of(rng, (1, 1, 2, 4)),
        guard=one_of(rng, (0.0, 1e-6, 1.0)),
        exploration=one_of(rng, (0.0, 0.02, 0.5, 1.0)),
        seed=int(rng.integers(2**32)),
    )


def budget(rng: np.random.Generator) -> Budget:
    """Any tolerance in any unit, any number of rounds."""
    return Budget(one_of(rng, TOLERANCES), one_of(rng, RELATIVE_TO), int(rng.integers(4)))


def draw_policies(rng: np.random.Generator, enclosed: bool) -> list[Policy]:
    """Naive, a paper policy and a budget; with enclosures also ``Budget(0)``, whose bound is all rounding."""
    drawn: list[Policy] = [Naive(), paper(rng), budget(rng)]
    return [*drawn, Budget(0.0)] if enclosed else drawn


def draw_out_dtype(rng: np.random.Generator) -> str:
    """Type of the output: mostly float64, whose bound is not drowned in the final rounding."""
    return str(rng.choice(OUT_DTYPES, p=[0.7, 0.1, 0.1, 0.1]))
