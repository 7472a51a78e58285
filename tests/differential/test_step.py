"""Steps of the kernel library against those of the reference, under any events; and the comparison can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from certkv import fast, reference
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.first_tier import Opened, first_tier
from certkv.reference.bounds import spectral
from certkv.reference.bounds.quotient import BlockBound
from certkv.reference.steps import budget
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.certify import certify
from certkv.reference.steps.group import Group, Levels
from certkv.reference.steps.tolerance import tolerance

from .cache_machine import TYPES, to_torch
from .histories import run
from .step_machine import StepMachine


def test_every_output_is_within_its_bound_under_any_events() -> None:
    run(StepMachine, 120, 25)


class Case:
    """One sequence, in both caches; and what the reference decides in its first round, kept apart step by step."""

    def __init__(self, values: str, dtype: torch.dtype, seed: int, tokens: int = 200, block: int = 16) -> None:
        rng = np.random.default_rng(seed)
        self.kv_heads, self.size, head_dim = 2, 3, 64
        k, v = rng.standard_normal((2, tokens, self.kv_heads, head_dim)).astype(TYPES[dtype])
        q = rng.standard_normal((self.kv_heads * self.size, head_dim))
        at = rng.integers(0, tokens, len(q))
        q[::2] += 0.5 * k[at, np.arange(len(q)) // self.size].astype(np.float64)[::2]
        self.q = q.astype(TYPES[dtype])
        self.theirs = reference.Cache(
            kv_heads=self.kv_heads, head_dim=head_dim, dtype=TYPES[dtype], values=values, block=block
        )
        self.theirs.append(k, v)
        self.ours = fast.TieredCache(1, self.kv_heads, head_dim, tokens, dtype, values=values, block=block)
        self.ours.append(to_torch(k)[None], to_torch(v)[None])
        self.scale = head_dim**-0.5

    def reference_round(self, policy: reference.Budget) -> Iterator[tuple[int, BlockBound, Attended, tuple[Any, Any]]]:
        """Yield, for every head: index, bound, pass and choice of the first round."""
        out = np.dtype(np.float32)
        for kv in range(self.kv_heads):
            mine = np.arange(kv * self.size, (kv + 1) * self.size)
            group = Group(self.q[mine].astype(np.float64), mine, self.scale, self.theirs.view(kv), 1)
            levels, rows = Levels.coded(self.size, group.view.blocks, 1), np.arange(self.size)
            seen = attend(group, levels, rows)
            done = certify(group, levels, rows, seen, out)
            limit = tolerance(policy, group, seen, done.output)
            chosen = budget.choose(levels, seen, done, limit)
            for row, head in enumerate(mine):
                yield int(head), _row(done.bound, row), _row(seen, row), (chosen[0][row], chosen[1][row])

    def fast_round(self, policy: fast.Budget) -> tuple[fast.Step, fast.Plan]:
        """Run the kernel library's step in float32; every head is certified token by token, as in the reference."""
        made = fast.plan(self.ours, len(self.q), policy, out_dtype=torch.float32)
        made.passes = made.passes._replace(first_tier=accepting_none)
        return made.run(to_torch(self.q)[None], out=made.step()), made


def accepting_none(*arguments: Any) -> None:
    """Run the first tier, and leave every head open."""
    first_tier(*arguments)
    next(x for x in arguments if isinstance(x, Opened)).action.fill_(REFINE)


def _row(whole: Any, row: int) -> Any:
    """One row of every array of a dataclass."""
    return replace(whole, **{field.name: getattr(whole, field.name)[row] for field in fields(whole)})


def compare(values: str, dtype: torch.dtype, seed: int, share: float) -> tuple[int, int, int]:
    """Compare first-round decisions; return how many heads there were, were away from a tie, and had an equal choice.

    *Away*, from the two bounds' difference. Both sides evaluate one theorem, homogeneous in the executed shares, the
    reference on weights that are right to float64, the fast path on weights that are off by e^(+-eps), eps its charge,
    which shifts shares by e^(2 eps) and quotients of sums of them by e^(4 eps), distances from the output by less; and
    with terms that eps itself adds, its `arithmetic` part. So both bounds without that part, and each term, agree to a
    factor of e^(4 eps) on either side. A decision is away where it is the same for all numbers in that range.
    """
    case = Case(values, dtype, seed)
    wide, _ = case.fast_round(fast.Budget(1e30, "absolute", 0))
    limit = share * float(wide.certificate.bound.median())
    step, made = case.fast_round(fast.Budget(limit, "absolute", 1))
    eps = made.rounding.first.coded.constant + made.rounding.first.coded.relative * float(
        made.parts.errors.size[made.parts.errors.size < torch.inf].max()
    )
    factor = math.exp(4.0 * eps)
    away = equal = 0
    policy = reference.Budget(limit, "absolute", 1)
    for head, bound, seen, (keys, sides) in case.reference_round(policy):
        ours, arithmetic = (float(x[0, head]) for x in (wide.certificate.bound, wide.certificate.arithmetic))
        assert ours - arithmetic <= bound.bound * factor
        assert bound.bound <= ours * factor
        low, high = min(ours - arithmetic, float(bound.bound)) / factor, max(ours, float(bound.bound)) * factor
        accepted = not made.ws.levels[0, head].any() and int(step.certificate.rung[0, head]) < 3
        if not low <= limit <= high:
            assert accepted == (high < limit)
            assert bool(bound.bound <= limit) == (high < limit)
        if low <= limit:
            continue
        # both sides refine; the largest gains until the need is met, in the range of either side's numbers
        gains = np.concatenate([bound.key_gain[:-1] + limit * (seen.mass - bound.weight)[:-1], bound.value_gain[:-1]])
        gains[[0, len(gains) // 2]] = 0.0
        order = np.sort(gains)[::-1]
        marks = np.concatenate([keys, sides])
        taken = int(marks.sum())
        slack = arithmetic * float(bound.denominator) * factor
        need = float(bound.key_gain.sum() + bound.value_gain.sum() - limit * bound.denominator)
        spread = (factor - 1.0) * float(bound.key_gain.sum() + bound.value_gain.sum())
        clear = order[: taken - 1].sum() * factor < need - slack - spread
        clear &= order[:taken].sum() / factor >= need + slack + spread
        clear &= taken == len(order) or order[taken - 1] > order[taken] * factor * factor + slack / len(order)
        if clear:
            away += 1
            mine = made.ws.levels[0, head].numpy()
            equal += int((np.concatenate([mine & 1, mine >> 1]).astype(bool) == marks).all())
    return len(case.q), away, equal


@pytest.mark.parametrize("values", ["int8", "int4", "int4-g32", "int8-g64"])
@pytest.mark.parametrize("dtype", list(TYPES))
def test_decisions_away_from_ties_are_the_references(
    values: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the one form of the theorem that the kernel library does not evaluate: it needs every decoded value once more
    monkeypatch.setattr(spectral, "direct_key_terms", lambda share, *_: np.full(share.shape[:-1], np.inf))
    found = np.array([compare(values, dtype, seed, share) for seed in range(2) for share in (0.3, 0.5, 0.8)])
    heads, away, equal = found.sum(0)
    print(f"{heads} heads, {away} away from ties")
    assert equal == away > 0


@pytest.mark.parametrize("values", ["int8", "int4-g32"])
def test_what_the_first_tier_accepts_the_reference_accepts(values: str) -> None:
    """The first tier's bound is never below the theorem's by more than two computations of it may differ (1 %)."""
    accepted = 0
    for seed in range(3):
        case = Case(values, torch.float16, seed)
        wide, made = case.fast_round(fast.Budget(1e30, "absolute", 0))
        limit = 1.3 * float(wide.certificate.bound.median())
        made = fast.plan(case.ours, len(case.q), fast.Budget(limit, "absolute", 1), out_dtype=torch.float32)
        step = made.run(to_torch(case.q)[None], out=made.step())
        theirs = {head: bound for head, bound, _, _ in case.reference_round(reference.Budget(limit, "absolute", 1))}
        seen: list[tuple[Any, ...]] = []

        def spy(*arguments: Any, seen: list[tuple[Any, ...]] = seen) -> None:
            first_tier(*arguments)
            seen.append((arguments[9].action.clone(), arguments[8].bound.clone()))

        made.passes = made.passes._replace(first_tier=spy)
        made.run(to_torch(case.q)[None], out=step)
        action, bound = seen[0]
        for head in range(len(case.q)):
            assert float(bound[0, head]) >= 0.99 * float(theirs[head].bound)
            if action[0, head] == ACCEPT:
                accepted += 1
                assert float(theirs[head].bound) <= limit * 1.01
                assert int(step.certificate.rung[0, head]) == 0
    assert accepted > 0
