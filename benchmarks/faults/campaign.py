"""One fault per sequence, a step, and what became of it; then the way back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
from benchmarks.faults.places import DAMAGE, SCRATCH, TABLES, Place, fields, octets
from benchmarks.faults.scenes import GROUP, KINDS, KV_HEADS, POLICIES, Scene, scene

from certkv.fast import Plan, Status, Step, TieredCache, plan
from certkv.fast.errors import CorruptionError, HostMissingError
from certkv.fast.verify import VERIFY, Verify

OUTCOMES = ("reported", "within", "beyond", "crashed")
"""A status other than OK; outputs within their bounds; an output beyond its bound, unnoticed; an untyped exception."""

AFTER = ("dense", "typed", "restored")
"""Of those reported by a checksum: `Step.resolve` gave an output within its bound; it raised a typed error; the cache
after `TieredCache.repair` is bit for bit what it was."""


class Key(NamedTuple):
    """What counts are kept by."""

    damage: str
    verify: Verify
    field: str


Counts = dict[Key, Counter[str]]


def campaign(sequences: int, few: int, kinds: int, seed: int, tick: Callable[[str], None]) -> Counts:
    """Put a fault of every field and kind into every sequence of every scene, with and without checksums.

    Parameters
    ----------
    sequences : int
    few : int
        Sequences for faults in tables without checksums: each may end a whole step, and gets one of its own.
    kinds : int
        How many of the formats and types.
    seed : int
    tick : callable
        Called with what was done, once per kind of damage, format and type.
    """
    found: Counts = {}
    for i, (values, dtype) in enumerate(KINDS[:kinds]):
        for j, damage in enumerate(DAMAGE):
            policy = POLICIES[(i + 3 * j) % len(POLICIES)]
            many, some = (scene(values, dtype, policy, batch, seed + i) for batch in (sequences, few))
            for name, place in fields(many.cache).items():
                for verify in VERIFY:
                    one_by_one = verify == "off" and name in TABLES
                    used = some if one_by_one else many
                    rng = random.Random(f"{seed} {i} {damage} {name}")
                    before = state(used.cache)
                    planned = plan(used.cache, KV_HEADS * GROUP, policy, verify=verify)
                    put = alone if one_by_one else together
                    counts = found.setdefault(Key(damage, verify, name), Counter())
                    if name == SCRATCH:
                        planned.run(used.q, out=planned.step())
                    counts.update(put(used, planned, damage, place, rng))
                    for s in range(used.cache.batch):
                        used.cache.scratch.clear(s)
                    if state(used.cache) != before:
                        raise AssertionError(f"the cache was not put back after faults in {name}")
            tick(f"{values}, {policy.name}, {damage}")
    return found


def state(cache: TieredCache) -> list[bytes]:
    """Everything that steps read, as bytes."""
    sums, held = cache.checksums, cache.resident
    kept = (
        *cache.pool.tensors().values(),
        *(cache.pages.table, cache.lengths, cache.anchor, held.keys, held.values, held.norms),
        *(cache.originals.keys, cache.originals.values, cache.originals.present),
        *(sums.blocks, sums.originals, sums.resident, sums.lengths),
    )
    return [tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in kept]


def together(scene: Scene, planned: Plan, damage: str, place: Place, rng: random.Random) -> Counter[str]:
    """One fault in every sequence, and one step."""
    cache = scene.cache
    parts = [place(cache, s, rng) for s in range(cache.batch)]
    kept = [part.clone() for part in parts]
    for part in parts:
        DAMAGE[damage](part, rng)
    step = planned.run(scene.q, out=planned.step())
    counts = classify(scene, step)
    if planned.verifier is not None:
        counts += after(scene, step, parts, kept)
    for part, was in zip(parts, kept, strict=True):
        part.copy_(was)
    return counts


def alone(scene: Scene, planned: Plan, damage: str, place: Place, rng: random.Random) -> Counter[str]:
    """Put faults that may lead out of the pool into one sequence after another: they end a whole step."""
    counts: Counter[str] = Counter()
    for s in range(scene.cache.batch):
        part = place(scene.cache, s, rng)
        was = part.clone()
        DAMAGE[damage](part, rng)
        try:
            step = planned.run(scene.q, out=planned.step())
        except (IndexError, RuntimeError):
            counts += Counter({"faults": 1, "crashed": 1})
        else:
            counts += classify(scene, step, s)
        part.copy_(was)
    return counts


def classify(scene: Scene, step: Step, only: int | None = None) -> Counter[str]:
    """Count outcomes, of all sequences or of one."""
    reported, beyond = step.certificate.status[:, 0] != int(Status.OK), scene.beyond(step)
    mine = slice(None) if only is None else slice(only, only + 1)
    reported, beyond = reported[mine], beyond[mine]
    return Counter(
        faults=len(reported),
        reported=int(reported.sum()),
        within=int((~reported & ~beyond).sum()),
        beyond=int((~reported & beyond).sum()),
    )


def after(scene: Scene, step: Step, parts: list[torch.Tensor], kept: list[torch.Tensor]) -> Counter[str]:
    """Resolve what a checksum has reported, then repair the cache."""
    damaged = step.certificate.status[:, 0] == int(Status.CHECKSUM)
    with suppress(CorruptionError, HostMissingError):
        step.resolve()
    dense = damaged & (step.certificate.status[:, 0] == int(Status.OK))
    if bool((dense & scene.beyond(step)).any()):
        raise AssertionError("rung 4 is beyond its bound")
    with suppress(CorruptionError):  # what cannot be restored is counted
        scene.cache.repair()
    pairs = zip(damaged.tolist(), parts, kept, strict=True)
    restored = sum(int(hit and torch.equal(octets(part), octets(was))) for hit, part, was in pairs)
    return Counter(
        checksum=int(damaged.sum()), dense=int(dense.sum()), typed=int((damaged & ~dense).sum()), restored=restored
    )
