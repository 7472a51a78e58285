"""Greedy choice: the cheapest items, or nearly, whose removal lowers a sum of non-negative terms far enough.

*Equal costs* (`largest_until`). Exchange argument: replacing any chosen item by a larger one that was left out never
lowers what is removed, so the largest items are a smallest set.

*Unequal costs* (`cheapest_until`). Take items in the order of gain per cost until the need is met. The items before the
last one cost less than any set that suffices, so the choice costs less than the cheapest set and one item.

*Levels* (`cheapest_levels`). An item may be taken at one of several levels, each dearer than the one before and as a
rule better; one that gains no more than a cheaper one is left out, and so is one that lies below a line between two
others. The steps between the rest are items of their own; the choice costs less than the cheapest one and one step. It
is compared with the plan of last levels only.

Choices serve the refinement of a budget, and the paper's stricter value policy. Derivation: docs/derivations/greedy.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray


def largest_until(gain: FloatArray, need: FloatArray) -> BoolArray:
    """Mark the largest gains, per row, until they sum to at least ``need``.

    Parameters
    ----------
    gain : float64 [rows, items]
        Non-negative; what removing an item takes off the sum. A NaN counts as ``+inf``.
    need : float64 [rows]
        What must come off. Nothing is marked where it is at most 0; everything, where it cannot be met or is NaN;
        otherwise every infinite gain.

    Returns
    -------
    bool [rows, items]
        Ties go to the lower index. Items of gain 0 are marked only where everything is.
    """
    worth = np.where(np.isnan(gain), np.inf, gain)
    return _first_until(worth, worth, need)


def cheapest_until(gain: FloatArray, cost: FloatArray, need: FloatArray) -> BoolArray:
    """Mark the largest gains per cost, per row, until gains sum to at least ``need``.

    Parameters
    ----------
    gain, need
        As in `largest_until`, and infinite and unknown ones are treated alike. Infinite gains come first.
    cost : float64 [items] or [rows, items]
        Positive, in any unit (bytes). An item of cost 0 or less comes before all others of finite gain, one of infinite
        or unknown cost after them.

    Returns
    -------
    bool [rows, items]
        Costs less than the cheapest marks that meet the need and one item. Ties go to the lower index.
    """
    worth = np.where(np.isnan(gain), np.inf, gain)
    price = np.broadcast_to(np.where(np.isnan(cost), np.inf, cost), worth.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        density = np.where(worth == 0.0, 0.0, worth / np.maximum(price, 0.0))
    # a finite gain may have an infinite density, an infinite one an unknown density
    ahead = np.where(np.isinf(worth), np.inf, np.minimum(density, np.finfo(np.float64).max))
    return _first_until(worth, ahead, need)


def cheapest_levels(gain: FloatArray, cost: FloatArray, need: FloatArray) -> IntArray:
    """Choose a level for every item, per row, so that gains sum to at least ``need`` at a low cost.

    Parameters
    ----------
    gain : float64 [rows, items, levels]
        What taking an item at a level takes off the sum; non-negative, in any order: a level may take off less than a
        cheaper one, and is then left out (a refined level can be worse than its base, see `bounds.planes`). An item
        with an infinite or unknown gain at any level is taken at its last or not at all.
    cost : float64 [levels] or [items, levels]
        What the level costs by itself, positive and increasing: planes before originals.
    need : float64 [rows]
        As in `largest_until`.

    Returns
    -------
    int64 [rows, items]
        0 for an item that is left alone, otherwise 1 plus the index of its level. Where everything is marked, the last
        level.
    """
    rows, _, levels = gain.shape
    price = np.broadcast_to(cost, gain.shape)
    unknown = ~np.all(np.isfinite(gain), axis=-1, keepdims=True)
    gain = np.where(unknown, np.where(np.arange(levels) == levels - 1, np.inf, 0.0), gain)
    steps, prices = _steps(gain, price)
    marks = cheapest_until(steps.reshape(rows, -1), prices.reshape(rows, -1), need).reshape(gain.shape)
    mixed = np.where(marks, np.arange(1, levels + 1), 0).max(axis=-1)
    only = np.where(cheapest_until(gain[..., -1], price[..., -1], need), levels, 0)
    # last levels that do not suffice are all there are, and then not cheaper
    cheaper = _taken(price, only) < _taken(price, mixed)
    return np.where(cheaper[:, None], only, mixed)


def _first_until(worth: FloatArray, ahead: FloatArray, need: FloatArray) -> BoolArray:
    """Mark items in descending order of ``ahead`` until their ``worth`` sums to at least ``need``."""
    order = np.argsort(-ahead, axis=-1, kind="stable")
    ranked = np.take_along_axis(worth, order, axis=-1)
    with np.errstate(over="ignore"):  # a sum that overflows meets every need
        before = np.concatenate([np.zeros((len(worth), 1)), np.cumsum(ranked, axis=-1)[:, :-1]], axis=-1)
    marks = np.zeros(worth.shape, np.bool_)
    wanted = need[:, None]
    # infinite terms must all come off, though the first of them already sums to an infinite need
    np.put_along_axis(marks, order, ~(before >= wanted) | (np.isinf(ranked) & ~(wanted <= 0)), axis=-1)
    return marks


def _steps(gain: FloatArray, cost: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gains and costs of going from each level to the next useful one; gain 0, cost ``+inf`` at levels that are not.

    Counted from the last useful level (at first: neither gain nor cost), a level is useful if it has more gain and no
    dearer level has more gain per cost. Steps between useful levels have gains per cost that do not rise.
    """
    # an item's gains in units of a power of two no smaller than its largest, or times a cost they overflow
    largest = gain.max(axis=-1, keepdims=True)
    unit = np.frexp(np.where(np.isinf(largest), 1.0, largest))[1]
    gain = np.ldexp(gain, -unit)
    start = np.zeros((*gain.shape[:-1], 1))
    g, c = np.concatenate([start, gain], axis=-1), np.concatenate([start, cost], axis=-1)
    levels = gain.shape[-1]
    steps, prices = np.zeros(gain.shape), np.full(gain.shape, np.inf)
    last_gain, last_cost = g[..., 0], c[..., 0]
    for level in range(1, levels + 1):
        rise, run = g[..., level] - last_gain, c[..., level] - last_cost
        useful = rise > 0.0
        with np.errstate(invalid="ignore"):  # inf - inf, and 0 times inf, at levels that lose the comparison
            for dearer in range(level + 1, levels + 1):
                useful &= ~(rise * (c[..., dearer] - last_cost) < (g[..., dearer] - last_gain) * run)
        steps[..., level - 1] = np.where(useful, np.ldexp(rise, unit[..., 0]), 0.0)
        prices[..., level - 1] = np.where(useful, run, np.inf)
        last_gain, last_cost = np.where(useful, g[..., level], last_gain), np.where(useful, c[..., level], last_cost)
    return steps, prices


def _taken(per_level: FloatArray, chosen: IntArray) -> FloatArray:
    """Sum over items of what the chosen levels give or cost, [rows, items, levels] -> [rows]; nothing for level 0."""
    at = np.take_along_axis(per_level, np.maximum(chosen, 1)[..., None] - 1, axis=-1)[..., 0]
    return np.asarray(np.where(chosen > 0, at, 0.0).sum(axis=-1))
