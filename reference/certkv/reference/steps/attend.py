"""Attend: one pass over the cache at given levels, yielding output and block masses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.arithmetic import UNDERFLOW
from certkv.reference.numbers.types import FloatArray, IntArray
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import Levels, any_row
from certkv.reference.steps.used import coded_scores, finer_values


@dataclass(frozen=True, eq=False)
class Attended:
    """What one pass saw, for the rows (heads of the group) it was asked for. The last block is the tail.

    Attributes
    ----------
    output : float64 [rows, head_dim]
    lse : float64 [rows]
        Natural logarithm of ``sum exp(score)``.
    share : float64 [rows, blocks, block]
        Executed share of every token of the coded blocks.
    mass : float64 [rows, blocks + 1]
        *Executed* masses: shares of the weights that multiplied the values.
    spread : float64 [rows, blocks + 1]
        Largest ``|s - m|`` in the block among exponents of at least ``UNDERFLOW``.
    """

    output: FloatArray
    lse: FloatArray
    share: FloatArray
    mass: FloatArray
    spread: FloatArray


def block_sums(per_token: FloatArray, tail: FloatArray) -> FloatArray:
    """Sum over the tokens of each block; the tail is appended as one more block."""
    return np.concatenate([per_token.sum(axis=-1), tail.sum(axis=-1, keepdims=True)], axis=-1)


def attend(group: Group, levels: Levels, rows: IntArray) -> Attended:
    """Softmax attention over the blocks at their levels and the tail.

    Parameters
    ----------
    group : Group
    levels : Levels
        Arrays [rows, blocks], one row for each entry of ``rows``.
    rows : int64 [rows]
        Heads of the group.

    Returns
    -------
    Attended

    Raises
    ------
    HostMissingError
        An original or a refinement plane that ``levels`` asks for is missing.
    """
    exact = group.exact_scores(any_row(levels.keys))
    scores = np.where(levels.keys[..., None], exact[rows], coded_scores(group, levels, rows))
    tail_scores = group.tail_scores[rows]
    m = np.maximum(scores.max(axis=(-2, -1), initial=-np.inf), tail_scores.max(axis=-1, initial=-np.inf))
    x, x_tail = scores - m[:, None, None], tail_scores - m[:, None]
    # exponents below UNDERFLOW are charged absolutely; flushing them to weight 0 keeps subnormals out
    p, p_tail = (np.where(e < UNDERFLOW, 0.0, np.exp(np.maximum(e, UNDERFLOW))) for e in (x, x_tail))
    sums = block_sums(p, p_tail)
    denominator = sums.sum(axis=-1)

    base_share = np.where(levels.at("values", 0)[..., None], p, 0.0)
    numerator = _weighted(base_share, group.coded_values) + p_tail @ group.tail_values
    for there, values in finer_values(group, levels):
        wanted = any_row(there)
        numerator = numerator + _weighted(np.where(there[..., None], p, 0.0)[:, wanted], values[wanted])
    wanted = any_row(levels.values)
    if wanted.any():
        originals = group.originals("values", wanted)[wanted]
        numerator = numerator + _weighted(np.where(levels.values[..., None], p, 0.0)[:, wanted], originals)

    spread = np.concatenate([_spread(x), _spread(x_tail)[:, None]], axis=-1)
    return Attended(
        output=numerator / denominator[:, None],
        lse=m + np.log(denominator),
        share=p / denominator[:, None, None],
        mass=sums / denominator[:, None],
        spread=spread,
    )


def _weighted(weights: FloatArray, values: FloatArray) -> FloatArray:
    """``sum_t w_t v_t``: [rows, n, block] x [n, block, d] -> [rows, d]."""
    return np.asarray(weights.reshape(len(weights), -1) @ values.reshape(-1, values.shape[-1]))


def _spread(exponents: FloatArray) -> FloatArray:
    """Largest magnitude of the exponents that are not charged absolutely; 0 for none."""
    magnitude = np.where(exponents < UNDERFLOW, 0.0, np.abs(exponents))
    return np.asarray(magnitude.max(axis=-1, initial=0.0))
