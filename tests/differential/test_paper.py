"""`PaperPolicy` decides as the reference does: selection, promoted values, exploration, monitors, rungs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certkv import fast, reference
from certkv.fast import paper
from certkv.fast.certificate import Status
from certkv.fast.policies import PaperPolicy
from certkv.reference.exact.judge import judge
from certkv.reference.selection import explore, largest_until, select

from .cache_machine import TYPES, to_torch

POLICIES: list[dict[str, Any]] = [
    {},
    {"coverage": 0.5, "k_min": 1, "k_max": 3},
    {"coverage": 0.9, "tail_threshold": 0.0, "expansion": 1.5},
    {"coverage": 0.3, "k_min": 1, "k_max": 2, "tail_threshold": 1.0, "value_tolerance": 0.001},
    {"value_budget": 0.02, "rank": 2, "exploration": 0.5, "seed": 9},
]


@pytest.mark.parametrize("settings", POLICIES)
def test_selection_is_the_references(settings: dict[str, Any]) -> None:
    """On the same masses, which are multiples of 2^-10, so that their sums are exact in binary32."""
    policy = PaperPolicy(**settings)
    rng = np.random.default_rng(3)
    for blocks in (0, 1, 2, 5, 12):
        weights = rng.integers(0, 60, (6, blocks + 1)) * rng.integers(0, 2, (6, blocks + 1))
        mass = weights / 1024.0
        chosen, expanded = paper.coverage(
            policy,
            torch.nn.functional.pad(torch.tensor(mass[None, :, :-1]), (0, 3)).float(),
            torch.tensor(mass[None, :, -1]).float(),
            torch.tensor([[blocks]]),
        )
        theirs = select(
            mass[:, :-1],
            mass[:, -1],
            coverage=policy.coverage,
            k_min=policy.k_min,
            k_max=policy.k_max,
            tail_threshold=policy.tail_threshold,
            expansion=policy.expansion,
        )
        assert (chosen[0, :, :blocks].numpy() == theirs.chosen).all()
        assert not chosen[0, :, blocks:].any()
        assert (expanded[0].numpy() == theirs.expanded).all()


def test_values_are_promoted_as_in_the_reference() -> None:
    rng = np.random.default_rng(5)
    mass, eta = rng.integers(0, 64, (7, 9)) / 64.0, rng.integers(0, 16, (1, 9)) / 64.0
    error = mass * eta
    ours, theirs = (torch.tensor(x).float() for x in (mass, eta))
    for tolerance in (0.0, 1 / 64, 5 / 64):
        marks = paper.promoted_values(PaperPolicy(value_tolerance=tolerance), ours, theirs)
        assert (marks.numpy() == ~(error <= tolerance)).all()
    for allowed in (0.0, 0.125, 0.5, 100.0):
        marks = paper.promoted_values(PaperPolicy(value_budget=allowed), ours, theirs)
        expected = largest_until(error, error.sum(-1) - allowed)
        assert (marks.numpy() == expected).all()
    nan = paper.promoted_values(PaperPolicy(), torch.full((1, 1), torch.nan), torch.ones(1, 1))
    assert nan.all()


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, 2**70 + 5, -3])
def test_exploration_draws_the_same_blocks(seed: int) -> None:
    for step in (0, 1, 12345):
        policy = PaperPolicy(exploration=0.3, seed=seed)
        ours = paper.explored(policy, torch.tensor(step), 8, 50)
        assert (ours.numpy() == explore(0.3, seed, step, np.arange(8), 50)).all()
        assert 60 < int(ours.sum()) < 180


def caches(
    values: str, dtype: torch.dtype, seed: int, group: int
) -> tuple[fast.TieredCache, list[reference.Cache], list[Any], list[Any], Any]:
    """Two ragged sequences in both caches, what went in, and queries that look for a token."""
    rng, tokens, kv_heads, d = np.random.default_rng(seed), (150, 47), 2, 40
    k, v = rng.standard_normal((2, 2, 150, kv_heads, d)).astype(TYPES[dtype])
    ours = fast.TieredCache(2, kv_heads, d, 160, dtype, values=values, block=8)
    ours.append(to_torch(k), to_torch(v), tokens)
    theirs = [reference.Cache(kv_heads=kv_heads, head_dim=d, dtype=TYPES[dtype], values=values, block=8) for _ in "ab"]
    for s, n in enumerate(tokens):
        theirs[s].append(k[s, :n], v[s, :n])
    q = rng.standard_normal((2, kv_heads * group, d))
    for s, n in enumerate(tokens):
        at = rng.integers(0, n, q.shape[1])
        q[s] += k[s, at, np.arange(q.shape[1]) // group].astype(np.float64)
    keys, sides = ([x[s, :n] for s, n in enumerate(tokens)] for x in (k, v))
    return ours, theirs, keys, sides, q.astype(TYPES[dtype])


@pytest.mark.parametrize("settings", POLICIES)
@pytest.mark.parametrize("dtype", list(TYPES))
def test_steps_are_the_references(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Within bounds by enclosures, with the same rungs and counts."""
    group = 3
    for seed, values in enumerate(("int8", "int4", "int4-g32", "int8-g64")):
        ours, theirs, k, v, q = caches(values, dtype, seed, group)
        step = fast.decode(to_torch(q), ours, PaperPolicy(**settings))
        certificate = step.certificate
        for s in range(2):
            for h in range(2):
                mine = slice(h * group, (h + 1) * group)
                output, bound = step.output[s, mine].float().numpy(), certificate.bound[s, mine].double().numpy()
                for verdict in judge(output, bound, q[s, mine], k[s][:, h], v[s][:, h], 40**-0.5):
                    assert not verdict.violated
            its = reference.decode(q[s], theirs[s], reference.PaperPolicy(**settings)).certificate
            rungs, promoted = certificate.rung[s].numpy(), certificate.promoted[s].numpy()
            equal = (rungs == its.rung) & (promoted == its.promoted).all(-1)
            # shares are right to 2^-10, and none of these sums is that near to its threshold
            assert equal.all()
        assert torch.isposinf(certificate.tolerance).all()


def test_a_block_whose_codes_changed_sends_its_sequence_to_rung_four() -> None:
    """The score-consistency check; other sequences keep their outputs."""
    ours, _, k, v, q = caches("int8", torch.float16, 1, 3)
    policy = PaperPolicy(coverage=1.0)
    clean = fast.decode(to_torch(q), ours, policy)
    page = ours.pages.pages(0)[4]
    ours.pool.key_codes[page, 1, 3] ^= 0xFF
    made = fast.plan(ours, 6, policy)
    step = made.run(to_torch(q), out=made.step())
    assert (step.certificate.status[0] == Status.NEEDS_DENSE).all()
    assert torch.isnan(step.output[0]).all()
    assert torch.equal(step.output[1], clean.output[1])
    step.resolve()
    step.check()
    assert (step.certificate.rung[0] == 4).all()
    for h in range(2):
        mine = slice(3 * h, 3 * h + 3)
        output, bound = step.output[0, mine].float().numpy(), step.certificate.bound[0, mine].double().numpy()
        for verdict in judge(output, bound, q[0, mine], k[0][:, h], v[0][:, h], 40**-0.5):
            assert not verdict.violated


def test_exploration_finds_damage_outside_the_choice() -> None:
    """Every draw is another: in time, each block is compared."""
    ours, _, _, _, q = caches("int8", torch.float16, 2, 3)
    page = ours.pages.pages(0)[7]
    ours.pool.key_codes[page, 0, 2] ^= 0xFF
    # the damaged token must not look heavy, or it is chosen: where it is, there is nothing to explore
    policy = PaperPolicy(coverage=0.0, k_min=1, k_max=1, tail_threshold=1.0, exploration=0.2)
    made = fast.plan(ours, 6, policy)
    found = []
    for index in range(20):
        made.index.fill_(index)
        step = made.run(to_torch(q), out=made.step())
        found.append(int(step.certificate.status[0, 0]) == Status.NEEDS_DENSE)
    drawn = [bool(explore(0.2, 0, i, np.arange(3), 18)[:, 7].any()) for i in range(20)]
    assert all(f >= d for f, d in zip(found, drawn, strict=True))
    assert any(drawn)
