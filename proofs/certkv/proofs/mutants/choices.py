"""Choices: which blocks are promoted, what a tolerance means, when a head is accepted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import Scene, require_sound
from certkv.reference import Budget, Step, ladder
from certkv.reference.ladder import Action, Observation
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.policies import RELATIVE_TO
from certkv.reference.selection import coverage, greedy
from certkv.reference.selection.coverage import Selection
from certkv.reference.steps import budget, tolerance
from certkv.reference.steps.certify import Certified, certify
from certkv.reference.steps.group import Group

NAN = float("nan")


def choose_blocks(mass: FloatArray, already: FloatArray, share: float, **settings: Any) -> Selection:
    """Select with limits that do not bind."""
    limits: dict[str, Any] = {"k_min": 1, "k_max": mass.shape[1], "tail_threshold": 1.0, "expansion": 2.0}
    return coverage.select(mass, already, coverage=share, **{**limits, **settings})


def selection_is_smallest() -> None:
    """Find the fewest blocks that reach the coverage by trying every count, for random masses."""
    rng = np.random.default_rng(1)
    for share in (0.5, 0.9, 0.995):
        mass = rng.dirichlet(np.full(13, 0.3), size=8)
        mass, already = mass[:, :-1], mass[:, -1]
        chosen = choose_blocks(mass, already, share).chosen
        for row, start, marks in zip(mass, already, chosen, strict=True):
            best = np.sort(row)[::-1]
            fewest = next(n for n in range(1, 13) if start + best[:n].sum() >= share - 1e-12 or n == 12)
            require(int(marks.sum()) == fewest, f"{int(marks.sum())} blocks chosen where {fewest} reach {share}")
            require(bool(row[marks].sum() >= best[:fewest].sum() - 1e-12), "the chosen blocks are not the heaviest")


def selection_distrusts_nan() -> None:
    """Treat a mass that is not a number as a heavy tail, and need that is not a number as all there is."""
    mass = np.array([[0.5, NAN, 0.1]])
    found = choose_blocks(mass, np.zeros(1), 0.5, tail_threshold=0.02)
    require(bool(found.expanded.all()), "a mass of NaN passed as a light tail")
    require(bool(greedy.largest_until(np.ones((1, 3)), np.array([NAN])).all()), "an unknown need was met by nothing")


def greedy_is_smallest() -> None:
    """Compare the number of marked items with the smallest that suffices."""
    rng = np.random.default_rng(2)
    gain = rng.random((10, 12))
    need = gain.sum(axis=1) * rng.random(10)
    marks = greedy.largest_until(gain, need)
    for row, wanted, marked in zip(gain, need, marks, strict=True):
        fewest = int(np.searchsorted(np.cumsum(np.sort(row)[::-1]), wanted) + 1)
        require(bool(row[marked].sum() >= wanted) and int(marked.sum()) == fewest, "not the fewest that suffice")


def unknown_is_not_accepted() -> None:
    """Ask the ladder about numbers that are not numbers."""
    for bound, limit in ((NAN, 1.0), (1.0, NAN), (NAN, NAN), (NAN, float("inf")), (2.0, 1.0), (0.0, 0.0)):
        found = ladder.next_action(Observation(bound=bound, tolerance=limit))
        require(found is Action.EXACT_HEAD, f"bound {bound} under tolerance {limit}: {found.value}")
    found = ladder.next_action(Observation(bound=1.0, tolerance=1.0))
    require(found is Action.ACCEPT, f"a bound that meets its tolerance: {found.value}")


def contract_holds(scene: Scene, policy: Budget) -> Step:
    """Check that every head is under its tolerance or on rung 3, and that its bound is true."""
    where = f"{policy.relative_to} {policy.tolerance}"
    step = scene.decode(policy)
    done = step.certificate
    kept = (done.bound <= done.tolerance) | (done.rung >= 3)
    require(bool(kept.all()), f"{where}: bound {done.bound[~kept]} over tolerance {done.tolerance[~kept]}")
    require_sound(scene, step, where=where)
    return step


def budget_is_enforced() -> None:
    """Run loose and tight tolerances of all three kinds on heads of different difficulty."""
    scene = gaussian(21, sharpness=3.0)
    for relative_to in RELATIVE_TO:
        for t in (0.0, 1e-6, 0.01, 0.05, 0.2):
            contract_holds(scene, Budget(t, relative_to))
            contract_holds(scene, Budget(t, relative_to, rounds=0))
    exact = contract_holds(scene, Budget(0.0))
    require(bool((exact.certificate.rung == 3).all()), "a tolerance of 0 was met without the originals")


def bound_is_the_gate() -> None:
    """Put the tolerance just above and just below the bound of the first pass."""
    scene = gaussian(22, q_heads=1, kv_heads=1)
    first = float(contract_holds(scene, Budget(1e6, "absolute")).certificate.bound[0])
    above = contract_holds(scene, Budget(first * 1.001, "absolute")).certificate
    below = contract_holds(scene, Budget(first * 0.999, "absolute")).certificate
    require(int(above.rung[0]) == 0, f"rung {int(above.rung[0])} although the bound fits")
    require(int(below.rung[0]) in (1, 2), f"rung {int(below.rung[0])} although promotion was enough")


def tolerance_means_what_it_says() -> None:
    """Derive from the returned numbers alone that the share is kept."""
    scene = gaussian(23, sharpness=0.3)
    first = contract_holds(scene, Budget(1e6, "absolute"))
    norms = np.linalg.norm(first.output, axis=1)
    for share in first.certificate.bound / norms * 1.01:  # the bound is just under t ||output||
        step = contract_holds(scene, Budget(float(share), "output"))
        done = step.certificate
        exact_lb = np.linalg.norm(step.output, axis=1) - done.bound  # ||O|| >= ||output|| - error
        kept = (done.bound <= share * exact_lb * (1 + 1e-12)) | (done.rung >= 3)
        require(bool(kept.all()), f"an error of {share:.3f} ||O|| is not excluded")
    even = replace(scene, q=np.zeros_like(scene.q), values="dense")
    limit = even.decode(Budget(0.1)).certificate.tolerance
    size = np.linalg.norm(scene.v.astype(np.float64), axis=-1).mean(axis=0).repeat(2)
    require(bool((limit <= 0.1 * size).all()), "the tolerance is above its share of the mean value norm")
    # an annotation rounded down to bfloat16 loses at most 2**-7, all else is float64 arithmetic
    require(
        bool((limit >= 0.1 * size * (1 - 2.0**-7 - 2.0**-22)).all()),
        "the tolerance is below its share of the mean norm",
    )


REAL_SELECT, REAL_UNTIL, REAL_REACHING = coverage.select, greedy.largest_until, coverage.first_reaching


def unsorted_ranks(mass: FloatArray, already: FloatArray, **settings: Any) -> Selection:
    """Apply the count that the sorted masses need to the blocks in storage order."""
    return REAL_SELECT(-np.sort(-mass, axis=-1), already, **settings)


def lightest_first(mass: FloatArray, already: FloatArray, **settings: Any) -> Selection:
    """Sort ascending."""
    return REAL_SELECT(mass.max() - mass, already, **settings)


def hopeful_select(mass: FloatArray, already: FloatArray, **settings: Any) -> Selection:
    """Ask whether the tail is too heavy, which a NaN is not."""
    found = REAL_SELECT(mass, already, **settings)
    return replace(found, expanded=found.tail_mass > settings["tail_threshold"])


def hopeful_until(gain: FloatArray, need: FloatArray) -> BoolArray:
    """Mark while what came before is less than the need, which nothing is if the need is NaN."""
    return REAL_UNTIL(gain, np.where(np.isnan(need), 0.0, need))


def smallest_until(gain: FloatArray, need: FloatArray) -> BoolArray:
    """Promote the smallest gains first."""
    return REAL_UNTIL(gain.max() - gain, need)


REAL_ACTION = ladder.next_action


def every_ladder(function: Any) -> AbstractContextManager[None]:
    """Put a function in the place of `next_action` wherever it is asked."""
    return patched((ladder, "next_action", function), (budget, "next_action", function))


def accept_unless_worse(seen: Observation) -> Action:
    """Refuse where ``bound > tolerance``."""
    if REAL_ACTION(seen) is Action.EXACT_HEAD and not seen.bound > seen.tolerance:
        return Action.ACCEPT
    return REAL_ACTION(seen)


def accept_always(seen: Observation) -> Action:
    """Report the bound and enforce nothing."""
    return Action.ACCEPT


def accept_when_tired(seen: Observation) -> Action:
    """Accept whatever there is once the rounds are used up."""
    found = REAL_ACTION(seen)
    return Action.ACCEPT if found is Action.EXACT_HEAD and seen.tolerance > 0 else found


def dense_always(seen: Observation) -> Action:
    """Send every head to the originals: a ladder that gates nothing."""
    return Action.EXACT_HEAD


def clipped_bound() -> AbstractContextManager[None]:
    """Report the tolerance as the bound where the bound is larger."""
    limit = 1e-3

    def clipped(*arguments: Any) -> Certified:
        done = certify(*arguments)
        return replace(done, bound=replace(done.bound, bound=np.minimum(done.bound.bound, limit)))

    return patched((budget, "certify", clipped))


def without_margin(policy: Budget, group: Group, seen: Any, output: FloatArray) -> FloatArray:
    """Take ``t ||output||`` as the tolerance for ``t ||O||``."""
    found = tolerance.tolerance(policy, group, seen, output)
    return found * (1.0 + policy.tolerance) if policy.relative_to == "output" else found


def largest_value_norms(group: Group) -> FloatArray:
    """Use each block's largest value norm where its mean is promised."""
    notes = group.value_notes
    blocks = np.empty(0) if notes is None else notes.norm_ub.astype(np.float64)
    return np.concatenate([blocks, [np.linalg.norm(group.tail_values, axis=-1).max(initial=0.0)]])


def off_by_one(mass: FloatArray, already: FloatArray, share: float) -> IntArray:
    """Take the index of the block that reaches the coverage as the count."""
    return REAL_REACHING(mass, already, share) - 1


def gate_on_keys() -> AbstractContextManager[None]:
    """Compare only the key term with the tolerance and report the whole bound."""
    latest: list[FloatArray] = []

    def remember(*arguments: Any) -> Certified:
        done = certify(*arguments)
        latest[:] = [done.bound.key]
        return done

    decide = budget.decide

    def on_keys(bound: FloatArray, limit: FloatArray, rounds_left: IntArray) -> Any:
        return decide(latest[0], limit, rounds_left)

    return patched((budget, "certify", remember), (budget, "decide", on_keys))


CHECKS = (
    Check("selection-smallest", "the fewest, heaviest blocks reach the coverage", selection_is_smallest),
    Check("selection-nan", "a choice that met a NaN takes more, not less", selection_distrusts_nan),
    Check("greedy-smallest", "promotion takes the fewest items that suffice", greedy_is_smallest),
    Check("unknown-not-accepted", "the ladder accepts only what is known to fit", unknown_is_not_accepted),
    Check("budget-enforced", "under Budget, bound <= tolerance or rung 3, and the bound is true", budget_is_enforced),
    Check("bound-is-gate", "the bound alone decides: accepted just below it, refined just above", bound_is_the_gate),
    Check("tolerance-meaning", "a relative tolerance is the share that it names", tolerance_means_what_it_says),
)

MUTANTS = (
    Mutant(
        "coverage-unsorted",
        "-",
        "ranks used as block numbers",
        lambda: patched((coverage, "select", unsorted_ranks)),
        "selection-smallest",
    ),
    Mutant(
        "coverage-lightest",
        "-",
        "lightest blocks chosen first",
        lambda: patched((coverage, "select", lightest_first)),
        "selection-smallest",
    ),
    Mutant(
        "coverage-one-short",
        "-",
        "one block fewer than the coverage needs",
        lambda: patched((coverage, "first_reaching", off_by_one)),
        "selection-smallest",
    ),
    Mutant(
        "nan-light-tail",
        "A9",
        "`tail > threshold`, false for NaN",
        lambda: patched((coverage, "select", hopeful_select)),
        "selection-nan",
    ),
    Mutant(
        "nan-need-met",
        "A9",
        "`before < need`, false for NaN",
        lambda: patched((greedy, "largest_until", hopeful_until)),
        "selection-nan",
    ),
    Mutant(
        "greedy-smallest-gain",
        "-",
        "smallest gains promoted first",
        lambda: patched((greedy, "largest_until", smallest_until)),
        "greedy-smallest",
    ),
    Mutant(
        "accept-unless-worse",
        "A9",
        "`not bound > tolerance`, true for NaN",
        lambda: every_ladder(accept_unless_worse),
        "unknown-not-accepted",
    ),
    Mutant(
        "accept-always",
        "B2",
        "the bound reported, never compared",
        lambda: every_ladder(accept_always),
        "budget-enforced",
    ),
    Mutant(
        "accept-when-tired",
        "B2",
        "accepted once the rounds are used up",
        lambda: every_ladder(accept_when_tired),
        "budget-enforced",
    ),
    Mutant("bound-clipped", "B2", "the tolerance reported as the bound", clipped_bound, "budget-enforced"),
    Mutant("gate-on-keys", "A11", "the tolerance compared with the key term alone", gate_on_keys, "budget-enforced"),
    Mutant("dense-always", "A11", "every head from the originals", lambda: every_ladder(dense_always), "bound-is-gate"),
    Mutant(
        "output-without-margin",
        "-",
        "t ||output|| for t ||O||",
        lambda: patched((budget, "tolerance", without_margin)),
        "tolerance-meaning",
    ),
    Mutant(
        "largest-value-norm",
        "-",
        "the largest value norm for the mean",
        lambda: patched((tolerance, "mean_value_norms", largest_value_norms)),
        "tolerance-meaning",
    ),
)
