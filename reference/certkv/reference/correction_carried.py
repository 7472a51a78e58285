"""Errors of a state that is corrected again and again, carried along as they arise (identity ``correction``).

Statement. Let a first pass leave ``|l - sum w| <= e_l`` and ``||o - sum w V|| <= e_o``. A round takes weights out that
it reads as a and puts b in; the weights inside the state are within ``r a`` of a. With at most n roundings on a path
from a or b to the state, ``g = gamma_n``, and norms of values at most N before and N' after,

    e_l  +=  (g + r) ( sum a + sum b )  over blocks whose keys change
    e_o  +=  (g + r) ( N sum a + N' sum b )
    ||o/l - O/L||  <=  ( e_o + ||o/l|| e_l ) / ( l - e_l )

once what the first pass summed has been charged one rounding more per round. No ratio of old and new weights enters:
blocks may change by any factor, and several times. Given up is a state whose own denominator is no longer known to
`LEFT` (`must_recompute`). Weights that are rounded to 16 bits stay in range because their reference rises with them
(`risen`).

Source: ours; what `certkv.fast.refine` does. Derivation: docs/derivations/correction.md, "Carried along".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.numbers import outward
from certkv.reference.numbers.types import BoolArray, FloatArray

LEFT = 2.0**-10
"""What a denominator may be off by, relative to itself."""

KEPT = 2.0**-4
"""Share of the first denominator that is left in a state that is kept: so much of it is carried at least."""

BIAS = 14.0
"""Bits by which the largest weight of a block is above 1."""


@dataclass(frozen=True, eq=False)
class Carried:
    """What sums of a state may be off by, upper bounds; float64 [...].

    Attributes
    ----------
    weight : float64 [...]
        Of the denominator.
    value : float64 [...]
        Of the unnormalised output, in norm.
    """

    weight: FloatArray
    value: FloatArray


def first(l_first: FloatArray, sizes_ub: FloatArray, weight_rate: float, value_rate: float, joins_ub: float) -> Carried:
    """Return what a first pass leaves.

    Parameters
    ----------
    l_first : float64 [...]
        Its denominator, as computed.
    sizes_ub : float64 [...]
        ``sum w size`` over all tokens, in the units of V.
    weight_rate, value_rate : float
        ``|l - sum w| <= weight_rate l`` and ``||o - sum w V|| <= value_rate sum w size``.
    joins_ub : float
        Rounding of all joins to come, relative.
    """
    rate = np.maximum(weight_rate + joins_ub, LEFT * KEPT)
    return Carried(rate * l_first * outward(3), (value_rate + joins_ub) * sizes_ub * outward(3))


def carry(before: Carried, out: FloatArray, into: FloatArray, rate: float, weights_change: bool = True) -> Carried:
    """Return what is left after a block more was corrected.

    Parameters
    ----------
    before : Carried
    out, into : float64 [..., 2]
        ``sum a`` and ``N sum a``; ``sum b`` and ``N' sum b``; upper bounds.
    rate : float
        ``g + r``.
    weights_change : bool
        False where values alone are promoted: then nothing happens to the denominator.
    """
    moved = (out + into) * (rate * outward(4))
    weight = before.weight + (moved[..., 0] if weights_change else 0.0)
    return Carried(weight * outward(1), (before.value + moved[..., 1]) * outward(1))


def output_ub(carried: Carried, l_new: FloatArray, output_norm_ub: FloatArray) -> FloatArray:
    """Bound ``||o/l - O/L||`` but for the division; ``+inf`` where the state is given up.

    Parameters
    ----------
    carried : Carried
    l_new : float64 [...]
    output_norm_ub : float64 [...]
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        bound = (carried.value + output_norm_ub * carried.weight) / (l_new * (1.0 - LEFT)) * outward(6)
    return np.asarray(np.where(must_recompute(carried, l_new), np.inf, bound))


def must_recompute(carried: Carried, l_new: FloatArray) -> BoolArray:
    """Whether a corrected state must be thrown away, and its head be attended to again.

    Returns
    -------
    bool [...]
        True where ``weight > 2^-10 l_new``, where either is NaN, and where ``l_new`` is infinite.
    """
    return np.asarray(~((carried.weight <= LEFT * l_new) & (l_new < np.inf)))


def risen(reference: FloatArray, bits: FloatArray) -> FloatArray:
    """Return the reference of a block's new weights ``2^(bits - reference)``: none of them is above ``2^BIAS``.

    Parameters
    ----------
    reference : float64 [...]
        Of the old ones; never lowered.
    bits : float64 [..., B]
        Exact scores, in bits.
    """
    return np.asarray(np.maximum(reference, bits.max(axis=-1) - BIAS))
