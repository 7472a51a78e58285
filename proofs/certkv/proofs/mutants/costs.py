"""Choices among items of unequal cost: nearly the cheapest that suffices."""

from __future__ import annotations

import itertools

import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.selection import greedy

NAN, INF = float("nan"), float("inf")


def cheapest_is_nearly_cheapest() -> None:
    """Compare with every set of eight items: enough, and at less than the lowest cost and one item."""
    rng = np.random.default_rng(3)
    sets = np.array(list(itertools.product([False, True], repeat=8)))
    for _ in range(40):
        gain, cost = rng.integers(0, 40, 8).astype(np.float64), rng.integers(1, 30, 8).astype(np.float64)
        need = float(rng.integers(1, max(2, int(gain.sum()))))
        marks = greedy.cheapest_until(gain[None], cost, np.array([need]))[0]
        best = min(cost[s].sum() for s in sets if gain[s].sum() >= need)
        require(bool(gain[marks].sum() >= need), f"{gain[marks].sum()} taken off where {need} must come off")
        spent, limit = float(cost[marks].sum()), float(best + cost[marks].max())
        require(spent < limit, f"cost {spent}, where {best} is enough and one item more {limit}")


def levels_are_nearly_cheapest() -> None:
    """Do the same for four items at three levels; never dearer than the last levels alone."""
    rng = np.random.default_rng(4)
    choices = np.array(list(itertools.product(range(4), repeat=4)))
    for _ in range(40):
        gain = np.sort(rng.integers(0, 40, (4, 3)), axis=1).astype(np.float64)
        cost = np.cumsum(rng.integers(1, 20, 3)).astype(np.float64)
        gains, costs = np.pad(gain, ((0, 0), (1, 0))), np.append(0.0, cost)
        need = float(rng.integers(1, max(2, int(gain[:, 2].sum()))))
        level = greedy.cheapest_levels(gain[None], cost, np.array([need]))[0]
        total = gains[np.arange(4), choices].sum(axis=1)
        spent = costs[choices].sum(axis=1)
        best = float(spent[total >= need].min())
        last = (choices % 3 == 0).all(axis=1) & (total >= need)
        found, enough = float(costs[level].sum()), float(gains[np.arange(4), level].sum())
        require(enough >= need, f"{enough} taken off where {need} must come off")
        require(found < best + cost[2], f"cost {found}, where {best} is enough and one step at most {cost[2]}")
        require(found <= spent[last].min(), f"cost {found}, where originals alone cost {spent[last].min()}")
    six = greedy.cheapest_levels(np.tile([2.0, 7.0], (1, 6, 1)), np.array([1.0, 4.0]), np.array([14.0]))
    require(int((six == 2).sum()) == 2, "six planes and a step, where two originals cost less")


def costs_distrust_nan() -> None:
    """Treat unknown gains as infinite, at any cost, and unknown needs as all there is."""
    one = np.array([1.0])
    marks = greedy.cheapest_until(np.array([[NAN, 9.0]]), np.array([99.0, 1.0]), one)
    require(marks[0].tolist() == [True, False], "an unknown gain did not come first")
    both = np.array([[INF, 1.0, INF]])
    marks = greedy.cheapest_until(both, np.array([9.0, 1.0, 1.0]), np.array([INF]))
    require(marks[0].tolist() == [True, False, True], "an infinite gain was left")
    require(
        bool(greedy.cheapest_until(both, np.ones(3), np.array([NAN])).all()), "an unknown need was met by less than all"
    )
    level = greedy.cheapest_levels(np.array([[[NAN, 5.0], [4.0, 5.0]]]), np.array([1.0, 4.0]), one)
    require(level[0].tolist() == [2, 0], "an unknown gain was not taken at the last level")


UNTIL, LEVELS = greedy.cheapest_until, greedy.cheapest_levels


def by_gain(gain: FloatArray, cost: FloatArray, need: FloatArray) -> BoolArray:
    """Leave costs out."""
    return greedy.largest_until(gain, need)


def by_cost(gain: FloatArray, cost: FloatArray, need: FloatArray) -> BoolArray:
    """Take what is cheap first, whatever it gains."""
    return greedy._first_until(gain, -np.broadcast_to(cost, gain.shape), need)


def one_short(gain: FloatArray, cost: FloatArray, need: FloatArray) -> BoolArray:
    """Stop before the last item, which overshoots."""
    marks = UNTIL(gain, cost, need)
    last = np.where(marks, gain / cost, np.inf).argmin(axis=-1)
    marks[np.arange(len(marks)), last] &= gain.sum(axis=-1) <= need
    return marks


def nan_last(gain: FloatArray, cost: FloatArray, need: FloatArray) -> BoolArray:
    """Count an unknown gain as none."""
    return UNTIL(np.where(np.isnan(gain), 0.0, gain), cost, need)


def nan_planes(gain: FloatArray, cost: FloatArray, need: FloatArray) -> IntArray:
    """Count an unknown gain of a level as none."""
    return LEVELS(np.where(np.isnan(gain), 0.0, gain), cost, need)


def steps_as_they_are(gain: FloatArray, cost: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Take every level for a step of its own, with the gain and the cost of the level."""
    return gain, np.broadcast_to(cost, gain.shape)


def dearest_useful(gain: FloatArray, cost: FloatArray, need: FloatArray) -> IntArray:
    """Go by planes and steps, and never look at originals alone."""
    steps, prices = greedy._steps(gain, np.broadcast_to(cost, gain.shape))
    marks = UNTIL(steps.reshape(len(gain), -1), prices.reshape(len(gain), -1), need).reshape(gain.shape)
    return np.asarray(np.where(marks, np.arange(1, gain.shape[-1] + 1), 0).max(axis=-1))


CHECKS = (
    Check("cheapest", "with costs, less is spent than the least possible and one item", cheapest_is_nearly_cheapest),
    Check("cheapest-levels", "with levels, less than the least possible and one step", levels_are_nearly_cheapest),
    Check("cheapest-nan", "what is unknown comes first, whatever it costs", costs_distrust_nan),
)

MUTANTS = (
    Mutant(
        "cheapest-by-gain",
        "-",
        "largest gains first, at any cost",
        lambda: patched((greedy, "cheapest_until", by_gain)),
        "cheapest",
    ),
    Mutant(
        "cheapest-by-cost",
        "-",
        "lowest costs first, for any gain",
        lambda: patched((greedy, "cheapest_until", by_cost)),
        "cheapest",
    ),
    Mutant(
        "cheapest-one-short",
        "-",
        "the last item left out",
        lambda: patched((greedy, "cheapest_until", one_short)),
        "cheapest",
    ),
    Mutant(
        "levels-as-items",
        "-",
        "levels of an item taken for separate items",
        lambda: patched((greedy, "_steps", steps_as_they_are)),
        "cheapest-levels",
    ),
    Mutant(
        "levels-no-originals",
        "-",
        "no plan of originals only to compare with",
        lambda: patched((greedy, "cheapest_levels", dearest_useful)),
        "cheapest-levels",
    ),
    Mutant(
        "cheapest-nan-last",
        "A9",
        "an unknown gain counts as none",
        lambda: patched((greedy, "cheapest_until", nan_last)),
        "cheapest-nan",
    ),
    Mutant(
        "levels-nan-plane",
        "A9",
        "an unknown gain of a level counts as none",
        lambda: patched((greedy, "cheapest_levels", nan_planes)),
        "cheapest-nan",
    ),
)
