"""Rounding of a corrected softmax state (identity ``correction``): relative to what was there, not to what is left.

Statement. Let l and o be summed in floating point from weights p' with at most K roundings on a path, and corrected for
n tokens with p'' in place of p', where ``|p' - p''| <= r min(p', p'')``. With ``g = gamma_{K+n+3}`` and exact L, O of
the corrected weights and values,

    |l_new - L|    <=  e_l  =  g ( sum p' + sum |p - p''| )  +  r sum p''
    ||o_new - O||  <=  e_o  =  g ( sum p' ||V_hat|| + sum |p - p''| ||V_hat|| + sum p ||V - V_hat|| )
                                                             +  r sum p'' ||V_hat||
    ||o_new/l_new - O/L||  <=  ( e_o + ||o_new/l_new|| e_l ) / ( l_new - e_l )

(`rounding_ub`). Where ``l_new >= l_old / 4`` and g, r <= 1/32, ``e_l <= (10 g + 5 r) l_new`` and the output is right to
``21 g + 10 r`` of the largest value and residual (`kept_rounding_ub`). Where less is kept there is no such limit.

Source: ours. Derivation: docs/derivations/correction.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from certkv.reference.errors import InputError
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray

LARGEST_RATE = 1.0 / 32.0
"""Largest g and r for which the constants of `kept_rounding_ub` are proved."""


@dataclass(frozen=True, eq=False)
class Moved:
    """What a correction moves: sums over the promoted tokens, upper bounds; float64 [...].

    Attributes
    ----------
    weight : float64 [...]
        ``sum |p - p''|``.
    value : float64 [...]
        ``sum |p - p''| ||V_hat|| + sum p ||V - V_hat||``, in the units of V.
    weight_again : float64 [...]
        ``sum p''``: the old weights as the correcting kernel has them.
    value_again : float64 [...]
        ``sum p'' ||V_hat||``, in the units of V.
    """

    weight: FloatArray
    value: FloatArray
    weight_again: FloatArray
    value_again: FloatArray


@dataclass(frozen=True, eq=False)
class Rounding:
    """Errors of a corrected state, upper bounds; float64 [...].

    Attributes
    ----------
    weight : float64 [...]
        Of the denominator, absolute.
    output : float64 [...]
        Of ``fl(o_new / l_new)``, in norm, in the units of V: an ``eps_acc``.
    """

    weight: FloatArray
    output: FloatArray


def rounding_ub(
    *,
    dtype: np.dtype[np.floating[Any]],
    carried: int,
    tokens: int,
    l_old: FloatArray,
    l_new: FloatArray,
    value_old_ub: FloatArray,
    moved: Moved,
    again_ub: FloatArray,
    output_norm_ub: FloatArray,
) -> Rounding:
    """Bound what rounding does to a corrected state, whatever it cancels.

    Parameters
    ----------
    dtype : numpy dtype, float64 or float32
        Of the state and of all that the correction computes. Underflow is gradual.
    carried : int
        K: most roundings on a path from a weight, or its product with a value, to l or o before the correction.
    tokens : int
        n: promoted tokens.
    l_old, l_new : float64 [...]
        Denominators before and after, as computed.
    value_old_ub : float64 [...]
        ``sum p' ||V_hat||`` over *all* tokens of the state, in the units of V.
    moved : Moved
    again_ub : float64 [...]
        r, with ``|p' - p''| <= r min(p', p'')``: the weights inside the state against the same weights computed again;
        ``e^eps - 1`` where their logarithms differ by at most eps, 0 where the correcting kernel reads them.
    output_norm_ub : float64 [...]
        Norm of the output that is returned, ``fl(o_new / l_new)``. Units of V.

    Returns
    -------
    Rounding
        ``+inf`` where the denominator may be nothing but rounding, and where anything is NaN or infinite.
    """
    kind = np.finfo(dtype)
    u, smallest, g = float(kind.eps) / 2, float(kind.smallest_normal), _gamma(carried + tokens + 3, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = l_old / (1.0 - g)  # at least the exact sum of the weights before
        weight = (g * (weights + moved.weight) + again_ub * moved.weight_again) * outward(6)
        # products of weights and values that underflow: each component of each loses less than a subnormal
        value = (g * (value_old_ub + moved.value) + again_ub * moved.value_again + tokens * smallest) * outward(6)
        left = (l_new - weight) * (1.0 - 2.0**-52)
        size = (output_norm_ub + smallest) * (1.0 + 2.0 * u)
        output = ((value + size * weight) / left + u * size + smallest) * outward(8)
        known = (left > 0.0) & (l_new < np.inf) & (output < np.inf)
    return Rounding(np.where(known, weight, np.inf), np.where(known, output, np.inf))


def kept_rounding_ub(
    *,
    dtype: np.dtype[np.floating[Any]],
    carried: int,
    tokens: int,
    value_ub: FloatArray,
    residual_ub: FloatArray,
    again_ub: FloatArray,
) -> FloatArray:
    """Bound the same by a constant, for states with ``l_old >= 1`` that need not be recomputed.

    Parameters
    ----------
    dtype, carried, tokens, again_ub
        As in `rounding_ub`.
    value_ub : float64 [...]
        Largest norm of a value as it was used, over all tokens of the state. Units of V.
    residual_ub : float64 [...]
        Largest ``||V - V_hat||`` of a promoted token. Units of V.

    Returns
    -------
    float64 [...]
        Upper bound of the output's error: ``(21 g + 10 r)(value + residual)``; ``+inf`` where r exceeds 1/32 or is NaN.

    Raises
    ------
    InputError
        So many roundings that g exceeds 1/32.
    """
    g = _gamma(carried + tokens + 3, dtype)
    if g > LARGEST_RATE:
        raise InputError(f"{carried} + {tokens} roundings in {dtype}: the constant holds up to gamma = 1/32")
    lost = 8.0 * (tokens + 1) * float(np.finfo(dtype).smallest_normal)
    bound = ((21.0 * g + 10.0 * again_ub) * (value_ub + residual_ub) + lost) * outward(6)
    return np.asarray(np.where(again_ub <= LARGEST_RATE, bound, np.inf))


def _gamma(n: int, dtype: np.dtype[np.floating[Any]]) -> float:
    """``n u / (1 - n u)`` of a type, rounded up; the product is exact.

    Raises
    ------
    InputError
        If ``n u >= 1/2``.
    """
    share = n * float(np.finfo(dtype).eps) / 2
    if n < 0 or share >= 0.5:
        raise InputError(f"{n} roundings in {dtype}: the number must be from 0 to below 1/(2u)")
    return math.nextafter(share / (1.0 - share), math.inf)
