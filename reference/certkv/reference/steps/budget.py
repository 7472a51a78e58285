"""The step of `Budget`: promote until the bound fits, or compute the head from the originals."""

from __future__ import annotations

import numpy as np

from certkv.reference.ladder import MAX_ROUNDS, Action, Observation, next_action
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.policies import Budget
from certkv.reference.selection import largest_until
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.certify import Certified, certify
from certkv.reference.steps.choice import choose_levels, needed, original_gains
from certkv.reference.steps.claim import paper_claim
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import SIDES, Levels
from certkv.reference.steps.originals import attend_originals
from certkv.reference.steps.result import Result, certificate_of
from certkv.reference.steps.tolerance import tolerance


def run(group: Group, policy: Budget, out_dtype: np.dtype[np.generic]) -> Result:
    """Attend, certify, refine; every head ends with ``bound <= tolerance`` or in rung 3.

    Parameters
    ----------
    group : Group
    policy : Budget
    out_dtype : numpy dtype

    Returns
    -------
    Result

    Raises
    ------
    HostMissingError
        A head needs an original that is missing.
    """
    heads = len(group.q)
    levels = Levels.coded(heads, group.view.blocks, group.pinned)
    result = Result.blank(heads, group.q.shape[-1], group.view.cache.level_count)
    rows = np.arange(heads)
    rounds = rounds_of(policy, group)
    for round_ in range(rounds + 1):
        current = levels.rows(rows)
        seen = attend(group, current, rows)
        done = certify(group, current, rows, seen, out_dtype)
        limit = tolerance(policy, group, seen, done.output)
        if round_ == 0:
            result.paper_bound[:] = paper_claim(group, current, seen)
        wanted = next_levels(group, current, rows, seen, done, limit, rounds - round_)
        # a round in which nothing is left to promote would only repeat this one
        useful = wanted.beyond(current)
        actions = decide(done.bound.bound, limit, np.where(useful, rounds - round_, 0))
        accepted, from_originals, refine = (actions == a for a in (Action.ACCEPT, Action.EXACT_HEAD, Action.REFINE))
        if accepted.any():
            result.put(rows[accepted], _accept(group, current, rows, seen, done, limit, result, accepted))
        if from_originals.any():
            chosen = rows[from_originals]
            claims = result.paper_bound[chosen]
            read = current.rows(from_originals)
            exact = attend_originals(group, chosen, 3, limit[from_originals], claims, out_dtype, read)
            result.put(chosen, exact)
        if not refine.any():
            break
        rows = rows[refine]
        levels.raise_to(rows, wanted.rows(refine))
    return result


def rounds_of(policy: Budget, group: Group) -> int:
    """Return the rounds of promotion that a step takes at most.

    Those of the policy and, where it has any, one for each plane of the keys: a round that only looks at the next level
    of coarse keys decides nothing (`choice.FAR`), and there is one plane to look at each time.
    """
    looks = len(group.finer.levels("keys"))
    return min(policy.rounds + looks, MAX_ROUNDS) if policy.rounds else 0


def next_levels(
    group: Group,
    levels: Levels,
    rows: IntArray,
    seen: Attended,
    done: Certified,
    limit: FloatArray,
    rounds_left: int,
) -> Levels:
    """Pick what to read next: originals, or levels where a format has several."""
    if group.finer.any:
        return choose_levels(group, levels, rows, seen, done, limit, rounds_left)
    return Levels(*choose(levels, seen, done, limit))


def decide(bound: FloatArray, limit: FloatArray, rounds_left: IntArray) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Ask the ladder for every head."""
    seen = (
        Observation(bound=float(b), tolerance=float(t), rounds_left=int(left))
        for b, t, left in zip(bound, limit, rounds_left, strict=True)
    )
    return np.array([next_action(observation) for observation in seen], dtype=object)


def choose(levels: Levels, seen: Attended, done: Certified, limit: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Pick the fewest items (block, side) that should bring the bound under the limit.

    Keys and values of a block have the same size, so gain per byte is gain. A choice is a guess until it is certified
    anew.

    Returns
    -------
    keys, values : bool [rows, blocks]
    """
    blocks = levels.keys.shape[1]
    gains = original_gains(levels, seen, done, limit)
    marks = largest_until(np.concatenate(gains, axis=-1), needed(done.bound, limit))
    return marks[:, :blocks] & ~levels.keys, marks[:, blocks:] & ~levels.values


def _accept(
    group: Group,
    levels: Levels,
    rows: IntArray,
    seen: Attended,
    done: Certified,
    limit: FloatArray,
    result: Result,
    accepted: BoolArray,
) -> Result:
    """Assemble the result of the heads whose bound fits."""
    keys, values = (levels.raised(side)[:, group.pinned :].any(axis=-1) for side in SIDES)
    rung = np.where(values, 2, np.where(keys, 1, 0))
    certificate = certificate_of(group, levels, done.bound, limit, rung)
    kept = {name: getattr(certificate, name)[accepted] for name in certificate.__dataclass_fields__}
    return Result(
        done.output[accepted],
        seen.lse[accepted],
        type(certificate)(**kept),
        result.paper_bound[rows[accepted]],
    )
