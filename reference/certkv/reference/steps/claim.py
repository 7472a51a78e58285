"""What the paper's own formula claims for an executed pass. Shown beside the certificate; nothing relies on it."""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds import paper_total, score_error
from certkv.reference.formats import step_per_channel
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.group import Group, Levels


def coded_log_masses(group: Group) -> tuple[FloatArray, FloatArray]:
    """Logarithms of the masses that the coded scores give to each block, and to the tail.

    Returns
    -------
    blocks : float64 [heads, blocks]
        ``l_b = m_b + log S_b``, not normalised.
    tail : float64 [heads]
        The same for the tail; ``-inf`` for an empty one.
    """
    return log_masses(group.coded_scores), log_masses(group.tail_scores)


def log_masses(scores: FloatArray) -> FloatArray:
    """``log sum exp`` over the last axis; ``-inf`` for no scores."""
    m = scores.max(axis=-1, initial=-np.inf)
    if scores.shape[-1] == 0:
        return np.asarray(m)
    return np.asarray(m + np.log(np.exp(scores - m[..., None]).sum(axis=-1)))


def shares(blocks: FloatArray, tail: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Normalise log-masses to shares of the whole."""
    joined = np.concatenate([blocks, tail[:, None]], axis=-1)
    whole = log_masses(joined)
    normal = np.exp(joined - whole[:, None])
    return normal[:, :-1], normal[:, -1]


def paper_claim(group: Group, levels: Levels, seen: Attended) -> FloatArray:
    """Evaluate ``2 V_max e^{2 Delta} alpha (e^{2 Delta} - 1) + sum_b rho_b eta_b`` as the paper does.

    ``Delta`` is the analytic half-step bound of the worst block, ``alpha`` the mass that the coded scores leave outside
    the blocks scored exactly, ``rho_b`` the executed masses, ``eta_b`` 0 for promoted values.

    Parameters
    ----------
    group : Group
    levels : Levels
        Of the pass, all heads of the group.
    seen : Attended

    Returns
    -------
    float64 [heads]
        In the units of V; no proof stands behind it. ``+inf`` where no channel has a step of its own.
    """
    notes = group.value_notes
    if notes is None:
        return np.zeros(len(group.q))
    encoded = group.view.encoded("keys")
    if encoded.norm is not None:
        return np.full(len(group.q), np.inf)
    step = step_per_channel(encoded)
    delta = score_error.paper_l1(group.scale, group.q, step).max(axis=-1)
    mass, _ = shares(*coded_log_masses(group))
    outside = np.where(levels.keys, 0.0, mass).sum(axis=-1)
    eta = np.where(levels.values, 0.0, notes.residual_norm_ub.astype(np.float64))
    largest = float(notes.norm_ub.max())
    return paper_total.total(delta, outside, largest, seen.mass[:, :-1], eta)
