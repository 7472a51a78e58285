"""A cache with scratch and one without, side by side under the same appends, steps, resets and losses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from certkv.fast.cache import TieredCache
from certkv.fast.formats import VALUE_FORMATS
from certkv.fast.plan import plan
from certkv.fast.policies import RELATIVE_TO, Budget, Naive, PaperPolicy, Policy
from certkv.fast.scratch import NOWHERE
from certkv.fast.step import Step

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.lists(st.integers(0, 30), min_size=3, max_size=3)
POLICIES = st.one_of(
    st.builds(Budget, st.sampled_from([0.0, 0.01, 0.03, 0.1, 0.3]), st.sampled_from(RELATIVE_TO), st.integers(0, 3)),
    st.builds(PaperPolicy, coverage=st.sampled_from([0.5, 0.9]), k_max=st.integers(2, 4), exploration=st.just(0.3)),
    st.just(Naive()),
)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, NaN and signed zeros included."""
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))


def require_same(one: Step, other: Step) -> None:
    """Everything that two steps return is the same, but for what was moved."""
    for mine, its in ((one, other), (one.certificate, other.certificate)):
        for field in fields(mine):
            a, b = getattr(mine, field.name), getattr(its, field.name)
            if isinstance(a, torch.Tensor) and field.name != "moved_bytes":
                assert same_bits(a, b), field.name


def require_true(cache: TieredCache) -> None:
    """Table and holders are one another's inverse, and a slot holds its item's original or, free, nothing."""
    scratch = cache.scratch
    table = scratch.table.flatten().tolist()
    entered = {item: slot for item, slot in enumerate(table) if slot != NOWHERE}
    held = {item: slot for slot, item in enumerate(scratch.holder.tolist()) if item != NOWHERE}
    assert entered == held
    assert len(set(entered.values())) == len(entered) <= scratch.slots
    for item, slot in entered.items():
        block, side = item // 2 % cache.max_blocks, item % 2
        s, h = divmod(item // 2 // cache.max_blocks, cache.kv_heads)
        assert block < cache.blocks(s)
        if cache.originals.present[s, h, block]:
            store = (cache.originals.keys, cache.originals.values)[side]
            assert same_bits(scratch.pool[slot], store[s, h, block])
    free = sorted(set(range(scratch.slots)) - set(entered.values()))
    assert scratch.pool[free].isnan().all()


class ScratchMachine(RuleBasedStateMachine):
    """Ragged batches, any ratio of heads, and scratch of any size from one block on."""

    @initialize(
        batch=st.integers(1, 3),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 3),
        block=st.integers(1, 6),
        head_dim=st.sampled_from([8, 40]),
        values=st.sampled_from(sorted(VALUE_FORMATS)),
        dtype=st.sampled_from([torch.float16, torch.bfloat16]),
        slots=st.one_of(st.integers(1, 8), st.integers(9, 120)),
        counts=st.lists(st.integers(1, 30), min_size=3, max_size=3),
        seed=SEEDS,
    )
    def start(
        self,
        batch: int,
        kv_heads: int,
        group: int,
        block: int,
        head_dim: int,
        values: str,
        dtype: torch.dtype,
        slots: int,
        counts: list[int],
        seed: int,
    ) -> None:
        """Make two caches of the same tokens."""
        self.group = group
        self.without, self.cache = (
            TieredCache(
                batch,
                kv_heads,
                head_dim,
                8 * block + 3,
                dtype,
                values=values,
                block=block,
                scratch_bytes=count * 2 * block * head_dim,
            )
            for count in (0, slots)
        )
        assert self.cache.scratch.slots == min(slots, 2 * batch * kv_heads * self.cache.max_blocks)
        self.append(counts, seed)

    @rule(counts=COUNTS, seed=SEEDS)
    def append(self, counts: list[int], seed: int) -> None:
        """Append any number of tokens to each sequence, as many as there is room for."""
        cache, made = self.cache, torch.Generator().manual_seed(seed)
        added = [min(n, cache.capacity - have) for n, have in zip(counts, cache.tokens, strict=False)]
        shape = (2, cache.batch, max(added), cache.kv_heads, cache.head_dim)
        k, v = torch.randn(shape, generator=made).to(cache.dtype)
        for each in (self.without, cache):
            each.append(k, v, added)

    @rule(s=st.integers(0, 2))
    def reset(self, s: int) -> None:
        """Start a sequence over."""
        for each in (self.without, self.cache):
            each.reset(s % each.batch)

    @rule(s=st.integers(0, 2), head=st.integers(0, 1), block=st.integers(0, 7))
    def lose(self, s: int, head: int, block: int) -> None:
        """Lose an original, resident in scratch or not."""
        cache = self.cache
        s, head = s % cache.batch, head % cache.kv_heads
        if cache.blocks(s):
            for each in (self.without, cache):
                each.originals.lose(s, head, block % cache.blocks(s))

    @precondition(lambda self: hasattr(self, "cache") and all(self.cache.tokens))
    @rule(seed=SEEDS, policy=POLICIES, sharp=st.sampled_from([1.0, 3.0]), times=st.integers(1, 3))
    def step(self, seed: int, policy: Policy, sharp: float, times: int) -> None:
        """Run a step without scratch, and as often as wanted with it: all the same, and no more is moved."""
        cache, made = self.cache, torch.Generator().manual_seed(seed)
        heads = cache.kv_heads * self.group
        q = (sharp * torch.randn(cache.batch, heads, cache.head_dim, generator=made)).to(cache.dtype)
        one, other = (plan(each, heads, policy) for each in (self.without, cache))
        expected = one.run(q, out=one.step())
        for _ in range(times):
            found = other.run(q, out=other.step())
            require_same(found, expected)
            assert (found.moved_bytes <= expected.moved_bytes).all()
            assert (found.moved_bytes % cache.originals.block_bytes == 0).all()

    @invariant()
    def scratch_is_true(self) -> None:
        """What is in scratch is what is behind it."""
        if hasattr(self, "cache"):
            require_true(self.cache)


def run(machine: type[ScratchMachine], examples: int, steps: int) -> None:
    """Drive so many histories of up to so many events; the same ones every time."""
    health: Any = list(HealthCheck)
    run_machine(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=health,
            report_multiple_bugs=False,
        ),
    )
