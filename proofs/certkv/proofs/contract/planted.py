"""References with a planted mistake, each of which the twin must tell from the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import patched
from certkv.reference import Cache, Step
from certkv.reference import step as step_module
from certkv.reference.cache import HostTier, Scratch, Side, View
from certkv.reference.cache import cache as cache_module
from certkv.reference.ladder import Action, Observation, next_action
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps import attend as attend_module
from certkv.reference.steps import budget, paper
from certkv.reference.steps.group import Levels

Plant = Callable[[], AbstractContextManager[None]]


def slot_zero() -> AbstractContextManager[None]:
    """Serve a missing block from the first one."""

    def read(self: HostTier, side: Side, kv_head: int, blocks: Any) -> AnyArray:
        stored = self._store[side]
        wanted = np.arange(len(stored))[blocks] if isinstance(blocks, slice) else blocks
        present = self._present[side][:, kv_head]
        store = np.nan_to_num(stored[np.where(present[wanted], wanted, 0), kv_head].astype(np.float32))
        return np.asarray(store.astype(stored.dtype))

    return patched((HostTier, "read", read))


def missing_left_out() -> AbstractContextManager[None]:
    """Keep coded what cannot be read."""
    attend = attend_module.attend

    def forgiving(group: Any, levels: Levels, rows: Any) -> Any:
        present = group.view.cache.host._present
        keys = levels.keys & present["keys"][: levels.keys.shape[1], group.view.kv_head]
        values = levels.values & present["values"][: levels.values.shape[1], group.view.kv_head]
        levels.keys[...], levels.values[...] = keys, values
        return attend(group, levels, rows)

    return patched((budget, "attend", forgiving), (paper, "attend", forgiving))


def unordered_accepted() -> AbstractContextManager[None]:
    """Accept unless the bound is known to be too large."""

    def lenient(seen: Observation) -> Action:
        action = next_action(seen)
        fits = action in (Action.EXACT_HEAD, Action.REFINE) and not (seen.bound > seen.tolerance)
        return Action.ACCEPT if fits and seen.ranked and seen.bounded and not seen.tolerance <= 0 else action

    return patched((budget, "next_action", lenient))


def nan_let_in() -> AbstractContextManager[None]:
    """Take NaN and infinities in k, v and q."""

    def nothing(_name: str, _array: AnyArray) -> None:
        return None

    return patched((cache_module, "require_finite", nothing), (step_module, "require_finite", nothing))


def nan_let_out() -> AbstractContextManager[None]:
    """Return whatever was computed."""
    return patched((step_module, "require_numbers", lambda _output: None))


def encoded_twice() -> AbstractContextManager[None]:
    """Encode a block once more, with the same result."""
    encode = Cache._encode

    def again(self: Cache, k: AnyArray, v: AnyArray) -> None:
        self.format("keys").encode(k)
        encode(self, k, v)

    return patched((Cache, "_encode", again))


def codes_rewritten() -> AbstractContextManager[None]:
    """Touch the codes of earlier blocks when a new one fills."""
    encode = Cache._encode

    def touched(self: Cache, k: AnyArray, v: AnyArray) -> None:
        encode(self, k, v)
        if self.blocks > len(k):
            self.encoded("values").codes[0] ^= 1

    return patched((Cache, "_encode", touched))


def never_accepted_bound() -> AbstractContextManager[None]:
    """Accept when the rounds are used up."""

    def tired(seen: Observation) -> Action:
        action = next_action(seen)
        return Action.ACCEPT if action is Action.EXACT_HEAD and seen.tolerance > 0 else action

    return patched((budget, "next_action", tired))


def alarm_ignored() -> AbstractContextManager[None]:
    """Go on where scores do not agree."""

    def deaf(seen: Observation) -> Action:
        return next_action(replace(seen, consistent=True))

    return patched((paper, "next_action", deaf))


def rounds_for_ever() -> AbstractContextManager[None]:
    """Tell the ladder that one more round is left than is."""
    decide = budget.decide

    def generous(bound: FloatArray, limit: FloatArray, rounds_left: Any) -> Any:
        return decide(bound, limit, rounds_left + 1)

    return patched((budget, "decide", generous))


def scratch_outlives_reset() -> AbstractContextManager[None]:
    """Keep scratch at a reset."""
    reset = Cache.reset

    def kept(self: Cache) -> None:
        old = getattr(self, "scratch", None)
        reset(self)
        if old is not None:
            self.scratch._table, self.scratch._pool = old._table, old._pool
            self.scratch.moved_bytes = 0

    return patched((Cache, "reset", kept))


def scratch_without_side() -> AbstractContextManager[None]:
    """Look keys and values up under the same name."""
    lookup, store = Scratch.lookup, Scratch._store

    return patched(
        (Scratch, "lookup", lambda self, key: lookup(self, ("keys", *key[1:]))),
        (Scratch, "_store", lambda self, key, row: store(self, ("keys", *key[1:]), row)),
    )


def scratch_not_written() -> AbstractContextManager[None]:
    """Reuse a slot without writing the new block into it."""
    store = Scratch._store

    def stale(self: Scratch, key: Any, row: AnyArray) -> None:
        full = self._slots and len(self._table) == self._slots
        store(self, key, next(iter(self._pool_of(row[None]))) if full else row)

    return patched((Scratch, "_store", stale))


def refused_append_kept() -> AbstractContextManager[None]:
    """Keep the keys of an append that is refused for its values."""
    append = Cache.append

    def partial(self: Cache, k: AnyArray, v: AnyArray) -> None:
        if np.isfinite(k).all() and not np.isfinite(v).all():
            self._tail["keys"] = np.concatenate([self._tail["keys"], k])
        append(self, k, v)

    return patched((Cache, "append", partial))


def tail_dropped() -> AbstractContextManager[None]:
    """Forget a token whenever a block fills."""
    encode, append = Cache._encode, Cache.append

    def forgetful(self: Cache, k: AnyArray, v: AnyArray) -> None:
        before = self.blocks
        append(self, k, v)
        if self.blocks > before and len(self._tail["keys"]):
            self._tail = {side: tail[1:] for side, tail in self._tail.items()}

    return patched((Cache, "append", forgetful), (Cache, "_encode", encode))


def zero_tail() -> AbstractContextManager[None]:
    """Read zeros for the tail in rungs 3 and 4."""
    everything = View.all_originals

    def zeros(self: View, side: Side) -> AnyArray:
        found = everything(self, side).copy()
        found[self.blocks * self.cache.block :] = 0
        return found

    return patched((View, "all_originals", zeros))


def rung_below() -> AbstractContextManager[None]:
    """Report rung 2 where a head came from the originals."""
    decode = step_module.decode

    def modest(*arguments: Any, **settings: Any) -> Step:
        step = decode(*arguments, **settings)
        step.certificate.rung[step.certificate.rung == 3] = 2
        return step

    return patched((step_module, "decode", modest))


PLANTED: dict[str, Plant] = {
    "a missing block read from slot 0": slot_zero,
    "a missing block left coded": missing_left_out,
    "NaN accepted by the ladder": unordered_accepted,
    "NaN accepted in k, v and q": nan_let_in,
    "NaN returned": nan_let_out,
    "a block encoded twice": encoded_twice,
    "codes rewritten": codes_rewritten,
    "accepted when rounds are used up": never_accepted_bound,
    "the consistency alarm ignored": alarm_ignored,
    "rounds counted wrongly": rounds_for_ever,
    "scratch kept at a reset": scratch_outlives_reset,
    "scratch mixes keys and values": scratch_without_side,
    "a slot reused without being written": scratch_not_written,
    "half of a refused append kept": refused_append_kept,
    "a token lost when a block fills": tail_dropped,
    "zeros for the tail in rung 3": zero_tail,
    "the rung reported too low": rung_below,
}
