"""The step of `PaperPolicy` (arXiv 2605.20868, Algorithm 1), certified from executed masses."""

from __future__ import annotations

import numpy as np

from certkv.reference import monitors
from certkv.reference.bounds import arithmetic
from certkv.reference.ladder import Action, Observation, next_action
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import BoolArray, FloatArray
from certkv.reference.policies import PaperPolicy
from certkv.reference.selection import Selection, explore, largest_until, select
from certkv.reference.steps.attend import attend
from certkv.reference.steps.certify import certify
from certkv.reference.steps.claim import coded_log_masses, log_masses, paper_claim, shares
from certkv.reference.steps.group import Group, Levels, any_row
from certkv.reference.steps.originals import attend_originals
from certkv.reference.steps.result import Result, certificate_of


def run(group: Group, policy: PaperPolicy, out_dtype: np.dtype[np.generic], index: int) -> Result:
    """Score, select, attend, certify, escalate.

    Parameters
    ----------
    group : Group
    policy : PaperPolicy
    out_dtype : numpy dtype
    index : int
        Number of the decode step, for the exploration draw.

    Returns
    -------
    Result
        With ``dense`` set where the score-consistency check failed: every head must then be computed by rung 4.

    Raises
    ------
    HostMissingError
    """
    heads, blocks = len(group.q), group.view.blocks
    rows = np.arange(heads)
    mass, already = shares(*coded_log_masses(group))
    selection = _select(policy, mass, already)
    values = promoted_values(policy, group, mass)
    levels = Levels(selection.chosen, values)
    seen = attend(group, levels, rows)
    done = certify(group, levels, rows, seen, out_dtype)
    claim = paper_claim(group, levels, seen)

    explored = explore(policy.exploration, policy.seed, index, group.heads, blocks)
    observations = observe(policy, group, selection, explored)
    actions = np.array([next_action(seen_) for seen_ in observations], dtype=object)
    if (actions == Action.DENSE).any():
        blank = Result.blank(heads, group.q.shape[-1], group.view.cache.level_count)
        return Result(blank.output, blank.lse, blank.certificate, claim, dense=True)
    rung = np.where(values.any(axis=-1), 2, np.where(selection.expanded, 1, 0))
    certificate = certificate_of(group, levels, done.bound, np.full(heads, np.inf), rung)
    result = Result(done.output, seen.lse, certificate, claim)
    failed = rows[actions == Action.EXACT_HEAD]
    if failed.size:
        unlimited = np.full(len(failed), np.inf)
        result.put(failed, attend_originals(group, failed, 3, unlimited, claim[failed], out_dtype))
    return result


def _select(policy: PaperPolicy, mass: FloatArray, already: FloatArray) -> Selection:
    """Step 2 of the algorithm, rung 1 included."""
    return select(
        mass,
        already,
        coverage=policy.coverage,
        k_min=policy.k_min,
        k_max=policy.k_max,
        tail_threshold=policy.tail_threshold,
        expansion=policy.expansion,
    )


def promoted_values(policy: PaperPolicy, group: Group, mass: FloatArray) -> BoolArray:
    """Rung 2: blocks whose estimated ``rho_b eta_b`` is too large, or (with a value budget) the largest until it fits.

    The masses are those of the coded scores, as the paper decides before it attends; the certificate uses the executed
    ones.
    """
    notes = group.value_notes
    if notes is None:
        return np.zeros(mass.shape, np.bool_)
    with np.errstate(invalid="ignore"):  # no mass times an infinite error is unknown, and unknown is too large
        error = mass * notes.residual_norm_ub.astype(np.float64)
    if policy.value_budget is not None:
        return largest_until(error, error.sum(axis=-1) - policy.value_budget)
    return np.asarray(~(error <= policy.value_tolerance))


def observe(policy: PaperPolicy, group: Group, selection: Selection, explored: BoolArray) -> list[Observation]:
    """Run the monitors; one observation per head. Nothing is enforced by tolerance here, so the bound is left out."""
    scored = selection.chosen | explored
    exact = group.exact_scores(any_row(scored))
    consistent = monitors.scores_consistent(exact, group.coded_scores, score_slack(group), scored, policy.guard)
    exact_mass = np.where(selection.chosen, log_masses(np.where(scored[..., None], exact, 0.0)), -np.inf)
    coded_mass, _ = coded_log_masses(group)
    ranked = monitors.ranking_holds(exact_mass, coded_mass, selection.chosen, policy.rank)
    bounded = monitors.boundary_holds(exact_mass, coded_mass, group.delta_ub, selection.chosen, policy.rank)
    return [
        Observation(consistent=bool(c), ranked=bool(r), bounded=bool(b))
        for c, r, b in zip(consistent, ranked, bounded, strict=True)
    ]


def score_slack(group: Group) -> FloatArray:
    """How far a block's exact and coded float64 scores can be apart: the key error, and the rounding of both scores.

    Returns
    -------
    float64 [heads, blocks]
    """
    # key_norm_ub is at least the norms of decoded keys, too
    rounding = arithmetic.score_rounding_ub(
        group.scale, norm_ub(group.q)[:, None], group.key_norm_ub, group.q.shape[-1] + group.key_roundings
    )
    return np.asarray(group.delta_ub + 2.0 * rounding)
