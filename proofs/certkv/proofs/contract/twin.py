"""The reference and the machines, side by side: every event happens to both, and every difference is a failure."""

from __future__ import annotations

from typing import Literal

import numpy as np

from certkv.proofs.contract import life_model
from certkv.proofs.contract.ladder_model import Seen
from certkv.proofs.contract.life_model import Content, Life, Missing
from certkv.proofs.contract.recorder import CountingFormat, Record, recording
from certkv.proofs.contract.replay import replay_ladder, replay_reads, replay_step
from certkv.proofs.contract.settled import check_policy, check_step
from certkv.proofs.mutants.model import CheckFailed, require, require_raises
from certkv.reference import Budget, Cache, CorruptionError, HostMissingError, Naive, Policy, Step
from certkv.reference import step as step_module
from certkv.reference.annotations.keys import residual_unit
from certkv.reference.cache import Side
from certkv.reference.cache.cache import SIDES
from certkv.reference.errors import CertkvError, InputError, NonFiniteError
from certkv.reference.numbers.types import AnyArray

Damage = Literal["codes", "step", "minimum", "annotation"]


class Twin:
    """A cache of the reference, one more without scratch, and their life as the machine tells it.

    Every method is one event. It raises `CheckFailed` where the reference does not what the machine does.

    Parameters
    ----------
    kv_heads, head_dim, block : int
    group : int
        Query heads per KV head.
    slots : int
        Blocks that scratch can hold.
    dtype : numpy dtype
        float16 or bfloat16.
    keys, values : str
        Formats.
    """

    def __init__(
        self,
        *,
        kv_heads: int = 2,
        head_dim: int = 8,
        block: int = 4,
        group: int = 2,
        slots: int = 0,
        dtype: object = np.float16,
        keys: str = "int8",
        values: str = "int4-g16",
    ) -> None:
        self.group = group
        size = block * head_dim * np.dtype(dtype).itemsize  # type: ignore[call-overload]
        self.cache, self.bare = (
            Cache(
                kv_heads=kv_heads,
                head_dim=head_dim,
                dtype=dtype,
                keys=keys,
                values=values,
                block=block,
                # any size that holds so many blocks; the rest of it must not be used
                scratch_bytes=n * size + (size - 1 if n else 0),
            )
            for n in (slots, 0)
        )
        self.counts: dict[Side, CountingFormat] = {}
        for side in SIDES:
            self.counts[side] = CountingFormat(self.cache.format(side))
            self.cache._formats[side] = self.counts[side]
        self.life = Life(kv_heads, block, slots)
        self._forget()

    def _forget(self) -> None:
        shape = (0, self.cache.kv_heads, self.cache.head_dim)
        self.originals: dict[Side, AnyArray] = {side: np.empty(shape, self.cache.dtype) for side in SIDES}
        self.stored: dict[tuple[Side, int, int], bytes] = {}
        self.damaged: set[tuple[Side, int, int]] = set()
        """Blocks whose codes or metadata were changed after they were encoded: precondition P1 does not hold."""
        self.noted = False
        """Whether an annotation was changed to NaN: then a monitor may not hold, though every code is in order."""
        self.moved = 0

    # events ---------------------------------------------------------------------------------------------------------

    def append(self, k: AnyArray, v: AnyArray) -> None:
        """Add tokens [tokens, kv_heads, head_dim]; what is not finite must be refused, with its position."""
        for counting in self.counts.values():
            counting.encoded.clear()
        bad = next((name for name, x in (("k", k), ("v", v)) if not np.isfinite(x).all()), None)
        if bad is not None:
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(k if bad == "k" else v))[0])
            for cache in (self.cache, self.bare):
                error = require_raises(NonFiniteError, lambda cache=cache: cache.append(k, v), f"{bad} is not finite")  # type: ignore[misc]
                position = getattr(error, "position", None)
                require((getattr(error, "tensor", None), position) == (bad, first), f"{error}, but it is at {first}")
            require(not any(c.encoded for c in self.counts.values()), "something was encoded of a refused append")
            self.check()
            return
        before = self.life.blocks
        self.life = life_model.append(self.life, len(k))
        for side, x in (("keys", k), ("values", v)):
            self.originals[side] = np.concatenate([self.originals[side], x])  # type: ignore[index]
        for cache in (self.cache, self.bare):
            cache.append(k.copy(), v.copy())
        for side in SIDES:
            fresh = [
                self.original((self.life.generation, side, h, b)).tobytes()
                for b in range(before, self.life.blocks)
                for h in range(self.life.heads)
            ]
            counted = self.counts[side].encoded
            require(sorted(counted) == sorted(fresh), f"{side}: {len(counted)} blocks encoded, {len(fresh)} are new")
        require(self.cache.blocks == self.life.blocks, f"{self.cache.blocks} blocks, not {self.life.blocks}")
        for b in range(before, self.life.blocks):
            for h in range(self.life.heads):
                self.stored.update({(side, h, b): self._bits(side, h, b) for side in SIDES})
        self.check()

    def lose(self, kv_head: int | None = None, block: int | None = None) -> None:
        """Lose originals of the host tier: of one KV head, of one block, or of all."""
        for cache in (self.cache, self.bare):
            cache.host.lose(kv_head, block)
        self.life = life_model.lose(self.life, kv_head, block)
        self.check()

    def damage(self, what: Damage, side: Side, kv_head: int, block: int, seed: int) -> None:
        """Change what is stored of a block: flip codes, or put NaN into its metadata or one of its annotations.

        A NaN in an annotation leaves the certificate sound, so it does not count as damage.
        """
        for cache in (self.cache, self.bare):
            encoded = cache.encoded(side)
            if what == "codes":
                flips = np.random.default_rng(seed).integers(1, 256, encoded.codes[block, kv_head].shape, np.uint8)
                encoded.codes[block, kv_head] ^= flips
            elif what == "annotation":
                notes = cache.key_annotations() if side == "keys" else cache.value_annotations()
                names = sorted(name for name, array in notes.arrays().items() if array.dtype != np.uint8)
                notes.arrays()[names[seed % len(names)]][block, kv_head] = np.nan
            else:
                getattr(encoded, what)[block, kv_head] = np.nan
        if what == "annotation":
            self.noted = True
        else:
            self.damaged.add((side, kv_head, block))
        self.stored[side, kv_head, block] = self._bits(side, kv_head, block)
        self.check()

    def reset(self) -> None:
        """Forget every token."""
        for cache in (self.cache, self.bare):
            cache.reset()
        self.life = life_model.reset(self.life)
        self._forget()
        self.check()

    def decode(
        self, q: AnyArray, policy: Policy, *, position: int | None = None, index: int = 0, out_dtype: str = "float64"
    ) -> Step | CertkvError:
        """Run one step under a policy and hold everything that was seen of it against the machines.

        Returns
        -------
        Step or CertkvError
            What the reference returned or raised.
        """
        refused = self._refused(q, position)
        with recording(self.cache) as record:
            outcome = self._run(self.cache, q, policy, position, index, out_dtype)
        if refused is not None:
            require(type(outcome) is refused, f"{outcome!r}, not {refused.__name__}")
            require(not record.reads, "originals were read for a refused query")
            self.check()
            return outcome
        self.life, moved, missing = replay_reads(self.life, record.reads, self.original)
        self.moved += moved
        self._check_outcome(outcome, missing)
        tokens = self.life.tokens if position is None else position + 1
        lost, damaged = self.life.lost, {key for key in self.damaged if key[2] < tokens // self.life.block}
        alarm = bool(self.damaged) or self.noted
        check_policy(policy, outcome, self.life, tokens, lost, alarm, self._loud(q, damaged))
        self._check_ladder(record, policy, outcome)
        if isinstance(outcome, Step):
            size = self.cache.host.block_bytes
            require(outcome.moved_bytes == moved * size, f"{outcome.moved_bytes} bytes moved, not {moved * size}")
            kept = self.originals["keys"][:tokens], self.originals["values"][:tokens]
            check_step(outcome, q, *kept, policy, {h for _, h, _ in damaged}, record.reads, size)
        self._compare(outcome, self._run(self.bare, q, policy, position, index, out_dtype))
        self.check()
        return outcome

    # what must hold after every event -------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare tokens, blocks, tail, codes, and bytes."""
        life = self.life
        for cache in (self.cache, self.bare):
            held = (cache.tokens, cache.blocks, len(cache.tail("keys")), len(cache.tail("values")))
            require(held == (life.tokens, life.blocks, life.tail, life.tail), f"tokens, blocks, tails {held}: {life}")
            stored = life.blocks * life.heads * 2 * cache.host.block_bytes
            require(cache.host.bytes == stored, f"the host tier holds {cache.host.bytes} bytes, not {stored}")
        for side in SIDES:
            tail = self.originals[side][life.blocks * life.block :]
            require(self.cache.tail(side).tobytes() == tail.tobytes(), f"the tail of the {side} is not what came last")
        for (side, h, b), bits in self.stored.items():
            require(self._bits(side, h, b) == bits, f"what is stored of the {side} of block {b}, KV head {h} changed")
        size = self.cache.host.block_bytes
        require(self.cache.scratch.bytes == life.slots * size, "scratch is not as large as it should be")
        moved = self.cache.scratch.moved_bytes
        require(moved == self.moved * size, f"{moved} bytes moved in all, not {self.moved * size}")

    def original(self, content: Content) -> AnyArray:
        """Return the original of a block by its name, [block, head_dim]."""
        generation, side, kv_head, block = content
        require(generation == self.life.generation, f"{content} is from before a reset")
        start = block * self.life.block
        return np.ascontiguousarray(self.originals[side][start : start + self.life.block, kv_head])

    def _bits(self, side: Side, kv_head: int, block: int) -> bytes:
        one = self.cache.encoded(side).take((block, kv_head))
        return one.codes.tobytes() + one.step.tobytes() + one.minimum.tobytes()

    def _refused(self, q: AnyArray, position: int | None) -> type[CertkvError] | None:
        """Return the error that the arguments alone demand."""
        if not np.isfinite(q).all():
            return NonFiniteError
        if self.life.tokens == 0 or (position is not None and not 0 <= position < self.life.tokens):
            return InputError
        return None

    @staticmethod
    def _run(
        cache: Cache, q: AnyArray, policy: Policy, position: int | None, index: int, out_dtype: str
    ) -> Step | CertkvError:
        try:
            with np.errstate(all="ignore"):  # damaged metadata
                return step_module.decode(q, cache, policy, position=position, index=index, out_dtype=out_dtype)
        except CertkvError as error:
            return error

    def _check_outcome(self, outcome: Step | CertkvError, missing: Missing | None) -> None:
        """Bounded, dense, or one of two errors, each where it belongs."""
        if isinstance(outcome, HostMissingError):
            said = Missing(outcome.kv_head, outcome.block)
            require(said == missing, f"{said} is called missing; what was read and missing: {missing}")
        else:
            require(missing is None, f"{missing} was read, and {outcome!r} followed")
        if isinstance(outcome, CorruptionError):
            require(bool(self.damaged), f"{outcome}, but nothing was damaged")
        elif not isinstance(outcome, Step | HostMissingError):
            raise CheckFailed(f"{outcome!r} for arguments that are in order")

    def _check_ladder(self, record: Record, policy: Policy, outcome: Step | CertkvError) -> None:
        rounds = policy.rounds if isinstance(policy, Budget) else 0
        ended = isinstance(outcome, Step | CorruptionError)
        if isinstance(policy, Naive):
            shown = [{head: [Seen()] for head in trace.heads} for trace in record.groups]
        else:
            shown = [replay_ladder(trace, rounds, ended) for trace in record.groups]
        if isinstance(outcome, Step):
            heads = sorted(head for group in shown for head in group)
            require(heads == list(range(len(outcome.output))), f"decisions for heads {heads}")
            replay_step(shown, rounds, outcome)

    def _loud(self, q: AnyArray, damaged: set[tuple[Side, int, int]]) -> bool:
        """Whether some exact score is farther from its coded one than any bound that was stored allows."""
        scale = 1.0 / np.sqrt(self.cache.head_dim)
        for side, h, b in damaged:
            if side == "values":
                continue
            encoded = self.cache.encoded("keys").take((slice(b, b + 1), h))
            decoded = self.bare.format("keys").decode(encoded)[0]
            rows = q[h * self.group : (h + 1) * self.group].astype(np.float64)
            original = self.original((self.life.generation, "keys", h, b)).astype(np.float64)
            with np.errstate(all="ignore"):
                apart = np.abs(rows @ (original - decoded).T).max() * scale
                unit = residual_unit(encoded)[0].max()
                residual = unit * float(self.cache.key_annotations().relative_norm_ub[b, h])
                allowed = scale * np.linalg.norm(rows, axis=-1).max() * residual
            # twice, and 1: far above rounding of either side and above the guard of the policies used here
            if not apart <= 2.0 * allowed + 1.0:
                return True
        return False

    @staticmethod
    def _compare(outcome: Step | CertkvError, bare: Step | CertkvError) -> None:
        """Scratch changes what is moved, and may still hold what the host tier has lost; it changes nothing else."""
        if not isinstance(outcome, Step):
            require(type(bare) is type(outcome), f"{outcome!r} with scratch, {bare!r} without")
            return
        if isinstance(bare, HostMissingError):
            return
        if not isinstance(bare, Step):
            raise CheckFailed(f"a step with scratch, {bare!r} without")
        fields = outcome.certificate.__dataclass_fields__
        pairs = [(name, getattr(outcome.certificate, name), getattr(bare.certificate, name)) for name in fields]
        pairs += [("output", outcome.output, bare.output), ("lse", outcome.lse, bare.lse)]
        for name, one, other in pairs:
            require(one.tobytes() == other.tobytes(), f"{name} depends on scratch")
