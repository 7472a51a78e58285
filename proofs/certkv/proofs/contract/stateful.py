"""Hypothesis drives the reference and the machines with the same events."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from certkv.proofs.contract.twin import Damage, Twin
from certkv.reference import Budget, Naive, PaperPolicy, Policy
from certkv.reference.cache import Side
from certkv.reference.numbers.types import AnyArray

POLICIES: tuple[Policy, ...] = (
    Naive(),
    Budget(0.0),
    Budget(0.02),
    Budget(0.1, rounds=1),
    Budget(0.05, "output", rounds=0),
    Budget(0.05, "absolute", rounds=5),
    PaperPolicy(),
    PaperPolicy(k_min=1000, k_max=1000),
    PaperPolicy(coverage=0.5, k_min=1, k_max=1, value_tolerance=1e-3, rank=2, exploration=0.5),
)
SEEDS = st.integers(0, 2**32 - 1)
BAD = st.sampled_from([np.nan, np.inf, -np.inf])
DAMAGES: tuple[Damage, ...] = ("codes", "step", "minimum", "annotation")
SIDES: tuple[Side, ...] = ("keys", "values")
MOST_TOKENS = 40
"""No more tokens than this are appended between resets: what more would show, fewer show too."""


class CacheMachine(RuleBasedStateMachine):
    """Events in any order, on caches of any small size."""

    twin: Twin

    @initialize(
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 2),
        block=st.integers(1, 4),
        slots=st.integers(0, 5),
        dtype=st.sampled_from([np.float16, ml_dtypes.bfloat16]),
        first=st.integers(0, 24),
        seed=SEEDS,
    )
    def start(self, kv_heads: int, group: int, block: int, slots: int, dtype: Any, first: int, seed: int) -> None:
        """Make a cache of any size, with some tokens."""
        self.twin = Twin(kv_heads=kv_heads, group=group, block=block, slots=slots, dtype=dtype)
        self.twin.append(*self.tokens(seed, first))

    def draw(self, seed: int, *shape: int, scale: float = 1.0) -> AnyArray:
        """Return normal numbers of the cache's type."""
        return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(self.twin.cache.dtype)

    def tokens(self, seed: int, count: int) -> tuple[AnyArray, AnyArray]:
        """Return keys and values of new tokens; some keys are large, so that scores are sharp."""
        shape = (count, self.twin.cache.kv_heads, self.twin.cache.head_dim)
        return self.draw(seed, *shape, scale=1.0 + 2.0 * (seed % 3)), self.draw(seed + 1, *shape)

    def query(self, seed: int) -> AnyArray:
        """Return one query per head."""
        return self.draw(seed, self.twin.cache.kv_heads * self.twin.group, self.twin.cache.head_dim, scale=2.0)

    def decode_three(self, seed: int) -> None:
        """Decode under three policies: what has just been broken must show in each, or not matter."""
        for n in range(3):
            self.twin.decode(self.query(seed), POLICIES[(seed + n * (1 + seed % 4)) % len(POLICIES)])

    @rule(count=st.integers(0, 11), seed=SEEDS)
    def append(self, count: int, seed: int) -> None:
        """Append any number of tokens."""
        if self.twin.life.tokens + count <= MOST_TOKENS:
            self.twin.append(*self.tokens(seed, count))

    @rule(
        seed=SEEDS,
        policy=st.sampled_from(POLICIES),
        at=st.none() | st.floats(0, 1),
        out_dtype=st.sampled_from(["float64", "float16"]),
    )
    def decode(self, seed: int, policy: Policy, at: float | None, out_dtype: str) -> None:
        """Decode under any policy, at the end or at any position before it."""
        position = None if at is None else int(at * max(self.twin.life.tokens - 1, 0))
        self.twin.decode(self.query(seed), policy, position=position, index=seed % 7, out_dtype=out_dtype)

    @rule(seed=SEEDS, policy=st.sampled_from(POLICIES))
    def decode_again(self, seed: int, policy: Policy) -> None:
        """Decode twice, so that scratch holds what the second step needs; it must change nothing."""
        for index in (0, 1):
            self.twin.decode(self.query(seed), policy, index=index)

    @rule(which=st.sampled_from(["k", "v", "q", "position"]), seed=SEEDS, policy=st.sampled_from(POLICIES), bad=BAD)
    def refused(self, which: str, seed: int, policy: Policy, bad: float) -> None:
        """Append or decode with one NaN or infinity, or decode at a position that is not there."""
        if which in ("k", "v"):
            pair = self.tokens(seed, 1 + seed % 9)
            pair[which == "v"].flat[seed % pair[0].size] = bad
            self.twin.append(*pair)
            return
        q = self.query(seed)
        if which == "q":
            q.flat[seed % q.size] = bad
        self.twin.decode(q, policy, position=None if which == "q" else self.twin.life.tokens + seed % 3)

    @precondition(lambda self: self.twin.life.blocks)
    @rule(which=st.sampled_from(["all", "head", "block", "one"]), seed=SEEDS)
    def lose(self, which: str, seed: int) -> None:
        """Lose originals: all, of one KV head, of one block, or one."""
        head, block = seed % self.twin.life.heads, seed // 7 % self.twin.life.blocks
        self.twin.lose(head if which in ("head", "one") else None, block if which in ("block", "one") else None)
        self.decode_three(seed)

    @precondition(lambda self: self.twin.life.blocks)
    @rule(what=st.sampled_from(DAMAGES), side=st.sampled_from(SIDES), seed=SEEDS)
    def damage(self, what: Damage, side: Side, seed: int) -> None:
        """Change what is stored of one block."""
        head, block = seed % self.twin.life.heads, seed // 7 % self.twin.life.blocks
        self.twin.damage(what, side, head, block, seed)
        self.decode_three(seed)

    @rule(count=st.integers(0, 12), seed=SEEDS)
    def reset(self, count: int, seed: int) -> None:
        """Start over, with other tokens."""
        self.twin.reset()
        self.twin.append(*self.tokens(seed, count))


def run(examples: int, steps: int = 12, *, shrink: bool = False) -> None:
    """Drive so many histories of up to so many events; the same ones every time.

    Raises
    ------
    certkv.proofs.mutants.model.CheckFailed
        The reference and the machines differ.
    """
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        CacheMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
