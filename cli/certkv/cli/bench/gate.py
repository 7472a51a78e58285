"""What must hold on this device before anything is timed on it.

The formats and head sizes that are to be timed, on a small ragged batch: stored bits are those that the twins store on
a CPU; every output is within its bound of float64 attention of the originals; a tolerance that is not met is rung 3 or
4; captured and eager runs agree bit for bit; a query that is not finite is noticed. Rungs 0 and 3, and where keys are
fine 1 or 2, are all taken, or the gate has shown nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from certkv.cli.bench.options import Options
from certkv.cli.bench.rows import BASE
from certkv.cli.bench.scene import KINDS, Scene
from certkv.cli.bench.timing import Clock
from certkv.fast import Budget, Naive, PaperPolicy, Status, Step, TieredCache, plan
from certkv.fast.formats.registry import key_format
from certkv.fast.policies import Policy

FINE_BITS = 8


def failures(options: Options, device: torch.device, clock: Clock) -> Iterator[str]:
    """Yield what does not hold; nothing, where everything does."""
    b = options.block
    for keys in options.keys:
        for values in options.values:
            where, scene = f"keys {keys}, values {values}", small(options, keys, values, device)
            if device.type == "cuda":
                twin = TieredCache(
                    batch=3,
                    kv_heads=options.kv_heads,
                    head_dim=options.head_dim,
                    capacity=max(scene.lengths),
                    dtype=scene.dtype,
                    keys=keys,
                    values=values,
                    block=b,
                )
                twin.append(scene.k.cpu(), scene.v.cpu(), lengths=scene.lengths)
                yield from (f"{where}: {name} differ from the twin's" for name in differences(scene.cache, twin))
            rungs: set[int] = set()
            for policy in policies(scene):
                yield from (f"{where}, {policy}: {what}" for what in wrong_steps(scene, policy, clock, rungs))
            # between them there is room where keys are fine; coarse ones may need all of their originals, or none
            between = {1, 2} & rungs or key_format(keys).bits < FINE_BITS
            if not (0 in rungs and between and 3 in rungs):
                yield f"{where}: rungs {sorted(rungs)} were taken; 0, 1 or 2, and 3 must be to show anything"


def small(options: Options, keys: str, values: str, device: torch.device) -> Scene:
    """Return a small ragged batch."""
    b = options.block
    # kernels are compiled anew for numbers of blocks that are no multiples of 16, which is not what is timed
    capacity = 256 * b if device.type == "cuda" else 0
    return Scene(options, keys, values, [6 * b + b // 2, 2 * b, 1], device, capacity)


def compiled(options: Options, device: torch.device, clock: Clock) -> None:
    """Take the steps of one kind of policy, so that Triton has on disk what they compile; nothing is said of them."""
    for keys in options.keys:
        for values in options.values:
            scene = small(options, keys, values, device)
            for policy in policies(scene):
                if policy.name == options.compile:
                    for _ in wrong_steps(scene, policy, clock, set()):
                        pass


def differences(ours: TieredCache, theirs: TieredCache) -> list[str]:
    """Name the stored tensors that differ in any bit, block by block through the page tables."""
    found = []
    for name in (name for name in BASE if name in ours.pool.tensors()):
        for s in range(ours.batch):
            pages = [cache.pages.table[s, : cache.blocks(s)].long() for cache in (ours, theirs)]
            mine, its = (
                getattr(cache.pool, name)[at].cpu().contiguous().view(torch.uint8)
                for cache, at in zip((ours, theirs), pages, strict=True)
            )
            if not torch.equal(mine, its):
                found.append(f"{name} of sequence {s}")
    return found


def policies(scene: Scene) -> list[Policy]:
    """Return policies that take every rung: the tolerance in the middle is one that half of the heads miss at first."""
    q = scene.queries("diffuse")
    made = plan(scene.cache, scene.options.q_heads, Budget(1e30, "absolute"), scene.scale)
    bounds = made.run(q, out=made.step()).certificate.bound[0]
    known = bounds[bounds.isfinite()]
    return [
        Naive(),
        PaperPolicy(),
        Budget(0.05),
        Budget(0.05, "output"),
        Budget(0.5 * float(known.median()) if len(known) else 0.05, "absolute"),
        Budget(0.0),
    ]


def wrong_steps(scene: Scene, policy: Policy, clock: Clock, rungs: set[int]) -> Iterator[str]:
    """Yield what is wrong with the steps of a policy; the rungs taken are added to ``rungs``."""
    made = plan(scene.cache, scene.options.q_heads, policy, scene.scale)
    q, step = scene.queries(KINDS[0]), made.step()
    replay = clock.ready(lambda: made.run(q, out=step))
    for kind in KINDS:
        q.copy_(scene.queries(kind))
        replay()
        eager = made.run(q, out=made.step())
        if not same(step, eager):
            yield f"{kind} queries: a replayed and an eager run differ"
        wrong = set(step.certificate.status.flatten().tolist()) - {int(Status.OK), int(Status.NEEDS_DENSE)}
        if wrong:
            yield f"{kind} queries: status {', '.join(Status(code).name for code in sorted(wrong))}"
            continue
        step.ran(made, q)
        step.resolve()
        violations, _ = scene.ratios(q, step)
        if violations:
            yield f"{kind} queries: {violations} errors exceed their bounds"
        made_up = step.certificate
        if not bool(((made_up.bound <= made_up.tolerance) | (made_up.rung >= 3)).all()):
            yield f"{kind} queries: a bound exceeds its tolerance"
        rungs |= set(made_up.rung.flatten().tolist())
    q[1, -1, 0] = float("nan")
    replay()
    if not bool((step.certificate.status[1] == int(Status.NONFINITE_QUERY)).all() and step.output[1].isnan().all()):
        yield "a NaN in a query was not noticed"


def same(one: Step, other: Step) -> bool:
    """Whether two steps are equal bit for bit in what they promise; NaN equals NaN."""
    pairs = ((one.output, other.output), (one.certificate.bound, other.certificate.bound))
    return all(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) for a, b in pairs)
