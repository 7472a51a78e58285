"""What a format must be inside a cache: measured truly, encoded once, certified soundly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certkv.proofs.contract.recorder import CountingFormat
from certkv.proofs.mutants.model import CheckFailed, require
from certkv.proofs.userformat.adapter import Adapted, registered
from certkv.proofs.userformat.scenes import Scene, scenes
from certkv.proofs.userformat.storage_checks import exact_of
from certkv.proofs.userformat.subject import Subject, blaming, encode_decode
from certkv.reference import Budget, Cache, Naive, Policy, Step
from certkv.reference import step as step_module
from certkv.reference.cache import Side
from certkv.reference.cache import cache as cache_module
from certkv.reference.cache.cache import SIDES
from certkv.reference.exact import judge
from certkv.reference.numbers.types import AnyArray

MEASURE = vars(cache_module)
"""Looked up when called, so that it is what the cache itself would call."""

SUFFIX = " (under verification)"
"""Keeps the name apart from that of a registered format of the same class."""


def measured_truly(subject: Subject) -> str:
    """Compare every annotation with the true number, in rational arithmetic on the meaning."""
    fmt = subject.adapted()
    for corner in subject.corners:
        # two blocks at once, of different sizes, so that the numbers of one are wrong for the other
        x = np.stack([corner.block, (corner.block[::-1].astype(np.float64) / 2).astype(corner.block.dtype)])
        encoded, decoded = encode_decode(fmt, x, corner.name)
        require(bool(np.isfinite(decoded).all()), f"{corner.name}: what is decoded is not finite")
        anchor = x[0].astype(np.float64).mean(axis=0).astype(np.float32).astype(np.float64)
        with blaming(f"annotations of {corner.name}"):
            for side in sorted(fmt.kind):
                notes = (
                    MEASURE["annotate_keys"](x, encoded, fmt)
                    if side == "keys"
                    else MEASURE["annotate_values"](x, encoded, fmt, anchor)
                )
                for b in range(2):
                    exact = exact_of(fmt, encoded.take(b))
                    measured = {name: float(array[b]) for name, array in notes.arrays().items()}
                    _compare(f"{side} of {corner.name}", measured, x[b], exact, anchor, encoded.step[b])
    return f"{2 * len(subject.corners)} blocks"


def _compare(
    where: str, measured: dict[str, float], x: AnyArray, exact: AnyArray, anchor: AnyArray, step: AnyArray
) -> None:
    original = np.vectorize(lambda e: Fraction(float(e)), otypes=[object])(x)
    mu = np.array([Fraction(float(e)) for e in anchor], object)
    residual = original - exact
    truth = {
        "residual_norm_ub": _largest(residual),
        "norm_ub": _largest(original),
        "decoded_norm_ub": _largest(exact),
        "anchored_norm_ub": _largest(original - mu),
    }
    for name, square in truth.items():
        if name in measured:
            found = measured[name]
            require(not np.isnan(found), f"{where}: {name} is NaN")
            ok = np.isinf(found) or Fraction(found) ** 2 >= square
            require(ok, f"{where}: {name} is {found:.9e}, below the true {float(square) ** 0.5:.9e}")
    if "relative_max_ub" in measured and len(step) and np.isfinite(measured["relative_max_ub"]):
        allowed = [Fraction(measured["relative_max_ub"]) * Fraction(float(s)) for s in step]
        fits = all(abs(e) <= a for row in residual for e, a in zip(row, allowed, strict=True))
        require(fits, f"{where}: relative_max_ub is {measured['relative_max_ub']:.9e}, and a residual is larger")
    if "mean_norm_lb" in measured:
        # each norm is at least the mean's share: compare with the mean of exact norms through their float sum
        mean = sum(float(sum(e * e for e in row)) ** 0.5 for row in original) / len(original)
        # float norms and their sum are within 2^-40 for blocks of this size
        require(measured["mean_norm_lb"] <= mean * (1 + 2.0**-40), f"{where}: mean_norm_lb is above the mean norm")


def _largest(rows: AnyArray) -> Fraction:
    """Return the largest squared norm of the rows."""
    return max(sum((e * e for e in row), Fraction(0)) for row in rows)


@dataclass(frozen=True, eq=False)
class Setup:
    """A cache that holds a scene in the user's format on some sides, and ``dense`` on the others."""

    cache: Cache
    counts: dict[Side, CountingFormat]


@contextmanager
def setup(subject: Subject, scene: Scene, sides: frozenset[str]) -> Iterator[tuple[Adapted, Setup]]:
    """Make an empty cache for a scene, with every encoded block counted."""
    fmt = subject.adapted(SUFFIX)
    with registered(fmt) as name:
        cache = Cache(
            kv_heads=scene.k.shape[1],
            head_dim=scene.k.shape[2],
            dtype=scene.k.dtype,
            keys=name if "keys" in sides else "dense",
            values=name if "values" in sides else "dense",
            block=scene.block,
        )
        counts: dict[Side, CountingFormat] = {}
        for side in SIDES:
            if side in sides:
                counts[side] = CountingFormat(cache.format(side))
                cache._formats[side] = counts[side]
        yield fmt, Setup(cache, counts)


def side_choices(fmt: Adapted) -> list[frozenset[str]]:
    """Keys alone, values alone, and both, as far as the format is for them."""
    single = [frozenset({side}) for side in sorted(fmt.kind)]
    return [*single, fmt.kind] if len(single) > 1 else single


def encoded_once(subject: Subject) -> str:
    """Append in pieces of three sizes; count encodings, and compare what is decoded with that of one append."""
    fmt = subject.adapted()
    blocks = 0
    for scene in scenes(subject)[:2]:
        for sides in side_choices(fmt):
            with blaming(f"a cache with {scene.name}"), setup(subject, scene, sides) as (_, whole):
                whole.cache.append(scene.k, scene.v)
                wanted = {side: whole.cache.format(side).decode(whole.cache.encoded(side)) for side in SIDES}
            for piece in (1, scene.block - 1 or 1, scene.block + 1):
                with blaming(f"a cache with {scene.name}"), setup(subject, scene, sides) as (_, made):
                    cache = made.cache
                    for start in range(0, len(scene.k), piece):
                        cache.append(scene.k[start : start + piece], scene.v[start : start + piece])
                        for side in SIDES if cache.blocks else ():
                            decoded = cache.format(side).decode(cache.encoded(side))
                            kept = decoded.tobytes() == wanted[side][: cache.blocks].tobytes()
                            require(kept, f"{scene.name}: {side} changed, or depend on how the tokens arrived")
                    for counted, counting in made.counts.items():
                        found = len(counting.encoded)
                        due = cache.blocks * cache.kv_heads
                        require(found == due, f"{scene.name}: {found} blocks of {counted} encoded for {due}")
                    blocks += cache.blocks
    return f"{blocks} blocks"


def naive_steps(subject: Subject) -> str:
    """Judge steps under `Naive`."""
    return _steps(subject, (Naive(),))


def budget_steps(subject: Subject) -> str:
    """Judge steps under `Budget`, whose bound must meet the tolerance, or the head come from the originals."""
    return _steps(subject, (Budget(0.05), Budget(0.5, rounds=0), Budget(0.3, "absolute")))


def _steps(subject: Subject, policies: tuple[Policy, ...]) -> str:
    fmt = subject.adapted()
    heads, worst = 0, 0.0
    for scene in scenes(subject):
        for sides in side_choices(fmt):
            where = f"{scene.name}, {' and '.join(sorted(sides))}"
            with blaming(where), setup(subject, scene, sides) as (_, made):
                made.cache.append(scene.k, scene.v)
                for policy in policies:
                    for position in (None, 2 * scene.block):
                        step = step_module.decode(scene.q, made.cache, policy, scale=scene.scale, position=position)
                        ratios = _judge(f"{where}, {policy}", scene, step, policy, position)
                        heads += len(ratios)
                        worst = max([worst, *ratios])
    return f"{heads} heads, largest error/bound {worst:.2f}"


def _judge(where: str, scene: Scene, step: Step, policy: Policy, position: int | None) -> list[float]:
    c = step.certificate
    seen = len(scene.k) if position is None else position + 1
    group = len(scene.q) // scene.k.shape[1]
    ratios = []
    for h in range(scene.k.shape[1]):
        mine = slice(h * group, (h + 1) * group)
        verdicts = judge(
            step.output[mine],
            c.bound[mine],
            scene.q[mine],
            scene.k[:seen, h],
            scene.v[:seen, h],
            scene.scale,
            enclosures="always",
        )
        for row, verdict in enumerate(verdicts):
            head = h * group + row
            bound = float(c.bound[head])
            require(np.isfinite(bound), f"{where}, head {head}: the bound is {bound}, which says nothing")
            if isinstance(policy, Budget):
                met = c.tolerance[head] > 0 and bound <= c.tolerance[head]
                require(bool(met or c.rung[head] >= 3), f"{where}, head {head}: bound {bound:.3e} above the tolerance")
            if verdict.violated or verdict.judged_by == "undecided":
                raise CheckFailed(f"{where}, head {head}: error {verdict.error_lb:.3e} above the bound {bound:.3e}")
            if c.rung[head] < 3 and bound > 0:
                ratios.append(verdict.error_lb / bound)
            else:
                ratios.append(0.0)
    return ratios
