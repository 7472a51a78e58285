"""Which blocks are scored exactly: the fewest that reach the coverage (arXiv 2605.20868, Section 4, step 2; rung 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen blocks of each head.

    Attributes
    ----------
    chosen : bool [heads, blocks]
    expanded : bool [heads]
        True where rung 1 enlarged the choice.
    tail_mass : float64 [heads]
        Estimated mass outside the choice.
    """

    chosen: BoolArray
    expanded: BoolArray
    tail_mass: FloatArray


def first_reaching(mass: FloatArray, already: FloatArray, coverage: float) -> IntArray:
    """Smallest k such that ``already`` plus the k largest masses reach ``coverage``; all blocks if none does.

    Parameters
    ----------
    mass : float64 [heads, blocks]
        Block masses, sorted descending.
    already : float64 [heads]
        Mass that is exact without being chosen (the tail block).
    coverage : float

    Returns
    -------
    int64 [heads]
    """
    cumulative = already[:, None] + np.cumsum(mass, axis=-1)
    reached = cumulative >= coverage
    none = ~reached.any(axis=-1)
    return np.where(none, mass.shape[-1], np.where(already >= coverage, 0, reached.argmax(axis=-1) + 1))


def select(
    mass: FloatArray,
    already: FloatArray,
    *,
    coverage: float,
    k_min: int,
    k_max: int,
    tail_threshold: float,
    expansion: float,
) -> Selection:
    """Choose ``K* = clamp(first k reaching coverage, k_min, k_max)`` blocks; enlarge once where the rest is too heavy.

    Parameters
    ----------
    mass : float64 [heads, blocks]
        Estimated masses of the coded blocks, as shares of the whole (the tail block included in the whole).
    already : float64 [heads]
        Mass of the tail block, which is always exact.
    coverage, k_min, k_max, tail_threshold, expansion
        As in :class:`certkv.reference.policies.PaperPolicy`.

    Returns
    -------
    Selection
        Ties go to the lower block index. The enlarged choice may pass ``k_max``: the union formula of the paper
        counts ``expansion * k_max`` blocks.
    """
    heads, blocks = mass.shape
    if blocks == 0:
        return Selection(np.zeros((heads, 0), np.bool_), np.zeros(heads, np.bool_), np.zeros(heads))
    order = np.argsort(-mass, axis=-1, kind="stable")
    ranked = np.take_along_axis(mass, order, axis=-1)
    count = np.clip(first_reaching(ranked, already, coverage), k_min, k_max)
    tail = _beyond(ranked, count)
    # "not <=" so that a NaN mass enlarges the choice instead of passing as a light tail
    expanded = ~(tail <= tail_threshold)
    count = np.where(expanded, np.minimum(np.ceil(expansion * count), blocks).astype(np.int64), count)
    chosen = np.zeros((heads, blocks), np.bool_)
    np.put_along_axis(chosen, order, np.arange(blocks) < count[:, None], axis=-1)
    return Selection(chosen, expanded, _beyond(ranked, count))


def _beyond(ranked: FloatArray, count: IntArray) -> FloatArray:
    """Sum of the masses after the first ``count``."""
    outside = np.arange(ranked.shape[-1]) >= count[:, None]
    return np.asarray(np.sum(ranked, axis=-1, where=outside))
