"""The cache: tails, blocks that are encoded once, who sees which token."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import require_sound
from certkv.reference import Budget, Cache, Naive, PaperPolicy, Step
from certkv.reference.cache import HostTier, Side, View
from certkv.reference.numbers.types import AnyArray


def fallback_sees_every_token() -> None:
    """Compute heads from originals after tokens arrived one by one, in chunks, and in the middle of a block."""
    scene = gaussian(43, tokens=55, keys="int8-paper", values="int4-g16", sharpness=2.0)
    for chunk in (1, 7, 55):
        cache = scene.empty_cache()
        for start in range(0, 55, chunk):
            cache.append(scene.k[start : start + chunk], scene.v[start : start + chunk])
        for position in (None, 54, 50, 20, 5):
            where = f"chunks of {chunk}, position {position},"
            step = scene.decode(Budget(0.0), cache, position=position)
            require(bool((step.certificate.rung == 3).all()), f"{where} not rung 3")
            require_sound(scene, step, position, f"{where} rung 3")
        cache.encoded("keys").codes[0] ^= 0x40
        step = scene.decode(PaperPolicy(k_min=3), cache)
        require(bool((step.certificate.rung == 4).all()), "corruption was not noticed")
        require_sound(scene, step, where=f"chunks of {chunk}, rung 4")


def causal_query_sees_its_past() -> None:
    """Ask at positions around block boundaries, under every policy."""
    scene = gaussian(44, tokens=55, sharpness=2.0)
    cache = scene.cache()
    for position in (0, 14, 15, 16, 31, 32, 47, 48, 54):
        for policy in (Naive(), Budget(0.01), PaperPolicy()):
            step = scene.decode(policy, cache, position=position)
            require_sound(scene, step, position, f"{policy.name}, position {position},")


def blocks_are_encoded_once() -> None:
    """Append in chunks: stored bits never change, and equal those of one append."""
    scene = gaussian(45, tokens=64, values="int4")
    whole = scene.cache()
    cache = scene.empty_cache()
    for start in range(0, 64, 9):
        cache.append(scene.k[start : start + 9], scene.v[start : start + 9])
        filled = cache.blocks
        for side in ("keys", "values") if filled else ():
            have, want = cache.encoded(side), whole.encoded(side)
            for name in ("codes", "step", "minimum"):
                same = np.array_equal(getattr(have, name), getattr(want, name)[:filled])
                require(same, f"{name} of the {side} changed after {start + 9} tokens")
    require_sound(scene, scene.decode(Naive(), cache))


def arrays_belong_to_the_caller() -> None:
    """Overwrite what was passed in and what came out: the cache and earlier results must not notice."""
    scene = gaussian(46, tokens=40)
    k, v = scene.k.copy(), scene.v.copy()
    cache = scene.empty_cache()
    for part in (slice(0, 35), slice(35, 40)):
        a, b = k[part].copy(), v[part].copy()
        cache.append(a, b)
        a[...] = 7.0
        b[...] = 7.0
    first = scene.decode(Naive(), cache)
    kept = {name: array.copy() for name, array in arrays(first).items()}
    require_sound(scene, first, where="inputs overwritten,")
    second = replace(scene, q=scene.q[::-1].copy()).decode(Naive(), cache)
    for name, array in arrays(second).items():
        array[...] = 0
        require(np.array_equal(arrays(first)[name], kept[name]), f"{name} changed with the next step")
    again = scene.decode(Naive(), cache)
    require(np.array_equal(again.output, kept["output"]), "a result that was overwritten came back")


def arrays(step: Step) -> dict[str, AnyArray]:
    """Return every array of a step by name."""
    found = {name: getattr(step.certificate, name) for name in step.certificate.__dataclass_fields__}
    return {**found, "output": step.output, "lse": step.lse, "paper_bound": step.paper_bound}


def quantized_rung_3() -> AbstractContextManager[None]:
    """Compute rungs 3 and 4 from what the codes mean."""

    def decoded(self: View, side: Side) -> AnyArray:
        full = self.decoded(side).reshape(-1, self.cache.head_dim).astype(self.cache.dtype)
        return np.concatenate([full, self._tail(side)])

    return patched((View, "all_originals", decoded))


def zero_tail() -> AbstractContextManager[None]:
    """Read zeros for every token after the last full block in rungs 3 and 4."""
    everything = View.all_originals

    def zeros(self: View, side: Side) -> AnyArray:
        found = everything(self, side).copy()
        found[self.blocks * self.cache.block :] = 0
        return found

    return patched((View, "all_originals", zeros))


def zero_appended() -> AbstractContextManager[None]:
    """Store zeros for every block that fills after the first append."""
    append = HostTier.append

    def forgetful(self: HostTier, keys: AnyArray, values: AnyArray) -> None:
        fresh = len(self._store["keys"]) == 0
        append(self, keys if fresh else np.zeros_like(keys), values if fresh else np.zeros_like(values))

    return patched((HostTier, "append", forgetful))


def zero_past_tail() -> AbstractContextManager[None]:
    """Read zeros for the tail of a past position, whose block has been coded since."""
    tail = View._tail

    def zeros(self: View, side: Side) -> AnyArray:
        found = tail(self, side)
        return found if self.blocks == self.cache.blocks else np.zeros_like(found)

    return patched((View, "_tail", zeros))


def seen_tokens(change: int) -> AbstractContextManager[None]:
    """Let a causal query see more or fewer tokens."""
    view = Cache.view

    def shifted(self: Cache, kv_head: int, position: int | None = None) -> View:
        if position is None:
            return view(self, kv_head)
        return view(self, kv_head, min(max(position + change, 0), self.tokens - 1))

    return patched((Cache, "view", shifted))


def started_block_is_coded() -> AbstractContextManager[None]:
    """Count a block as coded as soon as the query is in it, and see all of it."""
    view = Cache.view

    def eager(self: Cache, kv_head: int, position: int | None = None) -> View:
        if position is None:
            return view(self, kv_head)
        return view(self, kv_head, min(-(-(position + 1) // self.block) * self.block, self.tokens) - 1)

    return patched((Cache, "view", eager))


def encoded_again() -> AbstractContextManager[None]:
    """Decode what is stored and encode it again whenever a block fills."""
    encode = Cache._encode

    def again(self: Cache, k: AnyArray, v: AnyArray) -> None:
        for side in ("keys", "values") if self.blocks else ():
            decoded = self.format(side).decode(self.encoded(side)) * 1.001
            self._encoded[side] = self.format(side).encode(decoded.astype(self.dtype))
        encode(self, k, v)

    return patched((Cache, "_encode", again))


def tail_shared() -> AbstractContextManager[None]:
    """Keep the caller's arrays as the tail."""
    append = Cache.append

    def shared(self: Cache, k: AnyArray, v: AnyArray) -> None:
        append(self, k, v)
        kept = len(self._tail["keys"])
        if 0 < kept <= len(k):
            self._tail = {"keys": k[-kept:], "values": v[-kept:]}

    return patched((Cache, "append", shared))


CHECKS = (
    Check("fallback-complete", "rungs 3 and 4 attend to every token, however it arrived", fallback_sees_every_token),
    Check("causal", "a causal query sees its past and itself, and nothing else", causal_query_sees_its_past),
    Check("encoded-once", "a block is encoded once", blocks_are_encoded_once),
    Check("arrays-owned", "arrays passed in and out belong to the caller", arrays_belong_to_the_caller),
)

MUTANTS = (
    Mutant("tail-of-zeros", "B3", "rungs 3 and 4 read zeros for the tail", zero_tail, "fallback-complete"),
    Mutant("appended-zeros", "B3", "blocks of later appends are zeros", zero_appended, "fallback-complete"),
    Mutant("past-tail-of-zeros", "B3", "zeros for the tail of a past position", zero_past_tail, "fallback-complete"),
    Mutant("rung-3-quantized", "B6", "rungs 3 and 4 from decoded data", quantized_rung_3, "fallback-complete"),
    Mutant("tail-shared", "B8", "the caller's arrays kept as the tail", tail_shared, "arrays-owned"),
    Mutant("causal-self-missing", "-", "a query does not see itself", lambda: seen_tokens(-1), "causal"),
    Mutant("causal-future", "-", "a query sees the next token", lambda: seen_tokens(1), "causal"),
    Mutant("causal-whole-block", "-", "a query sees all of its block", started_block_is_coded, "causal"),
    Mutant("encoded-again", "-", "stored blocks decoded and encoded again", encoded_again, "encoded-once"),
)
