"""What a format must be inside a cache: measured truly, encoded once, certified soundly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certkv.proofs.adversary.blocks import operator_square_lb
from certkv.proofs.contract.recorder import CountingFormat
from certkv.proofs.mutants.model import CheckFailed, require
from certkv.proofs.userformat.adapter import Adapted, registered
from certkv.proofs.userformat.scenes import Scene, real_scenes, scenes
from certkv.proofs.userformat.storage_checks import exact_of
from certkv.proofs.userformat.subject import Subject, blaming, encode_decode
from certkv.reference import Budget, Cache, Naive, Policy, Step
from certkv.reference import step as step_module
from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
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
    for corner in subject.compared:
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
                    one = Originals.of(x[b], exact_of(fmt, encoded.take(b)), anchor)
                    where = f"{side} of {corner.name}"
                    part = notes.take(b)
                    if isinstance(part, ValueAnnotations):
                        _compare_values(where, part, one)
                    else:
                        _compare_keys(where, part, one, encoded.step[b])
    return f"{2 * len(subject.compared)} blocks"


@dataclass(frozen=True, eq=False)
class Originals:
    """One block [B, d] in rational numbers: originals, what is stored of them, and their distances from the anchor."""

    original: AnyArray
    exact: AnyArray
    from_anchor: AnyArray

    @classmethod
    def of(cls, x: AnyArray, exact: AnyArray, anchor: AnyArray) -> Originals:
        """Convert a block of originals."""
        original = np.vectorize(lambda e: Fraction(float(e)), otypes=[object])(x)
        mu = np.array([Fraction(float(e)) for e in anchor], object)
        return cls(original, exact, original - mu)

    @property
    def residual(self) -> AnyArray:
        """What was lost."""
        return self.original - self.exact


def _require_ub(where: str, name: str, found: float, square: Fraction) -> None:
    """Check an upper bound against the square of what it bounds."""
    require(not np.isnan(found), f"{where}: {name} is NaN")
    ok = np.isinf(found) or Fraction(found) ** 2 >= square
    require(ok, f"{where}: {name} is {found:.9e}, below the true {float(square) ** 0.5:.9e}")


def _compare_keys(where: str, notes: KeyAnnotations, block: Originals, step: AnyArray) -> None:
    units = [Fraction(float(s)) for s in step] or [Fraction(1)] * block.original.shape[1]
    measured = {name: float(array) for name, array in notes.arrays().items()}
    _require_ub(where, "decoded_norm_ub", measured["decoded_norm_ub"], _largest(block.exact))
    off_grid = [(e, u) for row in block.residual for e, u in zip(row, units, strict=True) if u == 0 and e != 0]
    if off_grid:
        require(all(np.isinf(measured[n]) for n in measured if n.startswith("relative")), f"{where}: step 0 loses")
        return
    relative = np.array([[e / u if u else e for e, u in zip(row, units, strict=True)] for row in block.residual])
    largest = max(abs(e) for e in relative.ravel())
    _require_ub(where, "relative_max_ub", measured["relative_max_ub"], largest * largest)
    _require_ub(where, "relative_norm_ub", measured["relative_norm_ub"], _largest(relative))
    square = operator_square_lb(relative.tolist())
    _require_ub(where, "relative_operator_ub", measured["relative_operator_ub"], square)


def _compare_values(where: str, notes: ValueAnnotations, block: Originals) -> None:
    _require_ub(where, "norm_ub", float(notes.norm_ub), _largest(block.original))
    _require_ub(where, "decoded_norm_ub", float(notes.decoded_norm_ub), _largest(block.exact))
    for name, rows, per_token, operator in (
        ("residual_norm_ub", block.residual, notes.token_residuals_ub(), notes.residual_operator_ub),
        ("anchored_norm_ub", block.from_anchor, notes.token_distances_ub(), notes.anchored_operator_ub),
    ):
        _require_ub(where, name, float(getattr(notes, name)), _largest(rows))
        for t, row in enumerate(rows):
            _require_ub(where, f"{name} of token {t}", float(per_token[t]), _largest([row]))
        known = [(row, Fraction(unit)) for row, unit in zip(rows, per_token.tolist(), strict=True) if 0 < unit < np.inf]
        square = operator_square_lb([[e / unit for e in row] for row, unit in known]) if known else Fraction(0)
        _require_ub(where, name.replace("norm", "operator"), float(operator), square)
    # float norms and their sum are within 2^-40 for blocks of this size
    mean = sum(float(sum(e * e for e in row)) ** 0.5 for row in block.original) / len(block.original)
    require(float(notes.mean_norm_lb) <= mean * (1 + 2.0**-40), f"{where}: mean_norm_lb is above the mean norm")


def _largest(rows: AnyArray | list[AnyArray]) -> Fraction:
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


def _plays(subject: Subject, some: int | None = None) -> Iterator[tuple[Scene, frozenset[str]]]:
    """Scenes (so many of the small ones) with the sides that hold the format: every choice, in use its own kind."""
    fmt = subject.adapted()
    for scene in scenes(subject)[:some]:
        for sides in side_choices(fmt):
            yield scene, sides
    for scene in real_scenes(subject):
        yield scene, fmt.kind


def side_choices(fmt: Adapted) -> list[frozenset[str]]:
    """Keys alone, values alone, and both, as far as the format is for them."""
    single = [frozenset({side}) for side in sorted(fmt.kind)]
    return [*single, fmt.kind] if len(single) > 1 else single


def encoded_once(subject: Subject) -> str:
    """Append in pieces of three sizes; count encodings, and compare what is decoded with that of one append."""
    blocks = 0
    for scene, sides in _plays(subject, 2):
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
    heads, worst = 0, 0.0
    for scene, sides in _plays(subject):
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
