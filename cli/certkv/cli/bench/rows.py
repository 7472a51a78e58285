"""Rows of a benchmark: a whole step beside torch's dense attention and beside the time that its bytes take to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from certkv.cli.bench.options import Options, Tolerance
from certkv.cli.bench.scene import Scene
from certkv.cli.bench.timing import Clock, dense_time, nothing
from certkv.fast import Budget, Naive, PaperPolicy, Plan, Status, Step, plan
from certkv.fast.policies import RELATIVE_TO, Policy

TRIES = 60
"""Tolerances tried until a share of the blocks is promoted, each `TIGHTER` than the last."""

TIGHTER = 0.95


class WrongError(Exception):
    """A step that was timed has an error beyond its bound."""


@dataclass(frozen=True)
class Row:
    """One setting, timed. Times in microseconds, medians.

    Attributes
    ----------
    batch, tokens : int
    keys, values, policy, tolerance, scratch : str
        ``scratch``: off, cold (emptied before every run) or warm.
    step_us, dense_us : float
        Attend, certify, refine, finish; and torch's dense attention of the same originals.
    floor_us, dense_floor_us : float
        What a read-only sum takes for the bytes of the coded cache, and for those of 16-bit keys and values.
    promoted : float
        Share of the blocks, keys and values, that heads read as originals, in percent.
    rung : int
        Highest one taken.
    host_mb, moved_mb : float
        Megabytes that all heads needed from originals, each for itself; that really went over the bus.
    tightness : float
        Bound over error, geometric mean.
    """

    batch: int
    tokens: int
    keys: str
    values: str
    policy: str
    tolerance: str
    scratch: str
    step_us: float
    dense_us: float
    floor_us: float
    dense_floor_us: float
    promoted: float
    rung: int
    host_mb: float
    moved_mb: float
    tightness: float

    @property
    def speedup(self) -> float:
        """Dense over step."""
        return self.dense_us / self.step_us


def rows(
    options: Options, device: torch.device, clock: Clock, rate: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """Time every setting.

    Parameters
    ----------
    options : Options
    device : torch.device
    clock : Clock
    rate : float
        Bytes per microsecond that memory delivers.
    say : callable
        Progress.

    Raises
    ------
    WrongError
        A step that was timed violates its bound.
    """
    for batch in options.batch:
        for tokens in options.tokens:
            dense = math.nan
            for keys in options.keys:
                for values in options.values:
                    say(f"batch {batch}, {tokens} tokens, keys {keys}, values {values}")
                    scene = Scene(options, keys, values, [tokens] * batch, device)
                    q = scene.queries("diffuse")
                    if math.isnan(dense):
                        dense = dense_time(scene.k, scene.v, q, scene.scale, clock)
                    for policy, text in wanted(options, scene, q):
                        for scratch in ("cold", "warm") if options.scratch_bytes else ("off",):
                            yield timed(scene, q, policy, text, scratch, dense, clock, rate)
                    del scene
                    if device.type == "cuda":
                        torch.cuda.empty_cache()


def wanted(options: Options, scene: Scene, q: torch.Tensor) -> Iterator[tuple[Policy, str]]:
    """Return the policies, and what is printed of their tolerances."""
    for name in options.policy:
        if name == "naive":
            yield Naive(), ""
        elif name == "paper":
            yield PaperPolicy(), ""
        else:
            for tolerance in options.tolerance:
                yield budget(options, scene, q, tolerance), tolerance.text


def budget(options: Options, scene: Scene, q: torch.Tensor, tolerance: Tolerance) -> Budget:
    """Make the budget that a tolerance stands for."""
    if tolerance.number is not None:
        return Budget(tolerance.number, next(unit for unit in RELATIVE_TO if unit == options.relative_to))
    free = Budget(1e30, "absolute")
    limit = 1.01 * float(run_once(scene, q, free)[1].certificate.bound.max())
    for _ in range(TRIES if tolerance.share else 0):
        tried = Budget(limit, "absolute")
        if promoted(scene, run_once(scene, q, tried)[1]) >= tolerance.share:
            return tried
        limit *= TIGHTER
    return Budget(limit, "absolute")


def run_once(scene: Scene, q: torch.Tensor, policy: Policy) -> tuple[Plan, Step]:
    """Plan and run a step, rung 4 included.

    Raises
    ------
    WrongError
    """
    made = plan(scene.cache, scene.options.q_heads, policy, scene.scale)
    step = made.run(q, out=made.step())
    finished(scene, policy, step)
    return made, step


def finished(scene: Scene, policy: Policy, step: Step) -> None:
    """Compute by rung 4 what asks for it, but for a number that is none, which that would hide.

    Raises
    ------
    WrongError
    """
    if bool((step.certificate.status == int(Status.CHECKSUM)).any()):
        raise WrongError(f"{named(scene, policy)}: a number came out as NaN")
    step.resolve()
    step.check()


def named(scene: Scene, policy: Policy) -> str:
    """Say which step is spoken of."""
    cache = scene.cache
    return f"batch {cache.batch}, {scene.lengths[0]} tokens, keys {cache.keys}, values {cache.values}, {policy}"


def promoted(scene: Scene, step: Step) -> float:
    """Share of the blocks that were promoted, of all heads, keys and values."""
    blocks = sum(scene.cache.blocks(s) for s in range(scene.cache.batch))
    return float(step.certificate.promoted.sum()) / max(1, 2 * blocks * scene.options.q_heads)


def timed(
    scene: Scene, q: torch.Tensor, policy: Policy, text: str, scratch: str, dense: float, clock: Clock, rate: float
) -> Row:
    """Time a policy's step, and judge what it left.

    Raises
    ------
    WrongError
    """
    made = plan(scene.cache, scene.options.q_heads, policy, scene.scale)
    step = made.step()
    replay = clock.ready(lambda: made.run(q, out=step))
    taken = clock.time(replay, emptied(scene) if scratch == "cold" else nothing)
    cache, options = scene.cache, scene.options
    step.ran(made, q)
    finished(scene, policy, step)
    violations, ratios = scene.ratios(q, step)
    if violations:
        raise WrongError(f"{named(scene, policy)}: {violations} errors exceed their bounds")
    certificate = step.certificate
    if not bool(((certificate.bound <= certificate.tolerance) | (certificate.rung >= 3)).all()):
        raise WrongError(f"{named(scene, policy)}: a bound exceeds its tolerance")
    dense_bytes = 4 * sum(scene.lengths) * options.kv_heads * options.head_dim
    return Row(
        batch=cache.batch,
        tokens=scene.lengths[0],
        keys=cache.keys,
        values=cache.values,
        policy=policy.name,
        tolerance=text,
        scratch=scratch,
        step_us=taken,
        dense_us=dense,
        floor_us=cache.pool.nbytes / rate,
        dense_floor_us=dense_bytes / rate,
        promoted=100.0 * promoted(scene, step),
        rung=int(certificate.rung.max()),
        host_mb=float(certificate.host_bytes.sum()) / 1e6,
        moved_mb=float(step.moved_bytes.sum()) / 1e6,
        tightness=math.exp(sum(map(math.log, ratios)) / len(ratios)),
    )


def emptied(scene: Scene) -> Callable[[], None]:
    """Return what empties scratch."""

    def empty() -> None:
        for s in range(scene.cache.batch):
            scene.cache.scratch.clear(s)

    return empty
