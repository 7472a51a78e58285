"""Certify: from block statistics and annotations to a bound of every head's error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
from certkv.reference.bounds import arithmetic, hull
from certkv.reference.bounds.block_bound import BlockBound, block_bound
from certkv.reference.numbers import U, norm_ub, outward
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray, IntArray
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.group import Group, Levels

DIFFERENCE = 1.0 + 4.0 * U
"""Covers the rounded differences in a computed ``||x - y||``: each ``|x - y| <= (1 + u) |fl(x - y)|``."""


@dataclass(frozen=True, eq=False)
class Certified:
    """A pass with its certificate.

    Attributes
    ----------
    output : float64 [rows, head_dim]
        The reported output, already rounded to the requested type.
    bound : BlockBound
    """

    output: FloatArray
    bound: BlockBound


def largest_norm(tokens: FloatArray) -> float:
    """Upper bound of the largest norm among tokens [n, d]; 0 for none."""
    return float(norm_ub(tokens).max(initial=0.0))


def used_norms(levels: BoolArray, notes: KeyAnnotations | ValueAnnotations | None, tail: FloatArray) -> FloatArray:
    """Largest norm of one side's vectors as used: originals where promoted, decoded elsewhere, the tail's measured.

    Parameters
    ----------
    levels : bool [rows, blocks]
        True where the block is original.
    notes : KeyAnnotations or ValueAnnotations, arrays [blocks]; None for no block
    tail : float64 [tail, head_dim]

    Returns
    -------
    float64 [rows, blocks + 1]
    """
    measured = np.full((len(levels), 1), largest_norm(tail))
    if notes is None:
        return measured
    used = np.where(levels, notes.norm_ub.astype(np.float64), notes.decoded_norm_ub.astype(np.float64))
    return np.concatenate([used, measured], axis=-1)


def radii(group: Group, output: FloatArray) -> FloatArray:
    """``R_b >= max_t ||V_t - c||``: the smaller of ``nu_b + ||c||`` and ``max_t ||V_t - mu|| + ||c - mu||``.

    Returns
    -------
    float64 [rows, blocks + 1]
        0 for an empty tail.
    """
    notes, anchor = group.value_notes, group.view.anchor()
    if len(group.tail_values):
        # the tail is at hand, so its distance from the output is measured
        distance = norm_ub(group.tail_values[None] - output[:, None]) * DIFFERENCE
        tail = distance.max(axis=-1)[:, None]
    else:
        tail = np.zeros((len(output), 1))
    if notes is None or anchor is None:
        return np.asarray(tail)
    plain = hull.plain_radius(notes.norm_ub.astype(np.float64), norm_ub(output))
    anchored = hull.anchored_radius(notes.anchored_norm_ub.astype(np.float64), norm_ub(output - anchor) * DIFFERENCE)
    return np.concatenate([np.minimum(plain, anchored), tail], axis=-1)


def value_errors(group: Group, levels: Levels) -> FloatArray:
    """``eta_b`` where values are coded, 0 where they are original; float64 [rows, blocks + 1]. Units of V."""
    zero = np.zeros((len(levels.values), 1))
    notes = group.value_notes
    if notes is None:
        return zero
    coded = np.where(levels.values, 0.0, notes.residual_norm_ub.astype(np.float64))
    return np.concatenate([coded, zero], axis=-1)


def key_deltas(group: Group, levels: Levels, rows: IntArray) -> FloatArray:
    """Score error of coded keys, 0 for original ones; float64 [rows, blocks + 1]."""
    coded = np.where(levels.keys, 0.0, group.delta_ub[rows])
    return np.concatenate([coded, np.zeros((len(rows), 1))], axis=-1)


def round_output(output: FloatArray, dtype: np.dtype[np.generic]) -> tuple[FloatArray, FloatArray]:
    """Round to the requested type; return the rounded output as float64 and an upper bound of the distance, [rows]."""
    if dtype == np.float64:
        return output, np.zeros(len(output))
    with np.errstate(over="ignore"):  # an overflow becomes inf, and the bound with it
        rounded: AnyArray = output.astype(dtype)
    exact = rounded.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = norm_ub(exact - output) * DIFFERENCE
    return exact, np.where(np.isnan(distance), np.inf, distance)


def certify(group: Group, levels: Levels, rows: IntArray, seen: Attended, out_dtype: np.dtype[np.generic]) -> Certified:
    """Bound the distance of ``seen.output``, rounded to ``out_dtype``, from the exact attention of the originals.

    Parameters
    ----------
    group : Group
    levels : Levels
        Levels of the pass, one row for each entry of ``rows``.
    rows : int64 [rows]
    seen : Attended
    out_dtype : numpy dtype

    Returns
    -------
    Certified
    """
    tokens = group.view.tokens
    output, cast = round_output(seen.output, out_dtype)
    heavy = arithmetic.mass_ub(seen.mass, tokens)
    used = used_norms(levels.values, group.value_notes, group.tail_values)
    rounding = arithmetic.log_weight_error_ub(
        group.scale,
        norm_ub(group.q[rows])[:, None],
        used_norms(levels.keys, group.key_notes, group.tail_keys),
        seen.spread,
        group.q.shape[-1],
    )
    accumulation = arithmetic.accumulation_ub(
        tokens, (heavy * used).sum(axis=-1) * outward(used.shape[-1] + 2), used.max(axis=-1)
    )
    bound = block_bound(
        mass_ub=heavy,
        mass_lb=arithmetic.mass_lb(seen.mass, tokens),
        key_delta_ub=key_deltas(group, levels, rows),
        rounding_delta_ub=rounding,
        radius_ub=radii(group, output),
        value_error_ub=value_errors(group, levels),
        accumulation_ub=accumulation + cast,
    )
    return Certified(output, bound)
