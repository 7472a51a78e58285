"""The contract as properties of any decode step: each takes a `HeadStep` and raises where it does not hold.

They hold for every step that can be drawn, so they are what a test of another implementation, or of a change, asks.
"""

# ruff: noqa: D401 (the docstring of a property is its statement)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np

from certkv.proofs.campaign import contract
from certkv.proofs.campaign.settle import is_open, settle
from certkv.proofs.mutants.model import require
from certkv.proofs.strategies.head_steps import HeadStep
from certkv.reference import Budget, Certificate, PaperPolicy, Step
from certkv.reference.exact import Enclosure, judge
from certkv.reference.formats import OscarKeys, key_format, levels_of
from certkv.reference.numbers.types import AnyArray, BoolArray

Property = Callable[[HeadStep], None]
"""Raises `certkv.proofs.mutants.model.CheckFailed` where it does not hold."""

FIELDS = tuple(field.name for field in fields(Certificate))


def require_same(a: AnyArray, b: AnyArray, what: str) -> None:
    """Check that two arrays are the same, bit for bit."""
    require(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), f"{what} differs")


def require_same_step(a: Step, b: Step, where: str, rows: BoolArray | slice = slice(None), output: bool = True) -> None:
    """Check that outputs, certificates and claims of some heads are the same, bit for bit; bytes moved may differ."""
    for name in FIELDS:
        require_same(getattr(a.certificate, name)[rows], getattr(b.certificate, name)[rows], f"{where}: {name}")
    for name in ("output", "lse", "paper_bound") if output else ("lse", "paper_bound"):
        require_same(getattr(a, name)[rows], getattr(b, name)[rows], f"{where}: {name}")


def bounds_hold(case: HeadStep) -> None:
    """``||output - exact|| <= bound`` for every head, by enclosures; nothing is left open."""
    scene, step = case.scene, case.decode()
    ratio = len(scene.q) // scene.k.shape[1]
    for kv_head in range(scene.k.shape[1]):
        mine = slice(kv_head * ratio, (kv_head + 1) * ratio)
        k, v, q = scene.k[: case.visible, kv_head], scene.v[: case.visible, kv_head], scene.q[mine]
        output, bounds = step.output[mine].astype(np.float64), step.certificate.bound[mine]
        verdicts = judge(output, bounds, q, k, v, scene.scale, enclosures="always")
        for head, (verdict, bound) in enumerate(zip(verdicts, bounds.tolist(), strict=True)):
            if is_open(verdict, bound):
                verdict = settle(output[head], bound, q[head], Enclosure(k, v), v.astype(np.float64), scene.scale)
            limits = f"{verdict.error_lb!r} <= error <= {verdict.error_ub!r}, bound {bound!r}"
            require(not verdict.violated, f"bound exceeded: {limits}")
            require(not is_open(verdict, bound), f"undecided: {limits}")


def parts_add_up(case: HeadStep) -> None:
    """The parts cover the bound as exact numbers; nothing is negative or NaN; what is dense has no part.

    Except where nothing is known: errors so large that the denominator vanishes make every part 0/0, which counts as
    infinite and is cut at the bound.
    """
    step = case.decode()
    c = step.certificate
    findings = contract.check_numbers(step)
    require(not findings, "; ".join(findings))
    for head, bound in enumerate(c.bound.tolist()):
        if np.isfinite(bound):
            parts = sum((Fraction(float(x[head])) for x in (c.key, c.value, c.arithmetic)), Fraction(0))
            require(parts >= Fraction(bound), f"head {head}: the parts are less than the bound {bound!r}")
    for fmt, part in ((case.scene.keys, c.key), (case.scene.values, c.value)):
        require(fmt != "dense" or bool(((part == 0.0) | (part == c.bound)).all()), "what is dense has a part")


def budget_is_enforced(case: HeadStep) -> None:
    """Under a budget ``bound <= tolerance`` or the head comes from the originals; promotions, rungs and bytes agree."""
    scene, cache = case.scene, case.cache()
    step = case.decode(cache)
    findings = [
        *contract.check_tolerance(step, case.policy, scene.v[: case.visible], len(scene.q) // scene.k.shape[1]),
        *contract.check_promotion(step, case.policy, cache, case.visible // scene.block),
    ]
    require(not findings, "; ".join(findings))


def past_is_a_shorter_cache(case: HeadStep) -> None:
    """A causal query gets, bit for bit, what the cache gave when it held no later token."""
    scene = replace(case.scene, k=case.scene.k[: case.visible], v=case.scene.v[: case.visible])
    prefix = replace(case, scene=scene, position=None, pieces=(case.visible,))
    require_same_step(case.decode(), prefix.decode(), f"position {case.position} and its prefix")


def scratch_changes_nothing(case: HeadStep) -> None:
    """Scratch of any size, cold or warm, changes what is moved and nothing else."""
    block_bytes = case.scene.block * case.scene.k.shape[2] * 2
    without = replace(case, scene=replace(case.scene, scratch_bytes=0)).decode()
    for blocks in (1, 2, 1000):
        held = replace(case, scene=replace(case.scene, scratch_bytes=blocks * block_bytes))
        cache = held.cache()
        cold, warm = held.decode(cache), held.decode(cache)
        require_same_step(without, cold, f"scratch of {blocks} blocks")
        require_same_step(without, warm, f"warm scratch of {blocks} blocks")
        moved = [step.moved_bytes for step in (without, cold, warm)]
        require(moved[0] >= moved[1] >= moved[2], f"scratch of {blocks} blocks moves more: {moved}")


def pieces_do_not_matter(case: HeadStep) -> None:
    """Appending in pieces, at once, or token by token makes the same cache."""
    step, tokens = case.decode(), len(case.scene.k)
    for pieces in ((tokens,), (1,) * tokens):
        require_same_step(step, replace(case, pieces=pieces).decode(), f"{len(pieces)} pieces")


def heads_do_not_meet(case: HeadStep) -> None:
    """A KV head's queries get the same from a cache of this KV head alone.

    Not so under `PaperPolicy`: its exploration draws by head, and its rung 4 is for all heads; nor where heads share a
    token's norm.
    """
    scene = case.scene
    heads, keys = scene.k.shape[1], key_format(scene.keys)
    if heads == 1 or isinstance(case.policy, PaperPolicy) or (isinstance(keys, OscarKeys) and keys.scope == "joint"):
        return
    step, ratio = case.decode(), len(scene.q) // heads
    for head in range(heads):
        mine, one = slice(head * ratio, (head + 1) * ratio), slice(head, head + 1)
        alone = replace(case, scene=replace(scene, q=scene.q[mine], k=scene.k[:, one], v=scene.v[:, one])).decode()
        require_same(alone.output, step.output[mine], f"alone, KV head {head}: output")
        require_same(alone.certificate.bound, step.certificate.bound[mine], f"alone, KV head {head}: bound")


def scale_belongs_to_the_query(case: HeadStep) -> None:
    """A power of two moved from the query to the scale changes no bit: only their product matters."""
    q = case.scene.q.astype(np.float64)
    for power in (0.25, 8.0):
        with np.errstate(over="ignore", under="ignore"):
            moved = (power * q).astype(np.float32)
        scale = case.scene.scale / power
        if (moved.astype(np.float64) != power * q).any() or not 2.0**-128 <= abs(scale) <= 2.0**128:
            continue  # the query or the scale left its range
        before = replace(case, scene=replace(case.scene, q=case.scene.q.astype(np.float32))).decode()
        after = replace(case, scene=replace(case.scene, q=moved, scale=scale)).decode()
        require_same_step(before, after, f"{power} from scale to query")


def a_looser_budget_accepts(case: HeadStep) -> None:
    """What an absolute budget accepts without promoting, every larger one accepts, with the same output and bound."""
    tight = replace(case, policy=Budget(0.3, "absolute")).decode()
    loose = replace(case, policy=Budget(0.9, "absolute")).decode()
    accepted = (tight.certificate.rung == 0) & (tight.certificate.bound <= 0.3)
    require(bool((loose.certificate.rung[accepted] == 0).all()), "a looser budget promotes more")
    require_same(loose.output[accepted], tight.output[accepted], "a looser budget: output")
    require_same(loose.certificate.bound[accepted], tight.certificate.bound[accepted], "a looser budget: bound")


def more_rounds_only_add(case: HeadStep) -> None:
    """A head that is accepted within r rounds is accepted alike when r + 1 are allowed.

    Not where keys have planes: those that are far off are looked at level by level, but in the last round.
    """
    if isinstance(case.policy, Budget) and levels_of(key_format(case.scene.keys)) == 1:
        fewer = case.decode()
        more = replace(case, policy=replace(case.policy, rounds=case.policy.rounds + 1)).decode()
        require_same_step(fewer, more, "one more round", fewer.certificate.rung < 3)


def the_index_only_explores(case: HeadStep) -> None:
    """The number of the step enters the exploration draw, and nothing where there is none."""
    if not (isinstance(case.policy, PaperPolicy) and case.policy.exploration > 0.0):
        require_same_step(case.decode(), replace(case, index=case.index + 7).decode(), "another index")


def signs_of_values_pass_through(case: HeadStep) -> None:
    """With dense values, negated values negate the output and leave the certificate as it is."""
    scene = replace(case.scene, values="dense")
    step = replace(case, scene=scene).decode()
    mirrored = replace(case, scene=replace(scene, v=-scene.v)).decode()
    opposite = mirrored.output.astype(np.float64) == -step.output.astype(np.float64)
    require(bool(opposite.all()), "negated values do not negate the output")
    require_same_step(step, mirrored, "negated values", output=False)


PROPERTIES: tuple[Property, ...] = (
    bounds_hold,
    parts_add_up,
    budget_is_enforced,
    past_is_a_shorter_cache,
    scratch_changes_nothing,
    pieces_do_not_matter,
    heads_do_not_meet,
    scale_belongs_to_the_query,
    a_looser_budget_accepts,
    more_rounds_only_add,
    the_index_only_explores,
    signs_of_values_pass_through,
)
