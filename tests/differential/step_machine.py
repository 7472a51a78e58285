"""The reference's step and the fast one, side by side, under the same appends, steps and faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from certkv import fast, reference
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.fast.policies import RELATIVE_TO, RelativeTo
from certkv.reference.exact.judge import judge

from .cache_machine import TYPES, to_torch

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.lists(st.integers(0, 13), min_size=3, max_size=3)
SHORT = sorted(name for name, fmt in KEY_FORMATS.items() if fmt.least_block == 1)
"""Key formats that blocks of any length hold."""


class StepMachine(RuleBasedStateMachine):
    """Ragged batches, any ratio of heads, formats, types and head sizes; outputs judged by enclosures where needed."""

    @initialize(
        batch=st.integers(1, 3),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 4),
        block=st.integers(1, 6),
        head_dim=st.sampled_from([8, 40, 72]),
        keys=st.one_of(st.just("int8"), st.sampled_from(SHORT)),
        values=st.sampled_from(sorted(VALUE_FORMATS)),
        dtype=st.sampled_from(list(TYPES)),
        place=st.sampled_from(["host", "device"]),
    )
    def start(
        self, batch: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, place: Any, **formats: Any
    ) -> None:
        """Make an empty cache of each kind; formats are keys, values, block, and planes where there are some."""
        self.group = group
        capacity = 8 * formats["block"] + 3
        self.ours = fast.TieredCache(batch, kv_heads, head_dim, capacity, dtype, originals=place, **formats)
        self.theirs = [
            reference.Cache(kv_heads=kv_heads, head_dim=head_dim, dtype=TYPES[dtype], **formats) for _ in range(batch)
        ]
        empty = np.empty((0, kv_heads, head_dim), TYPES[dtype])
        self.k, self.v = [empty] * batch, [empty] * batch
        self.lost = [False] * batch
        self.steps = 0

    @rule(counts=COUNTS, seed=SEEDS)
    def append(self, counts: list[int], seed: int) -> None:
        """Append any number of tokens to each sequence, as many as there is room for."""
        ours, rng = self.ours, np.random.default_rng(seed)
        added = [min(n, ours.capacity - have) for n, have in zip(counts, ours.tokens, strict=False)]
        made = rng.standard_normal((2, ours.batch, max(added), ours.kv_heads, ours.head_dim))
        kind = seed % 8
        if kind == 1:
            made[0] += 20.0  # keys far from zero
        elif kind == 2:
            made[1] *= 2.0**-12  # small values
        elif kind == 3:
            made[0, :, :, :, 0] *= 16.0  # an outlier channel
        elif kind == 4:
            made[:] = made[:, :, :1]  # all tokens alike
        elif kind == 5:
            made[0] *= np.exp2(rng.integers(-9, 8, made.shape[1:4]))[..., None]  # norms far apart, in every head alone
        elif kind == 6:
            made[:, rng.random(made.shape[1:3]) < 0.4] = 0.0  # tokens of zeros
        elif kind == 7:
            made[0] *= 2.0**-20  # keys of few bits, or none
        k, v = made.astype(TYPES[ours.dtype])
        ours.append(to_torch(k), to_torch(v), added)
        for s, count in enumerate(added):
            self.theirs[s].append(k[s, :count], v[s, :count])
            self.k[s], self.v[s] = (np.concatenate([old[s], x[s, :count]]) for old, x in ((self.k, k), (self.v, v)))

    @rule(s=st.integers(0, 2))
    def reset(self, s: int) -> None:
        """Start a sequence over."""
        s %= self.ours.batch
        self.ours.reset(s)
        self.theirs[s].reset()
        self.k[s], self.v[s], self.lost[s] = self.k[s][:0], self.v[s][:0], False

    @rule(s=st.integers(0, 2), head=st.integers(0, 1))
    def lose(self, s: int, head: int) -> None:
        """Lose the originals of a sequence's KV head, but for the first block, which the reference pins in place."""
        s, head = s % self.ours.batch, head % self.ours.kv_heads
        for block in range(1, self.ours.blocks(s)):
            self.ours.originals.lose(s, head, block)
            self.theirs[s].host.lose(head, block)
            self.lost[s] = True

    def query(self, seed: int) -> np.ndarray[Any, Any]:
        """Draw queries, diffuse ones and ones that look for a token."""
        ours, rng = self.ours, np.random.default_rng(seed)
        q = rng.standard_normal((ours.batch, ours.kv_heads * self.group, ours.head_dim))
        if seed % 3:
            for s in range(ours.batch):
                at = rng.integers(0, len(self.k[s]), q.shape[1])
                q[s] += (seed % 3) * self.k[s][at, np.arange(q.shape[1]) // self.group].astype(np.float64) / 2.0
        return q.astype(TYPES[ours.dtype])

    @property
    def full(self) -> bool:
        """Whether no sequence is empty."""
        return hasattr(self, "ours") and all(self.ours.tokens)

    @precondition(lambda self: self.full)
    @rule(
        seed=SEEDS,
        tolerance=st.sampled_from([None, 0.0, 0.003, 0.02, 0.1, 0.5]),
        unit=st.sampled_from(RELATIVE_TO),
        rounds=st.integers(0, 3),
        scale=st.sampled_from([None, -0.4, 1.0]),
        wide=st.booleans(),
    )
    def step(
        self, seed: int, tolerance: float | None, unit: RelativeTo, rounds: int, scale: float | None, wide: bool
    ) -> None:
        """Run one step; every output is within its bound, and a sequence without one is one of the reference, too."""
        ours, q = self.ours, self.query(seed)
        fast_policy = fast.Naive() if tolerance is None else fast.Budget(tolerance, unit, rounds)
        policy = reference.Naive() if tolerance is None else reference.Budget(tolerance, unit, rounds)
        made = fast.plan(ours, q.shape[1], fast_policy, scale, torch.float32 if wide else None)
        step = made.run(to_torch(q), out=made.step())
        for s, cache in enumerate(self.theirs):
            status = int(step.certificate.status[s, 0])
            if status == fast.Status.HOST_MISSING:
                assert self.lost[s]
                continue
            assert status == fast.Status.OK
            self.judged(s, q[s], step, made.scale)
            certificate = step.certificate
            bound, limit, rung = (x[s].numpy() for x in (certificate.bound, certificate.tolerance, certificate.rung))
            assert (bound <= limit).all() or ((bound <= limit) | (rung == 3)).all()
            if self.lost[s]:
                # what was promoted was there; the reference may have asked for what was not
                continue
            theirs = reference.decode(q[s], cache, policy, scale=scale, out_dtype="float32").certificate
            if tolerance in (None, 0.0):
                assert (rung == theirs.rung).all()
                assert (certificate.promoted[s].numpy() == theirs.promoted).all()
                assert (certificate.host_bytes[s].numpy() == theirs.host_bytes).all()

    def judged(self, s: int, q: np.ndarray[Any, Any], step: fast.Step, scale: float) -> None:
        """No head of a sequence is beyond its bound."""
        output = step.output[s].float().numpy()
        bound = step.certificate.bound[s].numpy().astype(np.float64)
        for head in range(self.ours.kv_heads):
            mine = slice(head * self.group, (head + 1) * self.group)
            k, v = (x[s][:, head] for x in (self.k, self.v))
            for verdict in judge(output[mine], bound[mine], q[mine], k, v, scale):
                assert not verdict.violated, verdict
                assert verdict.judged_by != "undecided"

    @precondition(lambda self: self.full)
    @rule(seed=SEEDS, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def refused(self, seed: int, bad: float) -> None:
        """A query that is not finite is refused by both, at the same place."""
        q, s = self.query(seed), seed % self.ours.batch
        at = np.unravel_index(seed // 4 % q[s].size, q[s].shape)
        q[(s, *at)] = bad
        with pytest.raises(reference.errors.NonFiniteError) as theirs:
            reference.decode(q[s], self.theirs[s], reference.Naive())
        with pytest.raises(fast.NonFiniteError) as ours:
            fast.decode(to_torch(q), self.ours, fast.Naive())
        assert ours.value.position == (s, *theirs.value.position)
