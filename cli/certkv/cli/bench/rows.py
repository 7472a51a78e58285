"""Rows of a benchmark: a whole step beside torch's dense attention and beside the time that its bytes take to read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from certkv.cli.bench.bare import Bare
from certkv.cli.bench.options import Options, Tolerance
from certkv.cli.bench.scene import Drawn, Scene
from certkv.cli.bench.timing import Clock, dense_time, nothing
from certkv.fast import Budget, Naive, PaperPolicy, Plan, Status, Step, TieredCache, plan
from certkv.fast.policies import RELATIVE_TO, Policy

TRIES = 60
"""Tolerances tried until a share of the blocks is promoted, each `TIGHTER` than the last."""

TIGHTER = 0.95

BASE = ("key_codes", "key_step", "key_minimum", "key_norm", "value_codes", "value_step", "value_minimum")
"""Tensors of the pool that every pass reads."""


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
    originals : str
        Where they are kept.
    step_us, bare_us, dense_us : float
        Attend, certify, refine, finish; the pass over the same cache and its merge alone, without any certificate; and
        torch's dense attention of the same originals.
    coded_bytes : float
        Codes and metadata of a coded token, per KV head.
    floor_us, dense_floor_us : float
        What a read-only sum takes for the codes and metadata of all tokens, and for their 16-bit keys and values.
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
    originals: str
    step_us: float
    bare_us: float
    dense_us: float
    coded_bytes: float
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

    @property
    def bare_speedup(self) -> float:
        """Dense over the pass without a certificate."""
        return self.dense_us / self.bare_us

    @property
    def certificate(self) -> float:
        """What the step takes beyond the pass without a certificate, in percent of that."""
        return 100.0 * (self.step_us / self.bare_us - 1.0)


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
    begun = time.monotonic()
    for batch in options.batch:
        for tokens in options.tokens:
            drawn, dense = None, math.nan
            for keys in options.keys:
                for values in options.values:
                    what = f"batch {batch}, {tokens} tokens, keys {keys}, values {values}"
                    if time.monotonic() - begun > 60.0 * options.minutes:
                        say(f"{what}: not begun, {options.minutes:g} minutes are over")
                        continue
                    drawn = Drawn(options, batch, tokens, device) if drawn is None else drawn
                    scene = Scene(options, keys, values, [tokens] * batch, device, drawn=drawn)
                    say(f"{what}: filled in {scene.fill_s:.1f} s")
                    q = scene.queries("diffuse")
                    if math.isnan(dense):
                        dense = dense_time(scene.k, scene.v, q, scene.scale, clock)
                    beside = Beside(dense, bare_time(scene, q, clock), rate)
                    for policy, text in wanted(options, scene, q):
                        for scratch in ("cold", "warm") if options.scratch_bytes else ("off",):
                            yield timed(scene, q, policy, text, scratch, clock, beside)
                    del scene
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
            del drawn


class Beside(NamedTuple):
    """What a step is compared with: dense attention and the bare pass, in microseconds; bytes per microsecond."""

    dense: float
    bare: float
    rate: float


def taken_once(options: Options, device: torch.device) -> None:
    """Take every setting's steps and pass once, so that Triton has on disk what they compile."""
    policies: dict[str, Policy] = {"naive": Naive(), "budget": Budget(1e30, "absolute"), "paper": PaperPolicy()}
    for batch in options.batch:
        for tokens in options.tokens:
            for keys in options.keys:
                for values in options.values:
                    scene = Scene(options, keys, values, [tokens] * batch, device)
                    q = scene.queries("diffuse")
                    for name in options.policy:
                        run_once(scene, q, policies[name])
                    Bare(scene.cache, q, scene.scale)()


def bare_time(scene: Scene, q: torch.Tensor, clock: Clock) -> float:
    """Time the pass without a certificate, and judge its outputs.

    Raises
    ------
    WrongError
    """
    bare = Bare(scene.cache, q, scene.scale)
    ready = clock.ready(bare)
    if scene.device.type == "cuda" and not bare.variants:
        raise WrongError(f"{named(scene, 'the bare pass')}: no kernel differs from that of a step")
    bare.output.fill_(math.nan)
    taken = clock.time(ready)
    violations, _ = scene.judged(q, bare.output, bare.bound)
    if violations:
        raise WrongError(f"{named(scene, 'the bare pass')}: {violations} errors exceed their bounds")
    return taken


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


def coded_bytes(cache: TieredCache) -> float:
    """Return the codes and metadata of a coded token per KV head: what a pass cannot but read.

    What heads hold in common is shared out; annotations, and planes beyond the base, are not counted.
    """
    per_page = sum(x[0].nbytes for name, x in cache.pool.tensors().items() if name.startswith(BASE))
    return per_page / (cache.kv_heads * cache.block)


def named(scene: Scene, policy: Policy | str) -> str:
    """Say which step is spoken of."""
    cache = scene.cache
    return f"batch {cache.batch}, {scene.lengths[0]} tokens, keys {cache.keys}, values {cache.values}, {policy}"


def promoted(scene: Scene, step: Step) -> float:
    """Share of the blocks that were promoted, of all heads, keys and values."""
    blocks = sum(scene.cache.blocks(s) for s in range(scene.cache.batch))
    return float(step.certificate.promoted.sum()) / max(1, 2 * blocks * scene.options.q_heads)


def timed(scene: Scene, q: torch.Tensor, policy: Policy, text: str, scratch: str, clock: Clock, beside: Beside) -> Row:
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
    tokens_heads, per_token = sum(scene.lengths) * options.kv_heads, coded_bytes(cache)
    return Row(
        batch=cache.batch,
        tokens=scene.lengths[0],
        keys=cache.keys,
        values=cache.values,
        policy=policy.name,
        tolerance=text,
        scratch=scratch,
        originals=options.originals,
        step_us=taken,
        bare_us=beside.bare,
        dense_us=beside.dense,
        coded_bytes=per_token,
        floor_us=per_token * tokens_heads / beside.rate,
        dense_floor_us=4.0 * options.head_dim * tokens_heads / beside.rate,
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
