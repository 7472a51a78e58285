"""Corrupted storage and numbers that are not finite: what the checks of a step must notice."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.model import Check, Mutant, patched, require, require_raises
from certkv.proofs.mutants.scene import require_sound
from certkv.reference import Budget, Cache, CorruptionError, Naive, NonFiniteError, PaperPolicy, Policy, monitors
from certkv.reference import step as step_module
from certkv.reference.bounds import quotient
from certkv.reference.cache import cache as cache_module
from certkv.reference.cache.checks import require_finite
from certkv.reference.ladder import Action, Observation, next_action
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray
from certkv.reference.steps import paper

NAN = float("nan")
CAUTIOUS = PaperPolicy(coverage=0.6, k_min=3, k_max=3, tail_threshold=1.0, value_tolerance=1e9)
EXPLORING = replace(CAUTIOUS, k_min=1, k_max=1, coverage=0.0, exploration=1.0)


def spoiled(x: AnyArray, where: tuple[int, ...], value: float) -> AnyArray:
    """Return a copy with one element replaced."""
    copy = x.copy()
    copy[where] = value
    return copy


def non_finite_input_is_refused() -> None:
    """Append and ask with a NaN or an infinity, in a tail and in a block that fills; the position is named."""
    scene = gaussian(31)
    for value in (NAN, float("inf"), -float("inf")):
        for first, token in ((64, 70), (0, 70), (0, 3)):
            cache, place = scene.empty_cache(), (token - first, 1, 5)
            k, v = scene.k[first:], scene.v[first:]
            for name, pair in (("k", (spoiled(k, place, value), v)), ("v", (k, spoiled(v, place, value)))):
                where = f"{value} in {name}"
                error = require_raises(NonFiniteError, partial(cache.append, *pair), where)
                seen = (getattr(error, "tensor", None), getattr(error, "position", None))
                require(seen == (name, place), f"{where} at {place}: reported as {seen}")
                require(cache.tokens == 0, f"{where}: the cache took it in")
        bad = replace(scene, q=spoiled(scene.q, (2, 7), value))
        for policy in (Naive(), PaperPolicy(), Budget()):
            require_raises(NonFiniteError, partial(bad.decode, policy), f"{value} in q")


def checks_fail_on_nan() -> None:
    """Give every monitor a NaN where it looks."""
    chosen = np.array([[True, True, False]])
    scores, delta = np.zeros((1, 3, 4)), np.full((1, 3), 0.1)
    fine = monitors.scores_consistent(scores, scores, delta, chosen, 1e-6)
    require(bool(fine.all()), "equal scores are inconsistent")
    for exact, coded, limit in (
        (spoiled(scores, (0, 1, 2), NAN), scores, delta),
        (scores, spoiled(scores, (0, 1, 2), NAN), delta),
        (scores, scores, spoiled(delta, (0, 1), NAN)),
    ):
        found = monitors.scores_consistent(exact, coded, limit, chosen, 1e-6)
        require(not found.any(), "scores with a NaN are consistent")
    mass = np.array([[3.0, 2.0, 0.0]])
    for exact, coded in ((spoiled(mass, (0, 0), NAN), mass), (mass, spoiled(mass, (0, 1), NAN))):
        require(not monitors.ranking_holds(exact, coded, chosen, 1).any(), "a ranking with a NaN holds")
    for coded, limit in ((spoiled(mass, (0, 2), NAN), delta), (mass, spoiled(delta, (0, 2), NAN))):
        require(not monitors.boundary_holds(mass, coded, limit, chosen, 1).any(), "a boundary with a NaN holds")


def corruption_is_noticed() -> None:
    """Flip a bit in the stored keys of each exactly scored block in turn; every alarm is rung 4 for all heads."""
    scene = gaussian(33, tokens=104, keys="int8-paper", values="int4-g16", sharpness=2.0)
    for policy, blocks in ((CAUTIOUS, None), (EXPLORING, range(6))):
        clean = scene.decode(policy)
        require(bool((clean.certificate.rung < 4).all()), "an alarm without corruption")
        for block in blocks or range(6):
            cache = scene.cache()
            codes = cache.encoded("keys").codes
            codes[block, 0, 7] ^= 0x40  # a quarter of the range, in one token, for one KV head
            step = scene.decode(policy, cache)
            chosen = scored_blocks(scene.q, scene.k, policy)
            if block in chosen:
                where = f"{'explored' if policy is EXPLORING else 'chosen'} block {block}"
                require(bool((step.certificate.rung == 4).all()), f"{where}: corruption was not noticed")
                require_sound(scene, step, where=where)


def scored_blocks(q: AnyArray, k: AnyArray, policy: PaperPolicy) -> set[int]:
    """Return blocks that a head of KV head 0 surely scores exactly: all if it explores, else its heaviest ones."""
    if policy.exploration == 1.0:
        return set(range(6))
    scores = q[:2].astype(np.float64) @ k[:96, 0].astype(np.float64).T / np.sqrt(k.shape[-1])
    mass = np.exp(scores).reshape(2, 6, 16).sum(axis=-1)
    return set(np.argsort(-mass, axis=-1)[:, :2].ravel().tolist())  # three are chosen


def metadata_is_watched() -> None:
    """Replace a stored step, or an annotation, by NaN: no output, or one whose bound holds."""
    scene = gaussian(34, keys="int8-paper", values="int4-g16")
    policies: tuple[Policy, ...] = (PaperPolicy(), Naive(), Budget())
    for policy, damage in product(policies, ("keys", "values", "annotation")):
        cache = scene.cache()
        if damage == "annotation":
            cache.value_annotations().residual_norm_ub[1, 0] = NAN
        else:
            cache.encoded("keys" if damage == "keys" else "values").step[1, 0, 3] = NAN
        where = f"{policy.name}, {damage}:"
        try:
            step = scene.decode(policy, cache)
        except CorruptionError:
            require(not isinstance(policy, Budget), f"{where} a head was not computed anew")
            continue
        bound = step.certificate.bound
        require(bool((bound >= 0).all()), f"{where} a bound is NaN")
        require(bool(np.isfinite(step.output).all()), f"{where} an output is not finite")
        require(not any(verdict.violated for verdict in scene.verdicts(step)), f"{where} a finite bound is wrong")
        if isinstance(policy, Budget):
            require(bool(np.isfinite(bound).all()), f"{where} a head was not computed anew")
        if damage == "keys" and isinstance(policy, PaperPolicy):
            require(bool((step.certificate.rung == 4).all()), f"{where} scores of NaN passed the checks")


def nothing_is_finite(name: str, array: AnyArray) -> None:
    """Check nothing."""


def only_first_token(name: str, array: AnyArray) -> None:
    """Check the first token only."""
    require_finite(name, array[:1])


REAL_CONSISTENT, REAL_BOUNDARY = monitors.scores_consistent, monitors.boundary_holds


def consistent_unless_apart(
    exact: FloatArray, coded: FloatArray, delta_ub: FloatArray, scored: BoolArray, guard: float
) -> BoolArray:
    """Look for a score that is too far off, which a NaN never is."""
    apart = (np.abs(exact - coded) > delta_ub[..., None] + guard).any(axis=-1)
    return np.asarray(~(apart & scored).any(axis=-1))


def boundary_unless_above(
    exact: FloatArray, coded: FloatArray, delta_ub: FloatArray, chosen: BoolArray, rank: int
) -> BoolArray:
    """Look for a block above the boundary, which a NaN never is."""
    exact, coded, delta_ub = (np.nan_to_num(x, nan=-1e9) for x in (exact, coded, delta_ub))
    return REAL_BOUNDARY(exact, coded, delta_ub, chosen, rank)


def nan_bound_zero() -> AbstractContextManager[None]:
    """Clean a quotient of NaN up to 0."""

    def over(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
        return np.nan_to_num(numerator / denominator)

    return patched((quotient, "over", over))


def nan_returned() -> AbstractContextManager[None]:
    """Return outputs of NaN beside their infinite bounds."""

    def anything(output: FloatArray) -> None:
        """Check nothing."""

    return patched((step_module, "require_numbers", anything))


def consistency_of(keep: Any) -> AbstractContextManager[None]:
    """Compare only some of the scored blocks."""

    def some(exact: FloatArray, coded: FloatArray, delta_ub: FloatArray, scored: BoolArray, guard: float) -> BoolArray:
        return REAL_CONSISTENT(exact, coded, delta_ub, keep(exact, scored), guard)

    return patched((monitors, "scores_consistent", some))


def heaviest_only(exact: FloatArray, scored: BoolArray) -> BoolArray:
    """Keep the block with the highest score."""
    return monitors.top(np.where(scored, exact.max(axis=-1), -np.inf), scored, 1)


def explored_not_compared() -> AbstractContextManager[None]:
    """Score explored blocks and look at none of them."""
    real = paper.observe

    def observe(policy: PaperPolicy, group: Any, selection: Any, explored: BoolArray) -> list[Observation]:
        group.exact_scores(explored.any(axis=0))
        return real(policy, group, selection, np.zeros_like(explored))

    return patched((paper, "observe", observe))


def wide_guard() -> AbstractContextManager[None]:
    """Allow scores to differ by 1000."""
    return patched((paper, "score_slack", lambda group: group.delta_ub + 1000.0))


def alarm_for_one() -> AbstractContextManager[None]:
    """Recompute only the head that raised the alarm."""

    def mild(seen: Observation) -> Action:
        found = next_action(seen)
        return Action.EXACT_HEAD if found is Action.DENSE else found

    return patched((paper, "next_action", mild))


def finite_when_full() -> AbstractContextManager[None]:
    """Look at keys and values only when a block fills."""
    encode = Cache._encode

    def checked(self: Cache, k: AnyArray, v: AnyArray) -> None:
        require_finite("k", k)
        require_finite("v", v)
        encode(self, k, v)

    return patched((cache_module, "require_finite", nothing_is_finite), (Cache, "_encode", checked))


CHECKS = (
    Check(
        "non-finite-refused",
        "NaN and infinities in q, k, v are errors that name the place",
        non_finite_input_is_refused,
    ),
    Check("nan-fails-checks", "a NaN fails every check", checks_fail_on_nan),
    Check("corruption-noticed", "corruption in any exactly scored block raises the alarm", corruption_is_noticed),
    Check(
        "metadata-watched",
        "NaN in what is stored yields no output, or one whose bound holds",
        metadata_is_watched,
    ),
)

MUTANTS = (
    Mutant(
        "nan-appended",
        "A9",
        "keys and values not looked at",
        lambda: patched((cache_module, "require_finite", nothing_is_finite)),
        "non-finite-refused",
    ),
    Mutant("nan-in-tail", "A9", "keys and values looked at when a block fills", finite_when_full, "non-finite-refused"),
    Mutant(
        "nan-after-first",
        "A9",
        "only the first appended token looked at",
        lambda: patched((cache_module, "require_finite", only_first_token)),
        "non-finite-refused",
    ),
    Mutant(
        "nan-query",
        "A9",
        "queries not looked at",
        lambda: patched((step_module, "require_finite", nothing_is_finite)),
        "non-finite-refused",
    ),
    Mutant(
        "consistent-unless-apart",
        "A9",
        "`any(|difference| > limit)`, false for NaN",
        lambda: patched((monitors, "scores_consistent", consistent_unless_apart)),
        "nan-fails-checks",
    ),
    Mutant(
        "nan-metadata",
        "A9",
        "the same, met by NaN in stored metadata",
        lambda: patched((monitors, "scores_consistent", consistent_unless_apart)),
        "metadata-watched",
    ),
    Mutant("nan-returned", "A9", "an output of NaN beside a bound of infinity", nan_returned, "metadata-watched"),
    Mutant("nan-bound-zero", "A9", "a bound of NaN reported as 0", nan_bound_zero, "metadata-watched"),
    Mutant(
        "boundary-unless-above",
        "A9",
        "a boundary check that NaN passes",
        lambda: patched((monitors, "boundary_holds", boundary_unless_above)),
        "nan-fails-checks",
    ),
    Mutant(
        "compare-heaviest",
        "B7",
        "only the heaviest block compared",
        lambda: consistency_of(heaviest_only),
        "corruption-noticed",
    ),
    Mutant("explored-ignored", "B7", "explored blocks never compared", explored_not_compared, "corruption-noticed"),
    Mutant("guard-wide", "B7", "a guard that lets everything pass", wide_guard, "corruption-noticed"),
    Mutant("alarm-for-one", "B7", "only the head with the alarm recomputed", alarm_for_one, "corruption-noticed"),
)
