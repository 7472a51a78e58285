"""The reference's cache and the paged one, side by side, under the same events."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from certkv import reference
from certkv.fast.cache import TieredCache
from certkv.fast.encode import encode_keys, encode_values
from certkv.fast.errors import CapacityError, NonFiniteError
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.fast.numbers import row_norms
from certkv.fast.pages import NO_PAGE
from certkv.fast.pool import KEY_NOTES, VALUE_NOTES, allocate
from certkv.reference import errors as reference_errors
from certkv.reference.annotations.blockwise import Blockwise
from certkv.reference.cache.cache import SIDES

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.lists(st.integers(0, 11), min_size=3, max_size=3)
TYPES = {torch.float16: np.dtype(np.float16), torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}


def to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The same bits as a tensor; 16-bit floats by way of integers, which both sides know."""
    if array.dtype.itemsize != 2:
        return torch.from_numpy(array.copy())
    dtype = next(t for t, n in TYPES.items() if n == array.dtype)
    return torch.from_numpy(array.view(np.int16).copy()).view(dtype)


def same_bits(ours: torch.Tensor, theirs: np.ndarray[Any, Any] | torch.Tensor) -> bool:
    """Equal bit for bit, NaN and signed zeros included."""
    other = theirs if isinstance(theirs, torch.Tensor) else to_torch(np.ascontiguousarray(theirs))
    if (ours.dtype, ours.shape) != (other.dtype, other.shape):
        return False
    mine, its = (x.contiguous().flatten().view(torch.uint8) for x in (ours, other))
    return torch.equal(mine, its)


def poisoned(x: torch.Tensor) -> bool:
    """Holds nothing: every element is what no block would hold by chance."""
    return bool((x == 0xAA).all() if x.dtype == torch.uint8 else torch.isnan(x).all())


class CacheMachine(RuleBasedStateMachine):
    """Ragged appends, resets and faults in any order, on caches of any small size."""

    @initialize(
        batch=st.integers(1, 3),
        kv_heads=st.integers(1, 2),
        block=st.integers(1, 5),
        head_dim=st.sampled_from([8, 40, 72]),
        keys=st.sampled_from(sorted(name for name, fmt in KEY_FORMATS.items() if fmt.least_block == 1)),
        values=st.sampled_from(sorted(VALUE_FORMATS)),
        dtype=st.sampled_from(list(TYPES)),
        place=st.sampled_from(["host", "device"]),
        spare=st.integers(0, 4),
    )
    def start(
        self, batch: int, kv_heads: int, head_dim: int, dtype: torch.dtype, place: Any, spare: int, **formats: Any
    ) -> None:
        """Make an empty cache of each kind; formats are keys, values, block, and planes where there are some."""
        capacity = 5 * formats["block"] + spare
        self.ours = TieredCache(batch, kv_heads, head_dim, capacity, dtype, originals=place, **formats)
        self.theirs = [
            reference.Cache(kv_heads=kv_heads, head_dim=head_dim, dtype=TYPES[dtype], **formats) for _ in range(batch)
        ]
        self.fed: list[dict[str, list[np.ndarray[Any, Any]]]] = [{side: [] for side in SIDES} for _ in range(batch)]
        self.lost = np.zeros((batch, kv_heads, self.ours.max_blocks), np.bool_)

    def tokens(self, seed: int, count: int) -> list[np.ndarray[Any, Any]]:
        """Keys and values of a batch: normal, or far from zero, or with a constant channel, or subnormal."""
        ours, rng = self.ours, np.random.default_rng(seed)
        made = rng.standard_normal((2, ours.batch, count, ours.kv_heads, ours.head_dim))
        kind = seed % 4
        made = made + 300.0 if kind == 1 else made * 2.0**-20 if kind == 3 else made
        if kind == 2:
            made[..., 0] = 1.5
        return list(made.astype(TYPES[ours.dtype]))

    @rule(counts=COUNTS, seed=SEEDS, padding=st.integers(0, 2))
    def append(self, counts: list[int], seed: int, padding: int) -> None:
        """Append any number of tokens to each sequence, with NaN as padding; none at all where one has no room."""
        ours = self.ours
        added = counts[: ours.batch]
        k, v = self.tokens(seed, max(added) + padding)
        for s, count in enumerate(added):
            k[s, count:], v[s, count:] = np.nan, np.nan
        if any(have + new > ours.capacity for have, new in zip(ours.tokens, added, strict=True)):
            with pytest.raises(CapacityError):
                ours.append(to_torch(k), to_torch(v), added)
            return
        ragged = padding or len(set(added)) > 1
        ours.append(to_torch(k), to_torch(v), added if ragged else None)
        for s, count in enumerate(added):
            self.theirs[s].append(k[s, :count], v[s, :count])
            self.fed[s]["keys"].append(k[s, :count])
            self.fed[s]["values"].append(v[s, :count])

    @rule(seed=SEEDS, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def refused(self, seed: int, bad: float) -> None:
        """Append something that is not finite: both refuse, at the same place."""
        pair, which = self.tokens(seed, 3), seed % 2
        s = seed // 2 % self.ours.batch
        at = np.unravel_index(seed // 8 % pair[which][s].size, pair[which][s].shape)
        pair[which][(s, *at)] = bad
        with pytest.raises(reference_errors.NonFiniteError) as theirs:
            self.theirs[s].append(pair[0][s], pair[1][s])
        with pytest.raises(NonFiniteError) as ours:
            self.ours.append(to_torch(pair[0]), to_torch(pair[1]))
        expected = (theirs.value.tensor, (s, *theirs.value.position))
        assert (ours.value.tensor, ours.value.position) == expected

    @rule(seed=SEEDS)
    def reset(self, seed: int) -> None:
        """Start a sequence over."""
        s = seed % self.ours.batch
        self.ours.reset(s)
        self.theirs[s].reset()
        self.fed[s] = {side: [] for side in SIDES}
        self.lost[s] = False

    @rule(seed=SEEDS, which=st.sampled_from(["sequence", "head", "block", "one"]))
    def lose(self, seed: int, which: str) -> None:
        """Lose originals of a sequence: all, of one KV head, of one block, or one."""
        s = seed % self.ours.batch
        if self.ours.blocks(s):
            head = seed // 3 % self.ours.kv_heads if which in ("head", "one") else None
            block = seed // 6 % self.ours.blocks(s) if which in ("block", "one") else None
            self.ours.originals.lose(s, head, block)
            self.theirs[s].host.lose(head, block)
            blocks = slice(0, self.ours.blocks(s)) if block is None else block
            self.lost[s, slice(None) if head is None else head, blocks] = True

    @invariant()
    def everything_is_the_same(self) -> None:
        """Codes, metadata, originals, tails and anchors bit for bit; nothing else is readable."""
        if not hasattr(self, "ours"):
            return
        ours = self.ours
        assert ours.lengths.tolist() == list(ours.tokens) == [cache.tokens for cache in self.theirs]
        held = [ours.pages.pages(s) for s in range(ours.batch)]
        reserved = [ours.pages.reserved(s) for s in range(ours.batch)]
        free = sorted(set(range(len(ours.pool.key_codes))) - {page for pages in held for page in pages})
        assert len(free) == ours.pages.free + sum(map(len, reserved))
        for tensor in ours.pool.tensors().values():
            assert poisoned(tensor[free])
        for s, cache in enumerate(self.theirs):
            blocks = ours.blocks(s)
            row = ours.pages.table[s].tolist()
            assert row == held[s] + reserved[s] + [NO_PAGE] * (ours.max_blocks - blocks - len(reserved[s]))
            self.same_device_originals(s, cache)
            self.same_originals(s, cache)
            if blocks:
                self.same_codes(cache, held[s])
                self.same_annotations(s, cache, held[s])
                assert same_bits(ours.anchor[s], cache.anchor().astype(np.float32))
            else:
                assert not ours.anchor[s].any()

    def same_codes(self, cache: reference.Cache, pages: list[int]) -> None:
        """Codes and metadata."""
        pool = self.ours.pool
        keys, values = cache.encoded("keys"), cache.encoded("values")
        for mine, its in (
            (pool.key_codes, keys.codes),
            (pool.key_step, keys.step),
            (pool.key_minimum, keys.minimum),
            (pool.value_codes, values.codes),
            (pool.value_step, values.step),
            (pool.value_minimum, values.minimum),
        ):
            assert same_bits(mine[pages], its)
        if keys.norm is not None and keys.norm.shape[-1]:
            # each KV head of the reference holds a copy of what all share
            assert same_bits(pool.key_norm[pages].expand(-1, self.ours.kv_heads, -1), keys.norm)

    def same_annotations(self, s: int, cache: reference.Cache, pages: list[int]) -> None:
        """Those of the block by itself, bit for bit; within one step of storage of the reference's."""
        ours = self.ours
        k, v = (to_torch(np.ascontiguousarray(self.history(s, side))) for side in SIDES)
        alone = allocate(len(pages), ours.kv_heads, ours.block, ours.head_dim, ours.dtype, ours.values, keys=ours.keys)
        to = torch.arange(len(pages))
        encode_keys(k, to, alone, KEY_FORMATS[ours.keys])
        encode_values(v, to, alone, ours.anchor[s].expand(len(pages), -1, -1), VALUE_FORMATS[ours.values])
        for name, tensor in alone.tensors().items():
            assert same_bits(getattr(ours.pool, name)[pages], tensor), name
        annotated: tuple[tuple[tuple[str, ...], torch.Tensor, Blockwise], ...] = (
            (KEY_NOTES, ours.pool.key_notes[pages], cache.key_annotations()),
            (VALUE_NOTES, ours.pool.value_notes[pages], cache.value_annotations()),
        )
        for names, notes, its in annotated:
            for index, name in enumerate(names):
                mine = notes[..., index].double().numpy()
                other = its.arrays()[name].astype(np.float64)
                # both bound one number, in bfloat16, whose neighbours are at most 2**-7 apart
                both = np.isfinite(mine) & np.isfinite(other)
                assert (np.isfinite(mine) == np.isfinite(other)).all(), name
                assert (np.abs(mine - other)[both] <= 2.0**-7 * np.maximum(mine, other)[both]).all(), name
        for name in ("residual_codes", "anchored_codes"):
            mine = getattr(ours.pool, name)[pages].numpy().astype(int)
            assert np.abs(mine - cache.value_annotations().arrays()[name]).max() <= 1, name

    def same_device_originals(self, s: int, cache: reference.Cache) -> None:
        """First block and tail, with NaN after their tokens, and bounds of their norms, with the mean of such."""
        ours, held = self.ours, self.ours.resident
        tail = ours.tokens[s] % ours.block
        for side, store in (("keys", held.keys), ("values", held.values)):
            assert same_bits(store[s, :, 1, :tail], cache.tail(side).transpose(1, 0, 2))  # type: ignore[arg-type]
            assert poisoned(store[s, :, 1, tail:])
            if ours.blocks(s):
                assert same_bits(store[s, :, 0], to_torch(self.history(s, side)[0]))
            else:
                assert poisoned(store[s, :, 0])
        keys, values = (row_norms(x[s].double()).nan_to_num(0.0) for x in (held.keys, held.values))
        count = torch.tensor([ours.block if ours.blocks(s) else 1, max(tail, 1)])
        exact = torch.stack([values.amax(-1), keys.amax(-1), values.sum(-1) / count, values.sum(-1)], -1)
        found = held.norms[s].double()
        # one rounding to FP32, which is at most 2**-23 of a normal number, up to those of float64
        assert (found[..., :2] >= exact[..., :2]).all()
        assert (found[..., :2] <= exact[..., :2] * (1 + 2.0**-22)).all()
        # and one to nearest for each that is added, and the quotient; sums of such may be subnormal
        assert (found[..., 2:] >= exact[..., 2:] * (1 - ours.block * 2.0**-24) - 2.0**-149).all()
        assert (found[..., 2:] <= exact[..., 2:] * (1 + 2.0**-22) * (1 + ours.block * 2.0**-23) + 2.0**-149).all()

    def same_originals(self, s: int, cache: reference.Cache) -> None:
        """Every block that is not lost; the rest is neither present nor readable."""
        ours = self.ours
        for side, store in (("keys", ours.originals.keys), ("values", ours.originals.values)):
            for head in range(ours.kv_heads):
                for block in range(ours.max_blocks):
                    there = block < ours.blocks(s) and not self.lost[s, head, block]
                    assert bool(ours.originals.present[s, head, block]) is bool(there)
                    mine = store[s, head, block]
                    if there:
                        assert same_bits(mine, cache.host.read(side, head, np.array([block]))[0])  # type: ignore[arg-type]
                    else:
                        assert poisoned(mine)

    def history(self, s: int, side: Any) -> np.ndarray[Any, Any]:
        """Originals of all full blocks, [blocks, kv_heads, block, head_dim], lost or not."""
        blocks, block = self.ours.blocks(s), self.ours.block
        tokens = np.concatenate(self.fed[s][side])[: blocks * block]
        return np.asarray(tokens.reshape(blocks, block, *tokens.shape[1:]).transpose(0, 2, 1, 3))
