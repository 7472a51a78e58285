"""A policy's run in a few numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from certkv.cli.measure import HeadStep, PolicyRun

NAN = float("nan")


@dataclass(frozen=True)
class Spread:
    """Geometric mean, smallest and largest of positive finite numbers; NaN where there are none."""

    geomean: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        """Summarise; zeros, infinities and NaN are left out."""
        x = np.array([n for n in numbers if 0 < n < np.inf], np.float64)
        if not x.size:
            return cls(NAN, NAN, NAN)
        return cls(float(np.exp(np.log(x).mean())), float(x.min()), float(x.max()))


@dataclass(frozen=True)
class Summary:
    """What the table shows of one policy. Errors and bounds in the units of V, bytes per token and KV head.

    Attributes
    ----------
    heads : int
        Head-steps: queries times query heads, over all layers.
    violations, paper_violations : int
        Head-steps whose error provably exceeds the bound; the paper's claim.
    by_enclosure : int
        Head-steps that interval arithmetic judged, because float64 could not decide.
    undecided : int
        Head-steps that interval arithmetic could not decide either: no violation was seen, which means nothing.
    quantized : int
        Head-steps in which coded keys or values took part. The rest was computed from originals alone.
    error, bound, relative_bound, tightness, paper_tightness : Spread
        Over the quantized head-steps: the true error; the bound; bound over the output's norm; bound over error; the
        paper's claim over error.
    originals_bound : float
        Largest bound of the other head-steps: rounding alone. NaN where there are none.
    infinite_bounds, infinite_claims : int
    rungs : tuple of 5 int
        Head-steps per highest rung, 0 to 4.
    within_tolerance : int or None
        Head-steps with ``bound <= tolerance``; None where the policy enforces none.
    unmet : int
        Head-steps that neither meet the tolerance nor came from the originals (rung 3 or 4): always 0.
    promoted_keys, promoted_values : float
        Share of the coded blocks read as originals.
    refined_keys, refined_values : float
        Share of the coded blocks used at a level between base plane and original.
    levels : (tuple of float, tuple of float)
        Share of the coded blocks of keys, and of values, used at each level above the base plane, originals last.
    host_share : float
        Bytes needed from the host tier over the bytes of all originals seen.
    plane_share : float
        Bytes of refinement planes that were read, wherever they lie, over the same.
    coded_bytes, device_bytes, plane_bytes, dense_bytes : float
        Of a coded token; of all that is kept on the device, and of planes wherever they lie, per token; of a 16-bit
        token.
    """

    heads: int
    violations: int
    paper_violations: int
    by_enclosure: int
    undecided: int
    quantized: int
    error: Spread
    bound: Spread
    relative_bound: Spread
    tightness: Spread
    paper_tightness: Spread
    originals_bound: float
    infinite_bounds: int
    infinite_claims: int
    rungs: tuple[int, int, int, int, int]
    within_tolerance: int | None
    unmet: int
    promoted_keys: float
    promoted_values: float
    refined_keys: float
    refined_values: float
    levels: tuple[tuple[float, ...], tuple[float, ...]]
    host_share: float
    plane_share: float
    coded_bytes: float
    device_bytes: float
    plane_bytes: float
    dense_bytes: float


def summarise(run: PolicyRun) -> Summary:
    """Summarise one policy's run over all layers."""
    steps = run.steps
    rungs = Counter(step.rung for step in steps)
    blocks = sum(step.blocks for step in steps)
    enforced = [step for step in steps if step.tolerance < np.inf]
    met = [step for step in enforced if step.bound <= step.tolerance]
    coded = [step for step in steps if step.quantized]
    tokens = sum(s.tokens for s in run.storage)
    return Summary(
        heads=len(steps),
        violations=sum(step.violated for step in steps),
        paper_violations=sum(step.paper_violated for step in steps),
        undecided=sum(step.judged_by == "undecided" for step in steps),
        by_enclosure=sum(step.judged_by == "enclosure" for step in steps),
        quantized=len(coded),
        error=Spread.of(step.error for step in coded),
        bound=Spread.of(step.bound for step in coded),
        relative_bound=Spread.of(step.bound / step.output_norm for step in coded if step.output_norm > 0),
        tightness=Spread.of(step.bound / step.error for step in coded if step.error > 0),
        paper_tightness=Spread.of(step.paper_bound / step.error for step in coded if step.error > 0),
        originals_bound=max((step.bound for step in steps if not step.quantized), default=NAN),
        infinite_bounds=sum(not step.bound < np.inf for step in steps),
        infinite_claims=sum(not step.paper_bound < np.inf for step in steps),
        rungs=(rungs[0], rungs[1], rungs[2], rungs[3], rungs[4]),
        within_tolerance=len(met) if enforced else None,
        unmet=sum(step.rung < 3 and not step.bound <= step.tolerance for step in enforced),
        promoted_keys=sum(step.promoted[0] for step in steps) / blocks if blocks else 0.0,
        promoted_values=sum(step.promoted[1] for step in steps) / blocks if blocks else 0.0,
        refined_keys=sum(sum(step.levels[0][:-1]) for step in steps) / blocks if blocks else 0.0,
        refined_values=sum(sum(step.levels[1][:-1]) for step in steps) / blocks if blocks else 0.0,
        levels=(_levels(steps, 0, blocks), _levels(steps, 1, blocks)),
        host_share=sum(step.host_bytes for step in steps) / sum(step.dense_bytes for step in steps),
        plane_share=sum(step.plane_bytes for step in steps) / sum(step.dense_bytes for step in steps),
        coded_bytes=sum(s.coded_bytes_per_token * s.tokens for s in run.storage) / tokens,
        device_bytes=sum(s.device_bytes for s in run.storage) / tokens,
        plane_bytes=sum(s.plane_bytes for s in run.storage) / tokens,
        dense_bytes=sum(s.dense_bytes for s in run.storage) / tokens,
    )


def _levels(steps: Sequence[HeadStep], side: int, blocks: int) -> tuple[float, ...]:
    counts = [sum(column) for column in zip(*(step.levels[side] for step in steps), strict=True)]
    return tuple(count / blocks if blocks else 0.0 for count in counts)
