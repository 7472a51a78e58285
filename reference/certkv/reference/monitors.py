"""The checks that watch the quantized scores (arXiv 2605.20868, Section 6). A NaN fails every one of them."""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers.types import BoolArray, FloatArray


def top(log_mass: FloatArray, chosen: BoolArray, rank: int) -> BoolArray:
    """Mark the ``rank`` chosen blocks of largest log-mass; the lower index wins a tie.

    Parameters
    ----------
    log_mass : float64 [heads, blocks]
    chosen : bool [heads, blocks]
    rank : int

    Returns
    -------
    bool [heads, blocks]
    """
    key = np.where(chosen, -log_mass, np.inf)
    order = np.argsort(key, axis=-1, kind="stable")
    marks = np.zeros_like(chosen)
    np.put_along_axis(marks, order[:, :rank], True, axis=-1)
    return marks & chosen


def ranking_holds(exact: FloatArray, coded: FloatArray, chosen: BoolArray, rank: int) -> BoolArray:
    """Among the chosen blocks, the top ``rank`` by exact log-mass are the top ``rank`` by coded log-mass.

    Parameters
    ----------
    exact, coded : float64 [heads, blocks]
        Log-masses; ``exact`` is read only where ``chosen``.
    chosen : bool [heads, blocks]
    rank : int

    Returns
    -------
    bool [heads]
    """
    finite = np.where(chosen, np.isfinite(exact) & np.isfinite(coded), True).all(axis=-1)
    same = (top(exact, chosen, rank) == top(coded, chosen, rank)).all(axis=-1)
    return np.asarray(finite & same)


def boundary_holds(
    exact: FloatArray, coded: FloatArray, delta_ub: FloatArray, chosen: BoolArray, rank: int
) -> BoolArray:
    """No block outside the choice can belong to the top ``rank``: ``l_b + Delta <= l_(r)`` for each of them.

    Parameters
    ----------
    exact, coded : float64 [heads, blocks]
        Log-masses; ``exact`` is read only where ``chosen``.
    delta_ub : float64 [heads, blocks]
        Upper bounds of the score error of each block.
    chosen : bool [heads, blocks]
    rank : int

    Returns
    -------
    bool [heads]
        False also where fewer than ``rank`` blocks are chosen while others are left out.
    """
    if chosen.shape[-1] == 0:
        return np.ones(chosen.shape[0], np.bool_)
    ranked = -np.sort(-np.where(chosen, exact, -np.inf), axis=-1)
    weakest = ranked[:, min(rank, ranked.shape[-1]) - 1][:, None]
    delta = np.max(delta_ub, axis=-1, keepdims=True)
    return np.asarray(np.where(chosen, True, coded + delta <= weakest).all(axis=-1))


def scores_consistent(
    exact: FloatArray, coded: FloatArray, delta_ub: FloatArray, scored: BoolArray, guard: float
) -> BoolArray:
    """Every exactly scored token is within its block's bound: ``|s_exact - s_coded| <= Delta_b + guard``.

    Parameters
    ----------
    exact, coded : float64 [heads, blocks, block]
        Scores; ``exact`` is read only where ``scored``.
    delta_ub : float64 [heads, blocks]
    scored : bool [heads, blocks]
        The blocks that were scored both ways; every one of them is compared.
    guard : float

    Returns
    -------
    bool [heads]
    """
    within = (np.abs(exact - coded) <= delta_ub[..., None] + guard).all(axis=-1)
    return np.asarray(np.where(scored, within, True).all(axis=-1))
