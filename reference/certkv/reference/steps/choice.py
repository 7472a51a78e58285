"""What a budget reads next: the fewest originals, or where there are planes, the cheapest levels.

The bound is at most the limit iff ``numerator - limit * denominator <= 0``. A finer level of a block's keys takes its
key term down from C_b to that of the level and gives ``limit`` times the weight it restores back; one of its values
takes its value term down. The notes of every level are on the device, so what a level would leave is evaluated before
anything is read, at the executed shares. A choice is a guess until it is attended to and certified anew.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds import arithmetic, spectral
from certkv.reference.bounds.quotient import BlockBound
from certkv.reference.bounds.spectral import ScoreKnowledge
from certkv.reference.cache import Side
from certkv.reference.numbers.types import FloatArray, IntArray
from certkv.reference.selection import cheapest_levels
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.certify import Certified
from certkv.reference.steps.coded_terms import spectral_terms
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import SIDES, Levels
from certkv.reference.steps.used import score_errors

DEVICE_COST = 1.0 / 64.0
"""What reading a byte on the device costs, a byte from host memory being 1: about the ratio of bandwidths of an H200
and of PCIe 5. Of consequence for the choice alone."""

FAR = 2.0
"""Score error above which a block's executed shares say little of its true ones, so that its next level is read alone
and looked at, while rounds are left. With 2-bit keys that saves a tenth of the bytes at most; others are nearer."""


def original_gains(levels: Levels, seen: Attended, done: Certified, limit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return what originals of keys, and of values, take off, float64 [rows, blocks]; 0 where they are."""
    bound = done.bound
    restored = limit[:, None] * np.maximum(seen.mass - bound.weight, 0.0)[:, :-1]
    key_gain = np.where(levels.keys, 0.0, bound.key_gain[:, :-1] + restored)
    return key_gain, np.where(levels.values, 0.0, bound.value_gain[:, :-1])


def needed(bound: BlockBound, limit: FloatArray) -> FloatArray:
    """Return what must come off, float64 [rows]; an infinite or unknown need promotes everything."""
    with np.errstate(invalid="ignore", over="ignore"):
        numerator = bound.key_gain.sum(axis=-1) + bound.value_gain.sum(axis=-1)
        return np.asarray(numerator - limit * bound.denominator)


def choose_levels(
    group: Group,
    levels: Levels,
    rows: IntArray,
    seen: Attended,
    done: Certified,
    limit: FloatArray,
    rounds_left: int = 1,
) -> Levels:
    """Pick a level for every block and side: planes or original, at the lowest cost that should suffice.

    Parameters
    ----------
    group : Group
        With at least one block, and a format of several levels.
    levels : Levels
        Of the pass, one row for each entry of ``rows``.
    rows : int64 [rows]
    seen : Attended
    done : Certified
    limit : float64 [rows]
    rounds_left : int
        Rounds of promotion that there still are, this one included.

    Returns
    -------
    Levels
        What to have read, [rows, blocks]: planes that a level needs, or the original, and then no planes for it.
    """
    blocks = levels.keys.shape[1]
    last = max(len(group.finer.levels(side)) for side in SIDES) + 1
    gain = np.zeros((len(rows), 2 * blocks, last))
    cost = np.empty(gain.shape)
    for side, whole, part in zip(SIDES, original_gains(levels, seen, done, limit), (0, blocks), strict=True):
        mine = slice(part, part + blocks)
        gain[:, mine, -1] = whole
        cost[:, mine] = costs(group, levels, side, last)
        for level in group.finer.levels(side):
            left = _left(group, levels, rows, seen, done, limit, side, level)
            with np.errstate(invalid="ignore"):  # inf - inf is unknown, and so is the gain
                taken = np.maximum(whole - left, 0.0)
            gain[:, mine, level - 1] = np.where(levels.originals(side) | (levels.planes(side) >= level), 0.0, taken)
    chosen = cheapest_levels(gain, cost, needed(done.bound, limit))
    planes = np.where(chosen < last, chosen, 0)
    original = chosen == last
    wanted = Levels(original[:, :blocks], original[:, blocks:], planes[:, :blocks], planes[:, blocks:])
    return one_at_a_time(group, levels, rows, wanted) if rounds_left > 1 else wanted


def one_at_a_time(group: Group, levels: Levels, rows: IntArray, wanted: Levels) -> Levels:
    """Take the next level of keys for what was chosen, where the level in use is `FAR` off and the next is nearer.

    A next level that is unknown, or no nearer, is not looked at: what was chosen is read at once.
    """
    delta, _ = score_errors(group, levels, rows)
    keys, planes = wanted.keys.copy(), wanted.key_planes.copy()
    for level, (finer, _) in enumerate(group.finer_errors, 1):
        here = levels.at("keys", level - 1) & (delta > FAR) & (finer[rows] < delta)
        beyond = here & (wanted.keys | (wanted.key_planes > level))
        keys[beyond], planes[beyond] = False, level
    return Levels(keys, wanted.values, planes, wanted.value_planes)


def costs(group: Group, levels: Levels, side: Side, last: int) -> FloatArray:
    """Price every level of one side: the planes that are still to be read, or the original.

    Returns
    -------
    float64 [rows, blocks, last]
        In bytes from host memory. A level that a side does not have costs as much as its last.
    """
    cache = group.view.cache
    price = 1.0 if cache.planes.place == "host" else DEVICE_COST
    sizes = [float(size) for size in cache.plane_bytes(side)]
    sizes += [0.0] * (last - 1 - len(sizes))
    total = np.concatenate([[0.0], np.cumsum(sizes)])
    read = np.minimum(levels.planes(side), last - 1)
    planes = price * np.maximum(total[1:] - total[read][..., None], 0.0)
    return np.concatenate([planes, np.full((*read.shape, 1), float(group.block_bytes))], axis=-1)


def _left(
    group: Group,
    levels: Levels,
    rows: IntArray,
    seen: Attended,
    done: Certified,
    limit: FloatArray,
    side: Side,
    level: int,
) -> FloatArray:
    """Return what every block would still add if one side of it were at a level, float64 [rows, blocks]."""
    tokens = group.view.tokens
    if side == "values":
        notes = group.finer_value_notes[level - 1]
        share = arithmetic.mass_ub(seen.share, tokens)
        residuals, operator = notes.token_residuals_ub(), notes.residual_operator_ub.astype(np.float64)
        return spectral.value_terms(share, residuals, operator)
    there = Levels(levels.keys, levels.values, np.full_like(levels.key_planes, level), levels.value_planes)
    errors = ScoreKnowledge(*score_errors(group, there, rows))
    terms = spectral_terms(group, there, seen, done.output, errors, np.zeros(levels.keys.shape))
    restored = limit[:, None] * np.maximum(seen.mass[:, :-1] - terms.weight, 0.0)
    return np.asarray(terms.key + restored)
