"""What every step must keep besides its bound; each check returns lines that say what broke."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np

from certkv.reference import Budget, Cache, Certificate, Naive, PaperPolicy, Policy, Status, Step
from certkv.reference.cache import Side
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray, IntArray

Findings = list[str]

FIELDS = tuple(field.name for field in fields(Certificate))


def failing(holds: BoolArray | np.bool_, what: str) -> Findings:
    """One line naming the first head for which something does not hold."""
    broken = np.flatnonzero(~np.asarray(holds))
    return [f"head {int(broken[0])} (and {broken.size - 1} more): {what}"] if broken.size else []


def check_numbers(step: Step) -> Findings:
    """No NaN anywhere, parts that cover the bound, an output that is not finite only under an infinite bound."""
    c = step.certificate
    parts = np.stack([c.key, c.value, c.arithmetic])
    unbounded = np.isinf(c.bound)
    output = step.output.astype(np.float64)
    return [
        *failing(c.status == int(Status.OK), "status is not OK"),
        *failing(~np.isnan(output).any(axis=-1), "output is NaN"),
        *failing(np.isfinite(output).all(axis=-1) | unbounded, "output is infinite under a finite bound"),
        *failing(np.isfinite(step.lse), "lse is not finite"),
        *failing(c.bound >= 0, "bound is negative or NaN"),
        *failing((parts >= 0).all(axis=0), "a part of the bound is negative or NaN"),
        *failing(c.key + c.value + c.arithmetic >= c.bound, "key + value + arithmetic < bound"),
        *failing((c.key <= c.bound) & (c.value <= c.bound), "a part exceeds the bound"),
    ]


def check_tolerance(step: Step, policy: Policy, values: AnyArray, ratio: int) -> Findings:
    """Under a budget ``bound <= tolerance`` or the rung is at least 3, and the tolerance is what was asked for."""
    c = step.certificate
    if not isinstance(policy, Budget):
        return failing(np.isposinf(c.tolerance), "a policy without tolerance reports one")
    t = policy.tolerance
    met = (c.bound <= c.tolerance) & (c.tolerance > 0)
    limit: FloatArray
    if policy.relative_to == "absolute":
        limit = np.full(len(c.bound), t)
    elif policy.relative_to == "output":
        # of the quantized pass, so comparable only where that pass was accepted
        with np.errstate(invalid="ignore"):  # 0 * inf for an output beyond its type, which is not accepted
            reported = t / (1.0 + t) * norm_ub(step.output.astype(np.float64))
        limit = np.where(c.rung < 3, reported, np.inf)
    else:
        # a weighted mean of norms is at most the largest norm
        limit = t * np.repeat(norm_ub(values.astype(np.float64)).max(axis=0), ratio) * (1.0 + 2.0**-40)
    return [
        *failing(met | (c.rung >= 3), "bound > tolerance below rung 3"),
        *failing(c.tolerance <= limit, "tolerance is larger than what was asked for"),
        *failing(np.isfinite(c.tolerance) & (c.tolerance >= 0), "tolerance is not a finite number"),
    ]


def check_promotion(step: Step, policy: Policy, cache: Cache, blocks: int) -> Findings:
    """Promoted blocks, levels, rung and bytes tell the same story."""
    c = step.certificate
    pinned = min(1, blocks) if isinstance(policy, Budget) else 0
    block_bytes = cache.block * cache.head_dim * cache.dtype.itemsize
    total = c.promoted.sum(axis=-1)
    whole = (c.promoted == blocks - pinned).all(axis=-1)
    findings = [
        *failing((c.rung >= 0) & (c.rung <= 4), "no such rung"),
        *failing((c.levels[..., -1] == c.promoted).all(axis=-1), "the last level is not what was promoted"),
        *failing(c.plane_bytes >= planes_in_use(step, cache), "planes that are in use were not paid for"),
        *failing(
            c.host_bytes == total * block_bytes + (c.plane_bytes if cache.planes.place == "host" else 0),
            "host_bytes is not promoted blocks times their size, and planes",
        ),
        *failing(((c.promoted >= 0) & (c.promoted <= blocks - pinned)).all(axis=-1), "more blocks promoted than exist"),
        *failing((c.levels.sum(axis=-1) <= blocks - pinned).all(axis=-1), "more blocks at levels than exist"),
        *failing(whole | (c.rung < 3), "rung 3 or 4 without all originals"),
    ]
    if isinstance(policy, Naive):
        findings += failing((c.rung == 0) & ~c.levels.any(axis=(1, 2)), "Naive promoted something")
    if isinstance(policy, PaperPolicy):
        findings += failing((c.promoted[:, 1] > 0) == (c.rung >= 2) if blocks else c.rung >= 0, "rung 2 misreported")
    if isinstance(policy, Budget):
        keys, values = c.levels[:, 0].any(axis=-1), c.levels[:, 1].any(axis=-1)
        told = np.where(values, 2, np.where(keys, 1, 0))
        findings += failing((c.rung >= 3) | (c.rung == told), "rung does not follow from what was promoted")
    return findings + check_moved(step, cache, block_bytes)


def planes_in_use(step: Step, cache: Cache) -> IntArray:
    """Bytes of the planes of blocks that are used at a level between base plane and original, per head."""
    levels = step.certificate.levels
    total = np.zeros(len(levels), np.int64)
    sides: tuple[Side, Side] = ("keys", "values")
    for side, used in zip(sides, levels.swapaxes(0, 1), strict=True):
        for level, size in enumerate(np.cumsum(cache.plane_bytes(side)).tolist()):
            total += size * used[:, level]
    return total


def check_moved(step: Step, cache: Cache, block_bytes: int) -> Findings:
    """Bytes moved are blocks and planes, and without scratch at least what the neediest head of each KV head needed."""
    needed = int(step.certificate.host_bytes.reshape(cache.kv_heads, -1).max(axis=-1).sum())
    findings = []
    unit = math.gcd(block_bytes, *cache.plane_bytes("keys"), *cache.plane_bytes("values"))
    if step.moved_bytes < 0 or step.moved_bytes % unit:
        findings.append(f"moved_bytes={step.moved_bytes} is no number of blocks and planes")
    if cache.scratch.bytes == 0 and step.moved_bytes < needed:
        findings.append(f"moved_bytes={step.moved_bytes}, but heads needed {needed} and there is no scratch")
    return findings


def check_relative(step: Step, policy: Policy, error_lb: FloatArray, truth_norm_ub: FloatArray) -> Findings:
    """``Budget(t, "output")`` promises ``error <= t ||exact||`` where the tolerance was met."""
    if not (isinstance(policy, Budget) and policy.relative_to == "output"):
        return []
    met = (step.certificate.bound <= step.certificate.tolerance) & (step.certificate.rung < 3)
    with np.errstate(invalid="ignore"):  # as above
        kept = error_lb <= policy.tolerance * truth_norm_ub
    return failing(~met | kept, "error > t ||exact|| under a met budget")


def check_same(first: Step, again: Step) -> Findings:
    """Compare a step and its repetition: the same bits in everything but the bytes moved."""
    pairs = {name: (getattr(first.certificate, name), getattr(again.certificate, name)) for name in FIELDS}
    pairs |= {name: (getattr(first, name), getattr(again, name)) for name in ("output", "lse", "paper_bound")}
    return [f"repeated, {name} differs" for name, (a, b) in pairs.items() if a.tobytes() != b.tobytes()]
