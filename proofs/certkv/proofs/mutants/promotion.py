"""Promotion: originals that are fetched, resident, not resident, or gone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import numpy as np

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.model import Check, Mutant, patched, require, require_raises
from certkv.proofs.mutants.scene import Scene, require_sound
from certkv.reference import Budget, HostMissingError, Naive, PaperPolicy
from certkv.reference.cache import HostTier, Scratch, Side, View
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray, IntArray
from certkv.reference.steps import attend as attend_module
from certkv.reference.steps import budget, naive, paper
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.group import Group, Levels

TIGHT = Budget(0.02)
"""Promotes blocks of the scenes here without giving up on them."""


def others(scene: Scene, turns: int) -> list[Scene]:
    """Return the scene with other queries, so that each turn promotes other blocks."""
    return [replace(scene, q=np.roll(scene.q, 5 * turn, axis=1)) for turn in range(turns)]


def scratch_changes_nothing() -> None:
    """Run the same steps with no scratch, with little and with much: same outputs and bounds, bit for bit."""
    for policy in (TIGHT, PaperPolicy(value_tolerance=0.02, k_min=3)):
        plain = gaussian(41, tokens=104, sharpness=2.0)
        size = plain.block * plain.k.shape[2] * 2
        expected = [turn.decode(policy, plain.cache()) for turn in others(plain, 4)]
        promoted = sum(int(step.certificate.promoted.sum()) for step in expected)
        require(promoted > 0, f"{policy.name}: no block was promoted")
        for slots in (1, 3, 100):
            scene = replace(plain, scratch_bytes=slots * size)
            cache = scene.cache()
            for turn, want in zip(others(scene, 4), expected, strict=True):
                where = f"{policy.name}, {slots} slots:"
                step = turn.decode(policy, cache)
                require_sound(turn, step, where=where)
                same = np.array_equal(step.output, want.output)
                same &= np.array_equal(step.certificate.bound, want.certificate.bound)
                require(bool(same), f"{where} the step differs from the one without scratch")


def lost_originals_are_errors() -> None:
    """Lose a block, or everything: a step that needs it raises, whatever the rung; one that does not is sound."""
    scene = gaussian(42, tokens=104, sharpness=2.0)
    everything = PaperPolicy(k_min=6, k_max=6, value_tolerance=0.0)
    for block in (2, None):
        for policy in (Budget(0.0), Budget(1e-4), everything):
            cache = scene.cache()
            cache.host.lose(block=block)
            where = f"{policy.name}, block {'all' if block is None else block}"
            require_raises(HostMissingError, partial(scene.decode, policy, cache), where)
            require_sound(scene, scene.decode(Naive(), cache), where=where)
    values_only = replace(scene, keys="dense")
    cache = values_only.cache()
    cache.host.lose(block=2)
    require_raises(HostMissingError, partial(values_only.decode, TIGHT, cache), "values alone")


def promotion_reads_its_block() -> None:
    """Let one block have all the error of a side: promoting it is enough, though nothing else was ever fetched."""
    scene = gaussian(47, tokens=96, q_heads=2, kv_heads=1)
    noisy = np.repeat(np.arange(6) == 2, 16)[:, None, None]
    values = replace(scene, keys="dense", v=np.where(noisy, scene.v, np.float16(0.0)))
    keys = replace(scene, values="dense", k=np.where(noisy, scene.k, np.float16(0.5)))
    for name, only, rung in (("values", values, 2), ("keys", keys, 1)):
        bound = only.decode(Naive()).certificate.bound
        step = only.decode(Budget(float(bound.min()) / 100, "absolute"))
        found, promoted = step.certificate.rung, step.certificate.promoted.sum(axis=1)
        enough = (found == rung) & (promoted == 1)
        require(bool(enough.all()), f"{name}: rungs {found}, {promoted} blocks promoted, but one is enough")
        require_sound(only, step, where=name)


REAL_FETCH = Scratch.fetch


def slot_zero_poisoned() -> AbstractContextManager[None]:
    """Read slot 0 for a block that is not resident, and fetch nothing."""

    def fetch(self: Scratch, side: Side, kv_head: int, blocks: IntArray) -> AnyArray:
        if self.bytes == 0:
            return REAL_FETCH(self, side, kv_head, blocks)
        pool = self._pool_of(self._host.read(side, kv_head, np.array([0])))
        return pool[[self.lookup((side, kv_head, int(b))) or 0 for b in blocks]]

    return patched((Scratch, "fetch", fetch))


def slot_zero_reused() -> AbstractContextManager[None]:
    """Fetch a missing block into its slot and read slot 0, which by now holds another block."""

    def fetch(self: Scratch, side: Side, kv_head: int, blocks: IntArray) -> AnyArray:
        resident = [self.lookup((side, kv_head, int(b))) is not None for b in blocks]
        out = REAL_FETCH(self, side, kv_head, blocks)
        if self.bytes:
            out[~np.array(resident, np.bool_)] = self._pool_of(out)[0]
        return out

    return patched((Scratch, "fetch", fetch))


def stale_slot() -> AbstractContextManager[None]:
    """Forget the side in the table: keys answer for values."""

    def lookup(self: Scratch, key: tuple[Side, int, int]) -> int | None:
        slots = (self._table.get((side, *key[1:])) for side in ("keys", "values"))
        return next((slot for slot in slots if slot is not None), None)

    return patched((Scratch, "lookup", lookup))


def first_block_instead() -> AbstractContextManager[None]:
    """Read the first block where one is missing."""

    def read(self: HostTier, side: Side, kv_head: int, blocks: IntArray | slice) -> AnyArray:
        present = self._present[side][:, kv_head]
        wanted = np.arange(len(present))[blocks]
        return np.asarray(np.nan_to_num(self._store[side][np.where(present[wanted], wanted, 0), kv_head]))

    return patched((HostTier, "read", read))


def decoded_instead() -> AbstractContextManager[None]:
    """Answer with decoded values where the originals are gone, on every rung."""
    originals, everything = View.originals, View.all_originals

    def coded(self: View, side: Side, blocks: IntArray) -> FloatArray:
        try:
            return originals(self, side, blocks)
        except HostMissingError:
            return self.decoded(side)[blocks]

    def all_coded(self: View, side: Side) -> AnyArray:
        try:
            return everything(self, side)
        except HostMissingError:
            full = self.decoded(side).reshape(-1, self.cache.head_dim).astype(self.cache.dtype)
            return np.concatenate([full, self._tail(side)])

    return patched((View, "originals", coded), (View, "all_originals", all_coded))


def decoded_values_instead() -> AbstractContextManager[None]:
    """Do the same for values only."""
    originals = View.originals

    def coded(self: View, side: Side, blocks: IntArray) -> FloatArray:
        try:
            return originals(self, side, blocks)
        except HostMissingError:
            if side == "keys":
                raise
            return self.decoded(side)[blocks]

    return patched((View, "originals", coded))


def unmasked_values() -> AbstractContextManager[None]:
    """Multiply every row of the buffer of originals, wanted or not, by its weight."""

    def unmasked(group: Group, levels: Levels, rows: IntArray) -> Attended:
        seen = attend_module.attend(group, levels, rows)
        if not levels.values.any():
            return seen
        buffer = group._originals["values"]
        nothing = np.zeros((len(rows), buffer.shape[0] * buffer.shape[1]))
        return replace(seen, output=seen.output + nothing @ buffer.reshape(-1, buffer.shape[-1]))

    return patched(*((module, "attend", unmasked) for module in (naive, paper, budget)))


def blended_scores() -> AbstractContextManager[None]:
    """Choose between exact and coded scores by multiplying with 1 and 0."""
    exact_scores = Group.exact_scores

    def blended(self: Group, wanted: BoolArray) -> FloatArray:
        exact = exact_scores(self, wanted)
        return exact + 0.0 * exact.sum(axis=1, keepdims=True) if wanted.any() else exact

    return patched((Group, "exact_scores", blended))


CHECKS = (
    Check("scratch-neutral", "scratch changes no output and no bound", scratch_changes_nothing),
    Check("promotion-masked", "what was not fetched has no influence", promotion_reads_its_block),
    Check("lost-is-error", "a missing original is an error on every rung", lost_originals_are_errors),
)

MUTANTS = (
    Mutant(
        "slot-zero-poisoned", "B1", "a missing block reads slot 0, never filled", slot_zero_poisoned, "scratch-neutral"
    ),
    Mutant(
        "slot-zero-reused", "B1", "a missing block reads slot 0, another block", slot_zero_reused, "scratch-neutral"
    ),
    Mutant("stale-slot", "B1", "values read the slot of the keys", stale_slot, "scratch-neutral"),
    Mutant("first-block-instead", "B1", "a lost block reads block 0", first_block_instead, "lost-is-error"),
    Mutant("unmasked-values", "B4", "rows never filled, times weight 0", unmasked_values, "promotion-masked"),
    Mutant("blended-scores", "B4", "scores never computed, times 0", blended_scores, "promotion-masked"),
    Mutant("decoded-instead", "B5", "decoded data where originals are gone", decoded_instead, "lost-is-error"),
    Mutant("decoded-values-instead", "B5", "the same for promoted values", decoded_values_instead, "lost-is-error"),
)
