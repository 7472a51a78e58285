"""Scores, values, errors and norms of coded blocks at the levels at which each head uses them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certkv.reference.cache import Side
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray, IntArray
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import Levels, any_row


def coded_scores(group: Group, levels: Levels, rows: IntArray) -> FloatArray:
    """Return the scores of coded blocks, float64 [rows, blocks, block]; those of original ones mean nothing.

    Raises
    ------
    HostMissingError
        A refinement plane is missing.
    """
    scores = group.coded_scores[rows]
    for level in levels.finer("keys"):
        there = levels.at("keys", level)
        if there.any():
            scores = np.where(there[..., None], group.finer.scores(level, any_row(there))[rows], scores)
    return scores


def finer_values(group: Group, levels: Levels) -> list[tuple[BoolArray, FloatArray]]:
    """Return for each refined level in use where it is, bool [rows, blocks], and its values, as `Finer.values` does.

    Raises
    ------
    HostMissingError
        A refinement plane is missing.
    """
    marks = [(level, levels.at("values", level)) for level in levels.finer("values")]
    return [(there, group.finer.values(level, any_row(there))) for level, there in marks if there.any()]


def score_errors(group: Group, levels: Levels, rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return Delta_b and Omega_b of the keys as used, float64 [rows, blocks]; 0 where they are original."""
    of_rows = [[x[rows] for x in (delta, operator)] for delta, operator in group.finer_errors]
    delta = _by_level(levels, "keys", [group.delta_ub[rows], *(errors[0] for errors in of_rows)])
    operator = _by_level(levels, "keys", [group.operator_ub[rows], *(errors[1] for errors in of_rows)])
    return np.where(levels.keys, 0.0, delta), np.where(levels.keys, 0.0, operator)


def token_residuals(group: Group, levels: Levels) -> FloatArray:
    """Return eta_t of the coded values as used, float64 [blocks, block], with an axis of rows where levels differ."""
    notes = (group.coded_value_notes, *group.finer_value_notes)
    return _by_level(levels, "values", [n.token_residuals_ub() for n in notes], tokens=True)


def residual_operators(group: Group, levels: Levels) -> FloatArray:
    """Return epsilon_b of the coded values as used, float64 [blocks], with an axis of rows where levels differ."""
    notes = (group.coded_value_notes, *group.finer_value_notes)
    return _by_level(levels, "values", [n.residual_operator_ub.astype(np.float64) for n in notes])


def decoded_norms(levels: Levels, side: Side, stored: Sequence[AnyArray]) -> FloatArray:
    """Return the largest norm of each coded block as used, from one annotation per level; shape as above."""
    return _by_level(levels, side, [norms.astype(np.float64) for norms in stored])


def _by_level(levels: Levels, side: Side, per_level: Sequence[FloatArray], tokens: bool = False) -> FloatArray:
    """Take each block's numbers from its level; ``per_level[0]`` as it is where no planes were read.

    Parameters
    ----------
    per_level : sequence of float64 [blocks] or [rows, blocks]; [blocks, block] with ``tokens``
        One for each coded level.

    Returns
    -------
    float64 [rows, blocks] or [rows, blocks, block]
        Those of original blocks mean nothing.
    """
    used = per_level[0]
    for level in levels.finer(side):
        there = levels.at(side, level)
        used = np.where(there[..., None] if tokens else there, per_level[level], used)
    return used
