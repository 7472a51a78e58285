"""Identity ``correction``: a promoted block put right in a softmax state instead of being attended to again.

Statement. Let a state (m, l, o) contain ``sum_t p'_t`` and ``sum_t p'_t V_hat_t`` over some tokens, and let
``p_t = exp(s_t - m)`` be their weights from better scores *with the same reference m*. Then

    l + sum_t (p_t - p'_t)   and   o + sum_t (p_t - p'_t) V_hat_t + sum_t p_t (V_t - V_hat_t)

are the state in which these tokens have weights p and values V, and m is its reference (no longer its largest score).

An exact identity in any field, so `correct` takes arrays of `fractions.Fraction` too. In floating point it is only as
good as what cancellation leaves: `must_recompute` says when to give it up, ``correction_rounding`` what it costs.

Source: ours. The reference attends anew in every round and needs none of this; it specifies kernels that keep states
and not weights. Derivation: docs/derivations/correction.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

KEPT = 0.25
"""Share of the old denominator that must be left: old weights and changes then sum to at most 9 times what is left."""

LARGEST_DELTA = 1.0
"""Score error of a promoted block above which weights may grow by more than e: the reference m no longer fits."""


def correct(state: SoftmaxState, p_old: AnyArray, p: AnyArray, v_hat: AnyArray, v: AnyArray) -> SoftmaxState:
    """Replace weights ``p_old`` and values ``v_hat`` of some tokens by ``p`` and ``v``.

    Parameters
    ----------
    state : SoftmaxState
        Leading axes [...]; holds these tokens with ``p_old`` and ``v_hat``.
    p_old : float64 [..., n]
        The very weights that went into ``state``; recomputed ones may differ, and the difference stays in it.
    p : float64 [..., n]
        New weights ``exp(s_t - m)``, m the reference of ``state``. Equal to ``p_old`` where keys stay as they are.
    v_hat, v : float64 [n, d] or [..., n, d]
        Values as they were and as they are to be, in the units of V. Equal where values stay as they are.

    Returns
    -------
    SoftmaxState
        With the m of ``state``. Use it only where `must_recompute` is false.
    """
    change = p - p_old
    moved = np.matmul(change[..., None, :], v_hat)[..., 0, :]
    replaced = np.matmul(p[..., None, :], v - v_hat)[..., 0, :]
    return SoftmaxState(state.m, state.l + change.sum(axis=-1), state.o + moved + replaced)


def must_recompute(l_old: FloatArray, l_new: FloatArray, delta_ub: FloatArray) -> BoolArray:
    """Whether a corrected state must be thrown away and its head attended to again.

    Parameters
    ----------
    l_old, l_new : float64 [...]
        Denominators before and after the correction.
    delta_ub : float64 [...]
        Upper bound of ``|ln p_t - ln p'_t|`` over the promoted tokens.

    Returns
    -------
    bool [...]
        True where ``l_new < l_old / 4`` or ``delta_ub > 1``, and where any of them is NaN or l_new is infinite.
    """
    return np.asarray(~((l_new >= KEPT * l_old) & (l_new < np.inf) & (delta_ub <= LARGEST_DELTA)))
