"""What a certificate says of these formats, and what a tolerance costs with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.oscar.finding import BLOCK
from benchmarks.oscar.sources import Source

from certkv.reference.cache import Cache
from certkv.reference.exact.judge import judge
from certkv.reference.policies import Budget, Naive, Policy
from certkv.reference.step import decode

TOLERANCES = (math.inf, 0.02, 0.05, 0.10)
"""Of the value norm; infinite: nothing is enforced and nothing promoted."""


@dataclass(frozen=True)
class Promise:
    """One source, one pair of formats, one tolerance.

    Attributes
    ----------
    source, name : str
    tokens, head_dim : int
    keys, values : str
    tolerance : float
        Share of the mass-weighted value norm; infinite where nothing is enforced.
    head_steps, violations : int
    ratio, ratio_min, ratio_max : float
        Bound over true error: geometric mean and extremes, where coded blocks took part.
    error_share, bound_share : float
        True error and bound over the mean norm of the values seen, geometric means of the same head-steps.
    key_part : float
        Mean share of the key terms in the bound.
    keys_promoted, values_promoted : float
        Mean shares of the coded blocks.
    read : float
        Bytes of originals (and planes) read over those of all 16-bit keys and values seen, mean.
    rung_3 : float
        Share of head-steps computed from the originals.
    """

    source: str
    name: str
    tokens: int
    head_dim: int
    keys: str
    values: str
    tolerance: float
    head_steps: int
    violations: int
    ratio: float
    ratio_min: float
    ratio_max: float
    error_share: float
    bound_share: float
    key_part: float
    keys_promoted: float
    values_promoted: float
    read: float
    rung_3: float


@dataclass(frozen=True)
class HeadStep:
    """One query head at one step, as shares where `Promise` has means."""

    bound: float
    error: float
    norm: float
    violated: bool
    key_part: float
    promoted: tuple[float, float]
    read: float
    rung: int


def promises(source: Source, name: str, keys: str, values: str) -> Iterator[Promise]:
    """Run every query under every tolerance and judge it."""
    kv_heads, head_dim = source.k.shape[1:]
    settings = {"kv_heads": kv_heads, "head_dim": head_dim, "block": BLOCK}
    cache = Cache(**settings, dtype=source.k.dtype, keys=keys, values=values)
    cache.append(source.k, source.v)
    for tolerance in TOLERANCES:
        policy: Policy = Naive() if tolerance == math.inf else Budget(tolerance)
        steps = list(head_steps(source, cache, policy))
        yield condense(Promise, source, name, keys, values, tolerance, steps)


def head_steps(source: Source, cache: Cache, policy: Policy) -> Iterator[HeadStep]:
    """Decode every query, judge every head."""
    size = source.q.shape[1] // cache.kv_heads
    for q, position in zip(source.q, source.positions, strict=True):
        seen = len(source.k) if position is None else position + 1
        step = decode(q, cache, policy, scale=source.scale, position=position)
        certificate = step.certificate
        dense = 2 * seen * cache.head_dim * source.k.dtype.itemsize
        for j in range(cache.kv_heads):
            mine = np.arange(j * size, (j + 1) * size)
            k, v = source.k[:seen, j], source.v[:seen, j]
            norm = float(np.linalg.norm(v.astype(np.float64), axis=-1).mean())
            verdicts = judge(step.output[mine], certificate.bound[mine], q[mine], k, v, source.scale)
            for head, verdict in zip(mine, verdicts, strict=True):
                promoted = certificate.promoted[head] / max(seen // cache.block, 1)
                yield HeadStep(
                    bound=float(certificate.bound[head]),
                    error=verdict.error_ub,
                    norm=norm,
                    violated=verdict.violated,
                    key_part=float(certificate.key[head] / certificate.bound[head]),
                    promoted=(float(promoted[0]), float(promoted[1])),
                    read=float(certificate.host_bytes[head] / dense),
                    rung=int(certificate.rung[head]),
                )


def condense(
    row: type[Promise],
    source: Source,
    name: str,
    keys: str,
    values: str,
    tolerance: float,
    steps: Sequence[HeadStep],
) -> Promise:
    """Make a row of many head-steps."""
    coded = [step for step in steps if step.rung < 3 and step.error > 0.0]
    ratios = [step.bound / step.error for step in coded]
    return row(
        source=source.kind,
        name=name,
        tokens=len(source.k),
        head_dim=source.k.shape[2],
        keys=keys,
        values=values,
        tolerance=tolerance,
        head_steps=len(steps),
        violations=sum(step.violated for step in steps),
        ratio=geometric(ratios),
        ratio_min=min(ratios, default=math.nan),
        ratio_max=max(ratios, default=math.nan),
        error_share=geometric([step.error / step.norm for step in coded]),
        bound_share=geometric([step.bound / step.norm for step in coded]),
        key_part=float(np.mean([step.key_part for step in coded])) if coded else math.nan,
        keys_promoted=float(np.mean([step.promoted[0] for step in steps])),
        values_promoted=float(np.mean([step.promoted[1] for step in steps])),
        read=float(np.mean([step.read for step in steps])),
        rung_3=float(np.mean([step.rung >= 3 for step in steps])),
    )


def geometric(numbers: Sequence[float]) -> float:
    """Geometric mean; NaN of nothing."""
    return math.exp(float(np.mean(np.log(numbers)))) if numbers else math.nan
