"""What a step must be whatever happened inside it: from its arguments, its certificate, and the originals."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from certkv.proofs.contract.life_model import Life
from certkv.proofs.contract.recorder import ReadEvent
from certkv.proofs.mutants.model import require
from certkv.reference import Budget, CertkvError, HostMissingError, Naive, PaperPolicy, Policy, Step
from certkv.reference.exact import judge
from certkv.reference.numbers.types import AnyArray

RUNGS: dict[type[Policy], tuple[int, ...]] = {Naive: (0,), Budget: (0, 1, 2, 3), PaperPolicy: (0, 1, 2, 3, 4)}
"""Rungs that each policy may take."""


def check_policy(
    policy: Policy,
    outcome: Step | CertkvError,
    life: Life,
    tokens: int,
    lost: Set[tuple[int, int]],
    damaged: bool,
    loud: bool,
) -> None:
    """Require what the policy alone decides, for a query that sees so many tokens of a cache.

    Parameters
    ----------
    policy : Policy
    outcome : Step or CertkvError
    life : Life
        After the step.
    tokens : int
    lost : set of (kv head, block)
    damaged : bool
        Whether any code, metadata or annotation was changed.
    loud : bool
        Whether a visible block's keys were changed beyond what its annotations allow.

    Raises
    ------
    CheckFailed
    """
    blocks = tokens // life.block
    past_tail = blocks if tokens % life.block and blocks < life.blocks else None
    if past_tail is not None and any((h, past_tail) in lost for h in range(life.heads)):
        require(isinstance(outcome, HostMissingError), f"{outcome!r}, with a lost block in the tail of a past position")
        return
    gone = any((h, b) in lost for h in range(life.heads) for b in range(blocks))
    missing = isinstance(outcome, HostMissingError)
    require(gone or not missing, f"{outcome!r}, but nothing that the query sees is lost")
    if isinstance(policy, Naive):
        require(not missing, f"{outcome!r} under a policy that reads no original")
    if isinstance(policy, Budget):
        pinned = blocks > 0 and any((h, 0) in lost for h in range(life.heads))
        # the first block is pinned to the device; without a tolerance everything else is read too
        needs = pinned or (gone and policy.tolerance == 0)
        require(missing or not needs, f"{outcome!r}, with lost originals that the policy needs")
    if isinstance(outcome, Step):
        rungs = set(outcome.certificate.rung.tolist())
        allowed = RUNGS[type(policy)]
        require(rungs <= set(allowed), f"rungs {rungs} under {policy.name}")
        if isinstance(policy, Budget) and policy.tolerance == 0:
            require(rungs == {3}, f"rungs {rungs} under a tolerance of 0")
        require(rungs == {4} or 4 not in rungs, f"rungs {rungs}: rung 4 is for the whole layer")
        require(damaged or 4 not in rungs, "rung 4, but nothing was damaged")
        if isinstance(policy, PaperPolicy) and policy.k_min >= blocks and loud:
            require(rungs == {4}, f"rungs {rungs}, with scores outside of every bound")


def check_step(
    step: Step,
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
    policy: Policy,
    damaged_heads: Set[int],
    reads: Sequence[ReadEvent],
    block_bytes: int,
) -> None:
    """Require a certificate that is true, enforced, and paid for.

    Parameters
    ----------
    step : Step
    q : [q_heads, head_dim]
    k, v : [tokens, kv_heads, head_dim]
        The originals that the query sees.
    policy : Policy
    damaged_heads : set of int
        KV heads of which stored codes or metadata were changed; below rung 3 their bounds promise nothing.
    reads : sequence of ReadEvent
    block_bytes : int

    Raises
    ------
    CheckFailed
    """
    c = step.certificate
    require(bool((c.status == 0).all()), "a status other than OK was returned")
    require(not np.isnan(step.output.astype(np.float64)).any(), "an output is NaN")
    require(bool((c.bound >= 0).all()), "a bound is negative or NaN")
    if isinstance(policy, Budget):
        met = (c.tolerance > 0) & (c.bound <= c.tolerance)
        require(bool((met | (c.rung >= 3)).all()), "bound > tolerance below rung 3")
    group = len(q) // k.shape[1]
    for h in range(k.shape[1]):
        mine = slice(h * group, (h + 1) * group)
        fetched = {
            side: {b for e in reads if (e.side, e.kv_head) == (side, h) and e.through != "host" for b in e.blocks}
            for side in ("keys", "values")
        }
        blocks = np.array([len(fetched["keys"]), len(fetched["values"])])
        require(bool((c.promoted[mine] <= blocks).all()), f"KV head {h}: more promoted than was read")
        verdicts = judge(step.output[mine], c.bound[mine], q[mine], k[:, h], v[:, h], 1.0 / np.sqrt(q.shape[-1]).item())
        for row, verdict in enumerate(verdicts):
            head = h * group + row
            trusted = h not in damaged_heads or c.rung[head] >= 3
            require(verdict.judged_by != "undecided", f"head {head}: the judge cannot decide")
            require(
                not (verdict.violated and trusted),
                f"head {head}: error {verdict.error_lb:.3e} above the bound {c.bound[head]:.3e}",
            )
    require(bool((c.host_bytes == c.promoted.sum(axis=-1) * block_bytes).all()), "host bytes are not those promoted")
