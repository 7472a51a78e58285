"""The ladder of a step part by part: certify, choose, promote, round after round, compute anew, finish.

    certify -> choose -> ( promote -> certify -> choose )* -> exact head -> finish

That is what twins do, and what policies do that look at what parts left; under `Budget` kernels do all of it in one
launch (`certkv.fast.kernels.ladder`). Parts are predicated by flags on the device: heads that a part does not concern
it leaves alone.
"""

from __future__ import annotations

import torch

from certkv.fast import paper
from certkv.fast.certify import Pass
from certkv.fast.choose import EXACT_HEAD
from certkv.fast.ladder import Ladder
from certkv.fast.passes import Passes
from certkv.fast.policies import Budget, Naive, PaperPolicy, Policy
from certkv.fast.resident_terms import ResidentPass


def in_parts(given: Ladder, use: Passes, policy: Policy, index: torch.Tensor) -> None:
    """Go through the ladder; heads that the first tier accepted stay as they are.

    Parameters
    ----------
    given : Ladder
    use : Passes
        What does the parts.
    policy : Policy
    index : int64 []
        Number of the step; see `Plan`.
    """
    q, coded, ws, parts, levels = given.q, given.coded, given.ws, given.parts, given.levels
    use.begin(ws.levels, parts.choice, given.flags, given.moved, not isinstance(policy, Budget))
    use.score_error(q, coded, given.scale, given.rounding.first.floor, parts.errors, given.rounding.lost)
    prices = {} if levels is None else {"prices": levels.prices}
    if levels is not None:
        use.finer_score_error(q, coded, given.scale, parts.finer)
    for done in range(given.rounds + 1):
        if done == 1 and isinstance(policy, PaperPolicy):
            mass = parts.terms.mass
            paper.select(policy, coded, mass, parts.resident_mass, ws.l, index, parts.choice, parts.selection)
        if done:
            _promote(given, use, done)
        _certify(given, use, done)
        if done == 0 and isinstance(policy, PaperPolicy):
            continue
        use.choose(
            parts.terms,
            ws.levels,
            ws.output,
            given.rounding.first if done == 0 else given.rounding.after,
            given.unit,
            given.tolerance,
            given.rounds - done,
            2 * ws.levels.shape[-1],
            parts.found,
            parts.choice,
            **prices,
        )
    if isinstance(policy, PaperPolicy):
        delta = parts.errors.delta
        paper.monitors(policy, coded, parts.selection, parts.terms.mass, ws.l, delta, ws.levels, parts.choice)
    if not isinstance(policy, Naive):
        _exact(given, use)
    if not isinstance(policy, Budget):
        # heads that did not go to rung 3, too, may have an output that is no number for want of range
        ws.flags.fill_(1)
        _exact_terms(given, use, None)
    use.finish(
        q,
        coded,
        ws.output,
        ws.lse,
        parts.exact_bound,
        parts.found,
        ws.levels,
        parts.selection.rung if isinstance(policy, PaperPolicy) else None,
        parts.choice,
        given.flags,
        given.originals.block_bytes,
        given.out,
    )
    if levels is not None:
        use.finish_levels(ws.levels, parts.choice, levels.read.planes, given.out.certificate)


def _promote(given: Ladder, use: Passes, done: int) -> None:
    """Bring what was chosen, and correct the heads by it."""
    ws, parts, levels = given.ws, given.parts, given.levels
    finer = {} if levels is None else {"finer": levels.read}
    use.fetch(parts.choice, ws.levels, given.originals, given.scratch, given.moved, done == 1)
    use.refine(
        given.q,
        given.scale,
        given.coded,
        given.originals,
        given.scratch,
        parts.errors.delta,
        parts.choice,
        given.state,
        parts.missing,
        given.moved,
        given.check,
        parts.corrections,
        parts.terms.partial if done == 1 else None,
        **finer,
    )


def _certify(given: Ladder, use: Passes, done: int) -> None:
    """Terms of what was executed, for the heads that are still open."""
    ws, parts, levels = given.ws, given.parts, given.levels
    charges = given.rounding.first if done == 0 else given.rounding.after
    active = parts.choice.action  # heads that went to rung 3 are computed in vain
    seen = Pass(ws.weights, ws.reference, ws.m, ws.l, ws.output, ws.levels)
    finer = {} if levels is None else {"finer": levels.finer}
    use.certify(seen, given.coded, parts.errors, charges, parts.terms, active, **finer)
    held = ResidentPass(
        given.q,
        given.resident.keys,
        given.resident.values,
        ws.resident_weights,
        ws.resident_reference,
        ws.m,
        ws.l,
        ws.output,
    )
    use.resident_terms(held, given.coded, given.scale, charges, parts.resident_mass, parts.terms, active)
    if done:
        use.keep_lost(parts.terms.partial, given.state, active)


def _exact(given: Ladder, use: Passes) -> None:
    """Rung 3, of the heads that need it."""
    ws, parts = given.ws, given.parts
    torch.eq(parts.choice.action, EXACT_HEAD, out=ws.flags.view(torch.bool))
    originals, resident = given.originals, given.resident
    use.exact_head(given.q, given.coded, resident, originals, given.scratch, given.moved, given.scale, ws)
    use.merge(ws, ws.flags)
    _exact_terms(given, use, parts.missing)


def _exact_terms(given: Ladder, use: Passes, missing: torch.Tensor | None) -> None:
    """Bound the heads that are flagged as those of rung 3."""
    ws, parts = given.ws, given.parts
    use.exact_terms(
        given.q,
        given.coded,
        given.resident,
        given.originals.present,
        parts.errors.size,
        given.scale,
        given.rounding.exact,
        given.rounding.first,
        ws.flags,
        ws.output,
        parts.exact_bound,
        missing,
        parts.dense,
    )
