"""Norms of what a pass used, and distances of values from its output."""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds import hull
from certkv.reference.numbers import U, gamma, norm_ub, outward
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import Levels, any_row
from certkv.reference.steps.used import decoded_norms, finer_values, token_residuals

SUBNORMAL_PRODUCTS = 2.0**-500
"""Above ``sqrt(n 2**-1074)``, n the number of products in a distance."""

DIFFERENCE = 1.0 + 4.0 * U
"""Covers the rounded differences in a computed ``||x - y||``: each ``|x - y| <= (1 + u) |fl(x - y)|``."""


def largest_norm(tokens: FloatArray) -> float:
    """Upper bound of the largest norm among tokens [n, d]; 0 for none."""
    return float(norm_ub(tokens).max(initial=0.0))


def used_norms(group: Group, levels: Levels) -> tuple[FloatArray, FloatArray]:
    """Largest norms of keys and of values as used: originals where promoted, decoded elsewhere, the tail's measured.

    Parameters
    ----------
    group : Group
    levels : Levels
        Arrays [rows, blocks].

    Returns
    -------
    keys, values : float64 [rows, blocks + 1]
    """
    key_notes, value_notes = group.key_notes, group.value_notes
    if key_notes is None or value_notes is None:
        none = np.empty((len(levels.keys), 0))
        return _with_tail(none, group.tail_keys), _with_tail(none, group.tail_values)
    decoded = decoded_norms(levels, "keys", [n.decoded_norm_ub for n in (key_notes, *group.finer_key_notes)])
    keys = np.where(levels.keys, group.key_norm_ub, decoded)
    decoded = decoded_norms(levels, "values", [n.decoded_norm_ub for n in (value_notes, *group.finer_value_notes)])
    values = np.where(levels.values, value_notes.norm_ub.astype(np.float64), decoded)
    return _with_tail(keys, group.tail_keys), _with_tail(values, group.tail_values)


def _with_tail(used: FloatArray, tail: FloatArray) -> FloatArray:
    return np.concatenate([used, np.full((len(used), 1), largest_norm(tail))], axis=-1)


def radii(group: Group, output: FloatArray) -> FloatArray:
    """``R_b >= max_t ||V_t - c||``: the smaller of ``nu_b + ||c||`` and ``max_t ||V_t - mu|| + ||c - mu||``.

    Returns
    -------
    float64 [rows, blocks + 1]
        0 for an empty tail.
    """
    notes = group.value_notes
    if len(group.tail_values):
        # the tail is at hand, so its distance from the output is measured
        distance = norm_ub(group.tail_values[None] - output[:, None]) * DIFFERENCE
        tail = distance.max(axis=-1)[:, None]
    else:
        tail = np.zeros((len(output), 1))
    if notes is None:
        return np.asarray(tail)
    plain = hull.plain_radius(notes.norm_ub.astype(np.float64), norm_ub(output))
    anchored = hull.anchored_radius(notes.anchored_norm_ub.astype(np.float64), from_anchor(group, output))
    return np.concatenate([np.minimum(plain, anchored), tail], axis=-1)


def from_anchor(group: Group, output: FloatArray) -> FloatArray:
    """Upper bound of ``gamma = ||c - mu||``, float64 [rows]; infinite before there is an anchor."""
    anchor = group.view.anchor()
    return np.full(len(output), np.inf) if anchor is None else norm_ub(output - anchor) * DIFFERENCE


def token_radii(group: Group, values: BoolArray, output: FloatArray) -> FloatArray:
    """Upper bounds of ``||V_t - c||`` for every token of the coded blocks, from values as used and their residuals.

    Parameters
    ----------
    group : Group
        With at least one block.
    values : bool [rows, blocks]
        Where values are original.
    output : float64 [rows, head_dim]

    Returns
    -------
    float64 [rows, blocks, block]
    """
    radii = _from_output(group.coded_values, output) + group.coded_value_notes.token_residuals_ub()
    wanted = any_row(values)
    if wanted.any():
        originals = group.originals("values", wanted)[wanted]
        chosen = np.where(values[:, wanted, None], _from_output(originals, output), radii[:, wanted])
        radii[:, wanted] = chosen
    return np.asarray(radii * outward(2))


def _from_output(used: FloatArray, output: FloatArray) -> FloatArray:
    """Upper bounds of distances, [n, block, head_dim] and [rows, head_dim] -> [rows, n, block].

    ``||v||^2 - 2 v.c + ||c||^2`` is off by at most ``gamma_{d+3} (||v|| + ||c||)^2``, however its sums are taken; that
    share is more than the roundings of a decoded value move a distance: at most ``r + 1 <= log2 d + 3`` of them, where
    ``3 (d + 4) >= 2 (r + 1)`` is what is asked for.
    """
    flat = used.reshape(-1, used.shape[-1])
    v, c = norm_ub(flat), norm_ub(output)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):  # an output beyond its type is infinite, and so is the distance
        squared = (flat * flat).sum(axis=-1) - 2.0 * (output @ flat.T) + (output * output).sum(axis=-1)[:, None]
        squared = np.where(np.isnan(squared), np.inf, squared)
        lost = 4.0 * gamma(flat.shape[-1] + 4) * (v + c) ** 2
    # the last term is more than products can lose by being subnormal
    distance = np.sqrt(np.maximum(squared, 0.0) + lost) * outward(2) + SUBNORMAL_PRODUCTS
    return np.asarray(distance.reshape(len(output), *used.shape[:-1]))


def token_radius(group: Group, values: BoolArray, token: IntArray, output: FloatArray) -> FloatArray:
    """Upper bound of ``||V_h - c||`` for one token h of every block, from its value as used and its residual.

    Measured on the difference itself, so it is sharp also where `token_radii` cancels: an output that *is* one value.

    Parameters
    ----------
    group : Group
        With at least one block.
    values : bool [rows, blocks]
        Where values are original.
    token : int64 [rows, blocks]
    output : float64 [rows, head_dim]

    Returns
    -------
    float64 [rows, blocks]
    """
    blocks = np.arange(token.shape[-1])
    used = group.coded_values[blocks, token]
    residual = np.where(values, 0.0, group.coded_value_notes.token_residuals_ub()[blocks, token])
    if values.any():
        originals = group.originals("values", any_row(values))
        used = np.where(values[..., None], originals[blocks, token], used)
    # the decoded float64 value is one rounding from the exact meaning, which DIFFERENCE covers only in part; the r that
    # a rotation adds, counted twice, are more than gamma_{r+1} of the meaning
    decoding = np.where(values, 0.0, (1 + 2 * group.value_roundings) * U * norm_ub(used))
    return np.asarray((norm_ub(used - output[:, None]) * DIFFERENCE + residual + decoding) * outward(2))


def finer_radii(group: Group, levels: Levels, token: IntArray, output: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds as `token_radius` and `token_radii` give, from values at refined levels; infinite at other blocks.

    Parameters
    ----------
    group : Group
        With at least one block.
    levels : Levels
        Arrays [rows, blocks].
    token : int64 [rows, blocks]
    output : float64 [rows, head_dim]

    Returns
    -------
    one : float64 [rows, blocks]
    every : float64 [rows, blocks, block]
    """
    one = np.full(token.shape, np.inf)
    every = np.full((*token.shape, group.coded_values.shape[1]), np.inf)
    eta = token_residuals(group, levels)
    for there, values in finer_values(group, levels):
        wanted = any_row(there)
        distance = (_from_output(values[wanted], output) + eta[:, wanted]) * outward(2)
        every[:, wanted] = np.where(there[:, wanted, None], distance, every[:, wanted])
        row, block = np.nonzero(there)
        heaviest = token[row, block]
        used = values[block, heaviest]
        decoding = (1 + 2 * group.value_roundings) * U * norm_ub(used)
        apart = norm_ub(used - output[row]) * DIFFERENCE + eta[row, block, heaviest] + decoding
        one[row, block] = apart * outward(2)
    return one, every
