"""Levels between base plane and original: whose notes, which bits, what was read and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import STEP, alike, gaussian, half, ties, tilted
from certkv.proofs.mutants.model import Check, CheckFailed, Mutant, patched, require, require_raises
from certkv.proofs.mutants.scene import Scene, require_sound
from certkv.reference import Budget, HostMissingError, Naive
from certkv.reference.cache import PlaneStore, Side, View
from certkv.reference.formats import key_format, planar, planes
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray, IntArray
from certkv.reference.steps import budget, certify, originals, result, used
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.finer import Finer
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import SIDES, Levels

VALUES = "int4-g32+4"


def coarse_keys() -> Scene:
    """Return `tilted` with keys of both nibbles: exact with the low plane, off by half a cell and aligned without."""
    scene = tilted(0.05, light_first=True)
    signs = np.resize([1.0, -1.0], scene.q.shape[1])
    at_edge = np.where(signs > 0, 127.0, 112.0) * STEP  # the cell of high nibble 7
    k = scene.k.astype(np.float64)[:, 0]
    k[:126] = at_edge  # the last two tokens span the range
    return replace(scene, k=half(k), keys="int4+4")


def two_coarse_blocks() -> Scene:
    """Return two blocks that are coarse in different channels, and two heads of which each looks at one of them.

    The second head looks at the first block a little, too: little enough to leave it at its base plane.
    """
    signs = np.resize([1.0, -1.0], 16)
    at_edge = np.where(signs > 0, 127.0, 112.0) * STEP
    k, v = np.zeros((3 * 64, 16)), np.zeros((3 * 64, 16))
    for block, channels in ((1, slice(0, 8)), (2, slice(8, 16))):
        tokens = slice(64 * block, 64 * block + 64)
        k[tokens, channels] = at_edge[channels]
        k[64 * block, channels], k[64 * block + 1, channels] = 0.0, 255 * STEP
        v[tokens, 0] = 3.0 - 2.0 * block
    q = np.stack([np.repeat([1.0, 0.0], 8), np.repeat([0.3, 1.0], 8)]) * signs * 0.1
    return Scene(q.astype(np.float32), half(k), half(v), 64, keys="int4+4")


def each_level_is_covered() -> None:
    """Let each level's error be all there is: the base plane's where finer planes have none, theirs where they do."""
    for scene in (coarse_keys(), alike(ties(1, 15, 32, 2.0**-3), VALUES, block=16)):
        require_sound(scene, scene.decode(Naive()), where=f"{scene.keys}, {scene.values}: base plane,")
    keys = replace(tilted(0.05, light_first=True), keys="int4+4")
    for scene in (keys, alike(ties(1, 15, 32, 2.0**-3), VALUES, block=16, blocks=3)):
        first = scene.decode(Naive()).certificate.bound
        step = scene.decode(Budget(float(first[0]) / 4, "absolute"))
        where = f"{scene.keys}, {scene.values}: first plane,"
        require(bool(step.certificate.levels[..., 0].any()), f"{where} no plane was read")
        require_sound(scene, step, where=where)


def heads_have_their_own_levels() -> None:
    """Give heads of one KV head different needs: what one has read makes no other's bound smaller."""
    scene = gaussian(61, tokens=120, q_heads=6, kv_heads=1, keys="int4+4", values=VALUES)
    scene = replace(scene, q=scene.q * np.array([0.1, 0.2, 0.5, 1.0, 4.0, 8.0], np.float32)[:, None])
    for t in (0.2, 0.1, 0.05):
        step = scene.decode(Budget(t))
        require_sound(scene, step, where=f"tolerance {t},")
        held = step.certificate
        require(bool(((held.bound <= held.tolerance) | (held.rung >= 3)).all()), f"tolerance {t} is not kept")
    two = two_coarse_blocks()
    first = two.decode(Naive()).certificate.bound
    step = two.decode(Budget(float(first.max()) / 2, "absolute"))
    require(step.certificate.levels[:, 0, 0].tolist() == [1, 1], "not one plane for each head")
    require_sound(two, step, where="a block for each head,")


def later_rounds() -> Scene:
    """Return a scene that takes a budget several rounds, in each of which it reads planes."""
    return gaussian(65, tokens=200, sharpness=4.0, keys="oscar+2+4", values=VALUES)


def planes_refine() -> None:
    """Read planes where a base plane is too coarse, and find that they were enough: of the right block, bits and place.

    A plane that belongs elsewhere leaves errors of a whole cell where the notes promise a sixteenth.
    """
    for keys in ("int4+4", "int8+4", "oscar+2+4"):
        scene = gaussian(62, tokens=104, keys=keys, values=VALUES, sharpness=2.0)
        for t in (0.05, 0.01):
            step = scene.decode(Budget(t))
            require(bool(step.certificate.levels[..., 0].any()), f"{keys}: no plane was read")
            require_sound(scene, step, where=keys)
    scene = later_rounds()
    for t in (0.1, 0.03):
        require_sound(scene, scene.decode(Budget(t, rounds=6)), where="several rounds,")


def planes_are_the_finer_code() -> None:
    """Compare both nibbles of `int4+4` with the codes of `int8`, and places of `int8+4` with where the numbers lie."""
    x = gaussian(63, tokens=21).k.swapaxes(0, 1)
    divided, whole = key_format("int4+4"), key_format("int8")
    require(np.array_equal(divided.decode(divided.encode(x)), whole.decode(whole.encode(x))), "int4+4 is not int8")
    refined = key_format("int8+4")
    encoded = refined.encode(x)
    off = np.abs(refined.decode(encoded) - x.astype(np.float64))
    # half a cell of a sixteenth of a step, and 2**-14 for the quotient in FP32 and decoding
    limit = encoded.step.astype(np.float64)[..., None, :] * (2.0**-5 + 2.0**-14)
    require(bool((off <= limit).all()), "a number is not in the part of the cell that its plane names")


def planes_are_paid_for() -> None:
    """Compare with what was moved, one query head per KV head; also where originals or rung 3 came after planes."""
    scene = gaussian(64, tokens=152, q_heads=2, sharpness=3.0, keys="int4+4", values=VALUES)
    replaced = 0
    for t in (0.3, 0.1, 0.05, 0.03, 0.02, 0.01, 0.002):
        step = scene.decode(Budget(t))
        done = step.certificate
        read, there = int(done.host_bytes.sum()), step.moved_bytes
        plane, original = 16 * 32 // 2, 16 * 32 * 2
        least = done.levels[..., 0].sum(axis=-1) * plane
        require(bool((done.plane_bytes >= least).all()), f"tolerance {t}: planes in use are not counted")
        replaced += int((done.plane_bytes > least).sum())
        require(
            read == there or (bool((done.rung >= 3).any()) and (there - read) % original == 0 and there > read),
            f"tolerance {t}: {read} bytes counted, {there} moved",
        )
    require(replaced > 0, "no plane was replaced by an original")


def levels_only_rise() -> None:
    """Watch what a budget attends to from round to round."""
    seen: dict[tuple[int, int], Levels] = {}

    def watched(group: Group, levels: Levels, rows: IntArray) -> Attended:
        for i, row in enumerate(rows.tolist()):
            now = levels.rows(np.array([i]))
            before = seen.get((group.view.kv_head, row))
            if before is not None and before.beyond(now).any():
                raise CheckFailed(f"head {row} has less than a round before")
            seen[group.view.kv_head, row] = now
        return attend(group, levels, rows)

    scene = later_rounds()
    with patched((budget, "attend", watched)):
        for t in (0.1, 0.03, 0.01):
            seen.clear()
            scene.decode(Budget(t, rounds=6))


def lost_planes_are_errors() -> None:
    """Lose planes: a step that needs one raises; one that does not is sound."""
    scene = gaussian(66, tokens=104, keys="int4+4", values=VALUES, sharpness=2.0)
    cache = scene.cache()
    cache.planes.lose()
    require_raises(HostMissingError, lambda: scene.decode(Budget(0.02), cache), "planes lost")
    require_sound(scene, scene.decode(Naive(), cache), where="planes lost,")


Take = Callable[[int, int], int]


def notes_of(level_of: Take, side: Side) -> AbstractContextManager[None]:
    """Take the notes of every block from another level, given its own and the number of levels."""
    by_level = used._by_level

    def other(levels: Levels, mine: Side, per_level: Any, tokens: bool = False) -> FloatArray:
        if mine == side:
            per_level = [per_level[level_of(level, len(per_level))] for level in range(len(per_level))]
        return by_level(levels, mine, per_level, tokens)

    return patched((used, "_by_level", other))


def next_level(level: int, levels: int) -> int:
    """Return the level after, or the last."""
    return min(level + 1, levels - 1)


def refined_is_exact() -> AbstractContextManager[None]:
    """Take the score error of keys as 0 once a plane was read."""
    errors = used.score_errors

    def none(group: Group, levels: Levels, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        base = levels.key_planes == 0
        delta, operator = errors(group, levels, rows)
        return np.where(base, delta, 0.0), np.where(base, operator, 0.0)

    return patched((certify, "score_errors", none))


def finest_head() -> AbstractContextManager[None]:
    """Certify every head at the finest level that any head of the group has read."""
    errors = used.score_errors

    def finest(group: Group, levels: Levels, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        shared = np.broadcast_to(levels.key_planes.max(axis=0), levels.key_planes.shape)
        return errors(group, Levels(levels.keys, levels.values, shared, levels.value_planes), rows)

    return patched((certify, "score_errors", finest))


def changed_plane(change: Callable[[AnyArray], AnyArray]) -> AbstractContextManager[None]:
    """Read planes that are changed on their way."""
    read = View.plane
    return patched((View, "plane", lambda self, side, plane, blocks: change(read(self, side, plane, blocks))))


def block_before() -> AbstractContextManager[None]:
    """Read the plane of the block before."""
    read = View.plane
    return patched(
        (View, "plane", lambda self, side, plane, blocks: read(self, side, plane, np.maximum(blocks - 1, 0)))
    )


def other_side() -> AbstractContextManager[None]:
    """Read planes of values for keys."""
    read = View.plane
    return patched((View, "plane", lambda self, side, plane, blocks: read(self, "values", plane, blocks)))


def zeros_for_lost() -> AbstractContextManager[None]:
    """Read a plane that is not there as it lies in memory."""

    def read(self: PlaneStore, side: Side, plane: int, kv_head: int, blocks: IntArray) -> AnyArray:
        return np.asarray(self._store[side][plane][blocks, kv_head])

    return patched((PlaneStore, "read", read))


def first_planes_kept() -> AbstractContextManager[None]:
    """Take what was read of a plane for all of it, as soon as one block was."""
    plane = Finer._plane

    def stale(self: Finer, side: Side, index: int, wanted: BoolArray) -> AnyArray:
        have = self._have.get((side, index))
        return plane(self, side, index, wanted if have is None else wanted & have)

    return patched((Finer, "_plane", stale))


def low_bits_first() -> AbstractContextManager[None]:
    """Store the low bits as the base plane, and the high ones as the plane that refines it."""
    divide = planes.divide

    def swapped(codes: IntArray, bits: Any) -> Any:
        low, high = codes & 15, codes >> 4
        return divide((low << 4) | high, bits)

    return patched((planar, "divide", swapped))


def planes_free() -> AbstractContextManager[None]:
    """Count originals only."""
    return patched(
        (result, "host_bytes", lambda group, promoted, planes: promoted.sum(axis=-1) * group.block_bytes),
        (originals, "host_bytes", lambda group, promoted, planes: promoted.sum(axis=-1) * group.block_bytes),
    )


def replaced_planes_free() -> AbstractContextManager[None]:
    """Count the planes of blocks that are used at their level, not those that an original has replaced."""
    count = result.plane_bytes

    def in_use(group: Group, levels: Levels) -> IntArray:
        planes = (np.where(levels.originals(side), 0, levels.planes(side)) for side in SIDES)
        return count(group, Levels(levels.keys, levels.values, *planes))

    return patched((result, "plane_bytes", in_use), (originals, "plane_bytes", in_use))


def last_plane_only() -> AbstractContextManager[None]:
    """Write the new choice over what was read before."""

    def overwritten(self: Levels, rows: IntArray | BoolArray, wanted: Levels) -> None:
        for side in SIDES:
            self.originals(side)[rows] |= wanted.originals(side)
            self.planes(side)[rows] = wanted.planes(side)

    return patched((Levels, "raise_to", overwritten))


CHECKS = (
    Check("level-notes", "a bound covers the error of the level that was executed", each_level_is_covered),
    Check("own-levels", "every head is certified at the levels that it used", heads_have_their_own_levels),
    Check("planes-refine", "planes that were read make the numbers that their notes speak of", planes_refine),
    Check("finer-code", "base and planes are the finer code, in its order", planes_are_the_finer_code),
    Check("planes-paid", "planes count where they were read, whatever replaced them since", planes_are_paid_for),
    Check("levels-rise", "no round takes back what was read", levels_only_rise),
    Check("lost-plane", "a missing plane is an error", lost_planes_are_errors),
)

MUTANTS = (
    Mutant(
        "notes-of-next-level",
        "-",
        "key notes of the next finer level",
        lambda: notes_of(next_level, "keys"),
        "level-notes",
    ),
    Mutant(
        "value-notes-of-next-level",
        "-",
        "value notes of the next finer level",
        lambda: notes_of(next_level, "values"),
        "level-notes",
    ),
    Mutant("refined-is-exact", "-", "no score error once a plane was read", refined_is_exact, "level-notes"),
    Mutant("finest-head", "-", "every head at the finest level of its group", finest_head, "own-levels"),
    Mutant(
        "planes-nibbles",
        "-",
        "nibbles of a plane exchanged",
        lambda: changed_plane(lambda x: np.asarray((x << 4) | (x >> 4), np.uint8)),
        "planes-refine",
    ),
    Mutant(
        "planes-shifted",
        "-",
        "rows of a plane one place off",
        lambda: changed_plane(lambda x: np.roll(x, 1, axis=-2)),
        "planes-refine",
    ),
    Mutant("planes-block-before", "B1", "the plane of another block", block_before, "planes-refine"),
    Mutant("planes-of-values", "B1", "planes of values for keys", other_side, "planes-refine"),
    Mutant("planes-stale", "B1", "planes of blocks that were never read", first_planes_kept, "planes-refine"),
    Mutant("planes-low-first", "-", "low bits as the base plane", low_bits_first, "finer-code"),
    Mutant("planes-free", "-", "bytes of planes not counted", planes_free, "planes-paid"),
    Mutant("replaced-planes-free", "-", "planes forgotten where an original came", replaced_planes_free, "planes-paid"),
    Mutant("level-lowered", "-", "a new choice in place of what was read", last_plane_only, "levels-rise"),
    Mutant("lost-plane-read", "B5", "a lost plane read as it lies in memory", zeros_for_lost, "lost-plane"),
)
