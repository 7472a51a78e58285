"""The contract as properties of any step, and that each of them can fail.

Profiles (tests/conftest.py): ``ci``, derandomised, 50 examples of each; ``HYPOTHESIS_PROFILE=deep``, 2,000 random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from certkv.proofs.mutants.model import CheckFailed
from certkv.proofs.strategies import TEXTURES, HeadStep, Property, budgets, critical_steps, head_steps, rounded
from certkv.proofs.strategies.properties import (
    PROPERTIES,
    a_looser_budget_accepts,
    bounds_hold,
    budget_is_enforced,
    heads_do_not_meet,
    more_rounds_only_add,
    parts_add_up,
    past_is_a_shorter_cache,
    pieces_do_not_matter,
    scale_belongs_to_the_query,
    scratch_changes_nothing,
    signs_of_values_pass_through,
    the_index_only_explores,
)
from certkv.reference import Budget, Cache, Certificate, PaperPolicy, Policy
from certkv.reference import step as step_module
from certkv.reference.annotations import KeyAnnotations
from certkv.reference.bounds import full_tv, mass, spectral, tail_tv
from certkv.reference.bounds.block_bound import block_bound
from certkv.reference.cache import scratch as scratch_module
from certkv.reference.cache.view import View
from certkv.reference.ladder import Action
from certkv.reference.numbers import BFLOAT16, FLOAT16
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps import budget, certify, distances, result
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import Levels

BUDGETED = {budget_is_enforced, more_rounds_only_add}


def cases_for(prop: Property) -> st.SearchStrategy[HeadStep]:
    if prop in BUDGETED:
        return st.one_of(critical_steps(), head_steps(policy=budgets()))
    return st.one_of(head_steps(), critical_steps())


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_every_step(prop: Property) -> None:
    @given(cases_for(prop))
    def holds(case: HeadStep) -> None:
        prop(case)

    holds()


Number = tuple[float, float, float, float, float]
BLOCK = st.tuples(
    st.floats(1e-6, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 5.0), st.floats(0.0, 1e3), st.floats(0.0, 1e3)
)


@given(st.lists(BLOCK, min_size=1, max_size=5), st.floats(0.0, 1.0), st.sampled_from(range(5)), st.floats(1.0, 4.0))
def test_the_certificate_grows_with_what_is_worse(
    blocks: list[Number], accumulation: float, which: int, factor: float
) -> None:
    """Larger masses, radii, value errors or rounding, or less mass that is sure, never make the bound smaller.

    Exactly so in floating point: every operation on them is a correctly rounded monotone one, in a fixed order.
    """
    mass_ub, share, delta, radius, eta = (np.array(x)[None] for x in zip(*blocks, strict=True))
    numbers = {
        "mass_ub": mass_ub,
        "mass_lb": share * mass_ub,
        "key_delta_ub": delta,
        "rounding_delta_ub": np.full_like(delta, 2.0**-49),
        "radius_ub": radius,
        "value_error_ub": eta,
        "accumulation_ub": np.array([accumulation]),
    }
    name = ("mass_ub", "mass_lb", "radius_ub", "value_error_ub", "accumulation_ub")[which]
    worse = numbers | {name: numbers[name] / factor if name == "mass_lb" else numbers[name] * factor}
    assert block_bound(**worse).bound[0] >= block_bound(**numbers).bound[0]


UP_TO_ROUNDING = 1.0 - 2.0**-44
"""Each of these returns between the true value and ``1 + 320 u`` times it: ``outward(n)`` for at most 78 roundings is
below ``1 + 160 u``, and the evaluation is off by less than that. ``320 u < 2^-44``."""


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 800.0), st.floats(0.0, 800.0))
def test_variation_and_mass_grow_with_delta_and_mass(a: float, b: float, x: float, y: float) -> None:
    (low, high), (small, large) = sorted((a, b)), sorted((x, y))
    assert full_tv.sharp(large) >= UP_TO_ROUNDING * full_tv.sharp(small)
    for bound in (tail_tv.sharp, tail_tv.simple):
        assert bound(high, large) >= UP_TO_ROUNDING * bound(low, small)
    assert mass.sharp(large, high) >= UP_TO_ROUNDING * mass.sharp(small, low)
    assert 0.0 <= tail_tv.sharp(high, large) <= 1.0
    # a part of the tokens is no more than all of them
    assert UP_TO_ROUNDING * tail_tv.sharp(low, large) <= full_tv.sharp(large)


Patch = pytest.MonkeyPatch


def no_value_error(patch: Patch) -> None:
    original = spectral.value_terms
    patch.setattr(spectral, "value_terms", lambda *a: 0.0 * original(*a))


def no_cast(patch: Patch) -> None:
    original = certify.round_output
    patch.setattr(certify, "round_output", lambda x, dtype: (original(x, dtype)[0], np.zeros(len(x))))


def half_the_parts(patch: Patch) -> None:
    original = result.certificate_of

    def planted(*a: Any) -> Certificate:
        whole = original(*a)
        return replace(whole, key=0.5 * whole.key, value=0.5 * whole.value, arithmetic=0.5 * whole.arithmetic)

    for module in ("naive", "budget", "paper"):
        patch.setattr(f"certkv.reference.steps.{module}.certificate_of", planted)


def accept_everything(patch: Patch) -> None:
    def decide(bound: FloatArray, limit: FloatArray, rounds_left: int) -> AnyArray:
        del limit, rounds_left
        return np.array([Action.ACCEPT for _ in bound], dtype=object)

    patch.setattr(budget, "decide", decide)


def refine_by_rounds_left(patch: Patch) -> None:
    original = budget.next_levels

    def next_levels(*arguments: Any) -> Levels:
        wanted = original(*arguments)
        odd = ROUNDS_SEEN[-1] % 2 == 1
        return Levels(wanted.keys | odd, wanted.values | odd, wanted.key_planes, wanted.value_planes)

    run = budget.run

    def remembered(group: Group, policy: Budget, out: Any) -> Any:
        ROUNDS_SEEN.append(policy.rounds)
        return run(group, policy, out)

    patch.setattr(budget, "next_levels", next_levels)
    patch.setattr(budget, "run", remembered)


ROUNDS_SEEN: list[int] = [0]


def past_sees_the_present(patch: Patch) -> None:
    original = Cache.view

    def view(self: Cache, kv_head: int, position: int | None = None) -> View:
        seen = original(self, kv_head, position)
        return original(self, kv_head, None) if seen.tail == 1 else seen

    patch.setattr(Cache, "view", view)


def stale_scratch(patch: Patch) -> None:
    original = scratch_module.Scratch.fetch

    def fetch(self: Any, side: Any, kv_head: int, blocks: Any) -> AnyArray:
        found = original(self, side, kv_head, blocks)
        return found + found.dtype.type(1.0) if self.bytes else found

    patch.setattr(scratch_module.Scratch, "fetch", fetch)


def anchor_of_each_append(patch: Patch) -> None:
    original = Cache._encode

    def encode(self: Cache, k: AnyArray, v: AnyArray) -> None:
        self._anchor = None
        original(self, k, v)

    patch.setattr(Cache, "_encode", encode)


def first_head_for_all(patch: Patch) -> None:
    original = Cache.anchor
    patch.setattr(Cache, "anchor", lambda self: np.broadcast_to(original(self)[:1], original(self).shape))


def scale_of_the_dimension(patch: Patch) -> None:
    original = Group._score_errors

    def unscaled(self: Group, notes: KeyAnnotations) -> tuple[FloatArray, FloatArray]:
        delta, norm = original(self, notes)
        factor = 1.0 / (abs(self.scale) * np.sqrt(self.q.shape[-1]))
        return factor * delta, factor * norm

    patch.setattr(Group, "_score_errors", unscaled)


def tolerance_in_the_bound(patch: Patch) -> None:
    run = budget.run

    def planted(group: Group, policy: Budget, out: Any) -> Any:
        found = run(group, policy, out)
        found.certificate.bound[:] = np.minimum(found.certificate.bound + 1e-3 * policy.tolerance, policy.tolerance)
        return found

    patch.setattr(budget, "run", planted)


def index_in_the_scale(patch: Patch) -> None:
    original = step_module.run_policy

    def planted(group: Group, policy: Policy, out: Any, index: int) -> Any:
        group.coded_scores = group.coded_scores * (1.0 + 1e-9 * index)
        return original(group, policy, out, index)

    patch.setattr(step_module, "run_policy", planted)


def radius_about_positive_values(patch: Patch) -> None:
    original = distances.radii
    patch.setattr(certify, "radii", lambda group, output: original(group, np.maximum(output, 0.0)))


@pytest.mark.parametrize(
    ("prop", "plant"),
    [
        (bounds_hold, no_value_error),
        (bounds_hold, no_cast),
        (parts_add_up, half_the_parts),
        (budget_is_enforced, accept_everything),
        (past_is_a_shorter_cache, past_sees_the_present),
        (scratch_changes_nothing, stale_scratch),
        (pieces_do_not_matter, anchor_of_each_append),
        (heads_do_not_meet, first_head_for_all),
        (scale_belongs_to_the_query, scale_of_the_dimension),
        (a_looser_budget_accepts, tolerance_in_the_bound),
        (more_rounds_only_add, refine_by_rounds_left),
        (the_index_only_explores, index_in_the_scale),
        (signs_of_values_pass_through, radius_about_positive_values),
    ],
    ids=lambda f: f.__name__,
)
def test_every_property_can_fail(
    prop: Property, plant: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # enough examples that each property meets its defect; nothing is shrunk or stored
    @settings(max_examples=300, phases=[Phase.generate], database=None, report_multiple_bugs=False)
    @given(cases_for(prop))
    def holds(case: HeadStep) -> None:
        prop(case)

    plant(monkeypatch)
    with pytest.raises(CheckFailed):
        holds()


def test_every_property_has_a_defect() -> None:
    planted = {prop for prop, _ in test_every_property_can_fail.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert planted == set(PROPERTIES)


def test_strategies_reach_their_corners() -> None:
    """What the strategies are biased to really comes up within the examples of a few runs."""
    seen: set[str] = set()

    @settings(max_examples=400, phases=[Phase.generate], database=None)
    @given(st.one_of(head_steps(), critical_steps()))
    def look(case: HeadStep) -> None:
        scene = case.scene
        k = scene.k.astype(np.float64)
        seen.update((f"keys {scene.keys}", f"values {scene.values}", f"policy {case.policy.name}", case.out_dtype))
        seen.update(f"rung {int(rung)}" for rung in case.decode().certificate.rung)
        seen.update((scene.k.dtype.name, f"query {scene.q.dtype.name}", f"block {scene.block}"))
        conditions = {
            "one token": len(k) == 1,
            "equal tokens": len(k) > 2 and bool((k == k[:1]).all()),
            "largest float16": scene.k.dtype == np.float16 and bool((np.abs(k) == 65504.0).any()),
            "largest bfloat16": bool((np.abs(k) > 3e38).any()),
            "subnormal float16": scene.k.dtype == np.float16 and bool(((k != 0) & (np.abs(k) < 2.0**-14)).any()),
            "subnormal bfloat16": bool(((k != 0) & (np.abs(k) < 2.0**-126)).any()),
            "odd head size": k.shape[2] % 2 == 1 and k.shape[2] > 1,
            "causal": case.position is not None,
            "an empty piece": 0 in case.pieces,
            "a tail": case.visible % scene.block != 0 and case.visible > scene.block,
            "zero query": not scene.q.astype(np.float64).any(),
            "two KV heads": k.shape[1] == 2,
            "exploration": isinstance(case.policy, PaperPolicy) and case.policy.exploration > 0,
            "scratch": scene.scratch_bytes > 0,
            "negative scale": scene.scale < 0,
        }
        seen.update(name for name, holds in conditions.items() if holds)
        if k.shape[1] == 1 and len(k) > 1:
            scores = scene.scale * (scene.q[:1].astype(np.float64) @ k[:, 0].T)[0]
            weights = np.exp(scores - scores.max())
            if weights.max() / weights.sum() > 0.999:
                seen.add("one token takes all")

    look()
    formats = {"int8", "int8-paper", "dense"}
    wanted = {f"keys {name}" for name in formats} | {"one token takes all", "float64", "float32", "float16", "bfloat16"}
    wanted |= {f"values {name}" for name in ("int4-g16", "int4-g32", "int8-g64", "int4", "int8", "dense")}
    wanted |= {
        "policy naive",
        "policy paper",
        "policy budget",
        "query float32",
        "query bfloat16",
        "block 1",
        "block 64",
    }
    wanted |= {"one token", "equal tokens", "largest float16", "largest bfloat16", "subnormal float16", "a tail"}
    wanted |= {"subnormal bfloat16", "odd head size", "causal", "an empty piece", "zero query", "two KV heads"}
    wanted |= {"exploration", "scratch", "negative scale", "rung 0", "rung 1", "rung 2", "rung 3"}
    assert wanted <= seen, wanted - seen


@pytest.mark.parametrize("name", TEXTURES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (9, 2, 5)])
def test_textures_are_finite_and_of_their_shape(name: str, shape: tuple[int, int, int]) -> None:
    for ft in (FLOAT16, BFLOAT16):
        for seed in range(5):
            x = rounded(30.0 * TEXTURES[name](np.random.default_rng(seed), shape, ft), ft)
            assert x.shape == shape
            assert x.dtype == ft.dtype
            assert np.isfinite(x.astype(np.float64)).all()
