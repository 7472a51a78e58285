"""The absolute number that a budget enforces, rounded down."""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds import arithmetic
from certkv.reference.numbers import norm_lb, outward
from certkv.reference.numbers.types import FloatArray
from certkv.reference.policies import Budget
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.group import Group


def mean_value_norms(group: Group) -> FloatArray:
    """Mean value norm of each block, rounded down; the tail's is measured. float64 [blocks + 1], units of V."""
    tail = group.tail_values
    measured = norm_lb(tail).sum() / len(tail) / outward(len(tail) + 2) if len(tail) else 0.0
    notes = group.value_notes
    blocks = np.empty(0) if notes is None else notes.mean_norm_lb.astype(np.float64)
    return np.concatenate([blocks, [measured]])


def tolerance(policy: Budget, group: Group, seen: Attended, output: FloatArray) -> FloatArray:
    """Return what the bound must not exceed.

    Parameters
    ----------
    policy : Budget
    group : Group
    seen : Attended
        The executed pass.
    output : float64 [rows, head_dim]
        The reported output.

    Returns
    -------
    float64 [rows]
        ``"absolute"``: t. ``"output"``: ``t/(1+t) ||output||``: then ``error <= bound`` gives
        ``||output|| <= ||O|| + error`` and ``error (1 + t) <= t ||O|| + t error``, so ``error <= t ||O||``.
        ``"values"``: ``t sum_b rho_b vbar_b``.
    """
    t = policy.tolerance
    if policy.relative_to == "absolute":
        return np.full(len(output), t)
    with np.errstate(over="ignore"):  # an infinite limit is cut to the largest number, which no infinite bound meets
        if policy.relative_to == "output":
            return below(t / (1.0 + t) * norm_lb(output) / outward(3))
        mass = arithmetic.mass_lb(seen.mass, group.view.tokens)
        mean = mean_value_norms(group)
        return below(t * (mass * mean).sum(axis=-1) / outward(len(mean) + 2))


def below(x: FloatArray) -> FloatArray:
    """Take off what underflow of the products can have added; at least 0, and finite."""
    return np.clip(x - arithmetic.LOST_TO_UNDERFLOW, 0.0, np.finfo(np.float64).max)
