"""Greedy choice: the fewest items whose removal lowers a sum of non-negative terms far enough.

Exchange argument: replacing any chosen item by a larger one that was left out never lowers what is removed, so the
largest items are a smallest set. It serves the refinement of a budget, and the paper's stricter value policy.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers.types import BoolArray, FloatArray


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
    order = np.argsort(-worth, axis=-1, kind="stable")
    ranked = np.take_along_axis(worth, order, axis=-1)
    before = np.concatenate([np.zeros((len(gain), 1)), np.cumsum(ranked, axis=-1)[:, :-1]], axis=-1)
    marks = np.zeros(gain.shape, np.bool_)
    wanted = need[:, None]
    # infinite terms must all come off, though the first of them already sums to an infinite need
    np.put_along_axis(marks, order, ~(before >= wanted) | (np.isinf(ranked) & ~(wanted <= 0)), axis=-1)
    return marks
