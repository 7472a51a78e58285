"""Certify: from block statistics and annotations to a bound of every head's error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from certkv.reference.bounds import arithmetic, block_bound
from certkv.reference.bounds.hull import hull
from certkv.reference.bounds.quotient import BlockBound, quotient
from certkv.reference.bounds.sharp import sharp
from certkv.reference.bounds.spectral import ScoreKnowledge
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray
from certkv.reference.steps import coded_terms
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.distances import DIFFERENCE, radii, used_norms
from certkv.reference.steps.group import Group, Levels
from certkv.reference.steps.used import score_errors

COUPLED_FROM = 0.3
"""Score error from which numerator and denominator are bounded together (theorem ``sharp``). A matter of cost only: any
number is sound, and with 8-bit keys the gain below it was nothing measurable for many evaluations."""

IN_A_TERM = 6
"""Roundings that a term may still have met, as `quotient` assumes too; `sharp` takes bounds."""


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
    heavy, light = arithmetic.mass_ub(seen.mass, tokens), arithmetic.mass_lb(seen.mass, tokens)
    keys_used, values_used = used_norms(group, levels)
    rounding = arithmetic.log_weight_error_ub(
        group.scale, norm_ub(group.q[rows])[:, None], keys_used, seen.spread, group.q.shape[-1] + group.key_roundings
    )
    mean_norm = (heavy * values_used).sum(axis=-1) * outward(values_used.shape[-1] + 2)
    accumulation = arithmetic.accumulation_ub(tokens + group.value_roundings, mean_norm, values_used.max(axis=-1))
    radius = radii(group, output)
    # the tail, and whatever is known of a block as a whole: Theorem block_bound
    key_delta, key_operator = score_errors(group, levels, rows)
    pure = np.concatenate([key_delta, np.zeros((len(rows), 1))], axis=-1)
    delta = (pure + rounding) * outward(1)
    terms = coded_terms.CodedTerms(
        key=block_bound.key_terms(heavy, delta, radius),
        pure_key=block_bound.key_terms(heavy, pure, radius),
        value=np.zeros(heavy.shape),
        weight=block_bound.weight_lb(light, delta),
    )
    if group.view.blocks:
        errors = ScoreKnowledge(key_delta, key_operator)
        terms = terms.sharpened(coded_terms.spectral_terms(group, levels, seen, output, errors, rounding[:, :-1]))
    assemble = partial(
        quotient,
        key_terms=terms.key,
        pure_key_terms=terms.pure_key,
        value_terms=terms.value,
        weight_lb=terms.weight,
        accumulation_ub=accumulation + cast,
        hull_ub=hull(radius),
    )
    bound = assemble()
    far = (delta > COUPLED_FROM).any(axis=-1)
    if far.any():
        coupled = np.full(len(rows), np.inf)
        coupled[far] = sharp(
            mass_ub=heavy[far],
            mass_lb=light[far],
            delta_ub=delta[far],
            radius_ub=radius[far],
            value_and_accumulation_ub=(terms.value.sum(axis=-1) * outward(heavy.shape[-1]) + accumulation + cast)[far]
            * outward(2),
            start_ub=bound.bound[far],
            cap_ub=terms.key[far] * outward(IN_A_TERM),
            credit_lb=terms.weight[far] / outward(IN_A_TERM),
        )
        bound = assemble(sharper_ub=coupled)
    return Certified(output, bound)
