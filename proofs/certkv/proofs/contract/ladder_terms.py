"""The machine of `ladder_model` for solvers, with the comparisons in IEEE arithmetic instead of `Order`.

Phases, backings and actions are small bit vectors, rounds one that holds every number a policy may ask for, bound and
tolerance floats of either width. The two encodings are compared state by state in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import z3

from certkv.proofs.contract.ladder_model import RIGHT, Backing, Phase, Rules
from certkv.reference.ladder import MAX_ROUNDS, Action

PHASES = {phase: z3.BitVecVal(i, 3) for i, phase in enumerate(Phase)}
BACKINGS = {backing: z3.BitVecVal(i, 2) for i, backing in enumerate(Backing)}
SEVERITY = (Action.ACCEPT, Action.REFINE, Action.EXACT_HEAD, Action.DENSE, Action.ERROR)
ACTIONS = {action: z3.BitVecVal(i, 3) for i, action in enumerate(SEVERITY)}
"""Numbered by severity."""

ROUND_BITS = MAX_ROUNDS.bit_length()
"""Width of the counter of rounds."""

RANK_BITS = ROUND_BITS + 8
"""Width of the rank, in which ``rounds_left + 3`` cannot wrap around."""

MONITORS = ("consistent", "ranked", "bounded")
FLAGS = ("finite", "promoted_readable", *MONITORS)


@dataclass(frozen=True, eq=False)
class SeenTerms:
    """Inputs of a transition, as in `ladder_model.Seen`, but with numbers."""

    flags: dict[str, z3.BoolRef]
    bound: z3.FPRef
    tolerance: z3.FPRef
    promotable: z3.BoolRef
    number: z3.BoolRef
    layer_dense: z3.BoolRef


@dataclass(frozen=True, eq=False)
class StateTerms:
    """A state, as in `ladder_model.State`; ``held`` says whether the last decision's observation allows acceptance."""

    phase: z3.BitVecRef
    rounds_left: z3.BitVecRef
    all_readable: z3.BoolRef
    backing: z3.BitVecRef
    held: z3.BoolRef
    number: z3.BoolRef


def seen_terms(suffix: str = "", sort: z3.FPSortRef | None = None) -> SeenTerms:
    """Free constants for the inputs, float64 unless told otherwise."""
    width = z3.Float64() if sort is None else sort
    return SeenTerms(
        {name: z3.Bool(name + suffix) for name in FLAGS},
        z3.FP("bound" + suffix, width),
        z3.FP("tolerance" + suffix, width),
        z3.Bool("promotable" + suffix),
        z3.Bool("number" + suffix),
        z3.Bool("layer_dense" + suffix),
    )


def rounds_constant(suffix: str = "") -> z3.BitVecRef:
    """Return the rounds that are left, as a free constant."""
    return z3.BitVec("rounds_left" + suffix, ROUND_BITS)


def state_terms() -> StateTerms:
    """Free constants for a state."""
    return StateTerms(
        z3.BitVec("phase", 3),
        rounds_constant(),
        z3.Bool("all_readable"),
        z3.BitVec("backing", 2),
        z3.Bool("held"),
        z3.Bool("output_number"),
    )


def positive(seen: SeenTerms) -> z3.BoolRef:
    """``tolerance > 0``, false for NaN."""
    return z3.fpGT(seen.tolerance, z3.FPVal(0.0, seen.tolerance.sort()))


def fits(seen: SeenTerms, rules: Rules = RIGHT) -> z3.BoolRef:
    """``bound <= tolerance``, false for NaN; the planted form ``not bound > tolerance`` is true for it."""
    if rules.accepts_unordered:
        return z3.Not(z3.fpGT(seen.bound, seen.tolerance))
    return z3.fpLEQ(seen.bound, seen.tolerance)


def action(seen: SeenTerms, rounds_left: z3.BitVecRef, rules: Rules = RIGHT) -> z3.BitVecRef:
    """Return the ladder's decision."""
    flag = seen.flags
    accept = z3.And(positive(seen), fits(seen, rules))
    readable = z3.BoolVal(True) if rules.skips_missing else flag["promoted_readable"]
    unranked = z3.Not(z3.And(flag["ranked"], flag["bounded"]))
    may_refine = z3.BoolVal(True) if rules.refines_without_end else z3.UGT(rounds_left, 0)
    last = ACTIONS[Action.ACCEPT if rules.gives_up_silently else Action.EXACT_HEAD]
    ladder: Sequence[tuple[z3.BoolRef, z3.BitVecRef]] = (
        (z3.And(accept, z3.BoolVal(rules.accepts_before_monitors)), ACTIONS[Action.ACCEPT]),
        (z3.Not(z3.And(flag["finite"], readable)), ACTIONS[Action.ERROR]),
        (z3.And(unranked, z3.BoolVal(rules.ranks_before_consistency)), ACTIONS[Action.EXACT_HEAD]),
        (z3.Not(flag["consistent"]), ACTIONS[Action.DENSE]),
        (unranked, ACTIONS[Action.EXACT_HEAD]),
        (accept, ACTIONS[Action.ACCEPT]),
        (z3.And(positive(seen), may_refine), ACTIONS[Action.REFINE]),
    )
    return cases(ladder, last)


def rounds_to_try(state: StateTerms, seen: SeenTerms) -> z3.BitVecRef:
    """Return the rounds that the ladder may count on: none where nothing is left to promote."""
    return z3.If(seen.promotable, state.rounds_left, z3.BitVecVal(0, ROUND_BITS))


def cases(rows: Sequence[tuple[z3.BoolRef, Any]], otherwise: Any) -> Any:
    """First row whose guard holds."""
    result = otherwise
    for guard, value in reversed(rows):
        result = z3.If(guard, value, result)
    return result


def transition(
    state: StateTerms, seen: SeenTerms, rules: Rules = RIGHT, decided: z3.BitVecRef | None = None
) -> StateTerms:
    """Return the next state; states in a last phase stay as they are. ``decided`` may name the action."""
    readable = z3.BoolVal(True) if rules.skips_missing else state.all_readable
    if decided is None:
        decided = action(seen, rounds_to_try(state, seen), rules)
    attend = cases(
        [
            (decided == ACTIONS[Action.ACCEPT], PHASES[Phase.BOUNDED]),
            (decided == ACTIONS[Action.REFINE], PHASES[Phase.ATTEND]),
            (decided == ACTIONS[Action.EXACT_HEAD], PHASES[Phase.READ_HEAD]),
            (decided == ACTIONS[Action.DENSE], PHASES[Phase.READ_LAYER]),
        ],
        PHASES[Phase.ERROR],
    )
    attending, reading_head, reading_layer = (
        state.phase == PHASES[phase] for phase in (Phase.ATTEND, Phase.READ_HEAD, Phase.READ_LAYER)
    )
    wanted = cases(
        [
            (attending, attend),
            (reading_head, z3.If(readable, PHASES[Phase.BOUNDED], PHASES[Phase.ERROR])),
            (reading_layer, z3.If(readable, PHASES[Phase.DENSE], PHASES[Phase.ERROR])),
        ],
        state.phase,
    )
    ending = z3.And(is_running(state), is_output(wanted))
    refused = z3.And(ending, z3.Not(seen.number), z3.BoolVal(not rules.returns_nan))
    phase = cases(
        [
            (refused, PHASES[Phase.ERROR]),
            (z3.And(ending, wanted == PHASES[Phase.BOUNDED], seen.layer_dense), PHASES[Phase.READ_LAYER]),
        ],
        wanted,
    )
    backing = z3.If(attending, BACKINGS[Backing.COMPARED], BACKINGS[Backing.ORIGINALS])
    refining = z3.And(attending, decided == ACTIONS[Action.REFINE], z3.UGT(state.rounds_left, 0))
    running = is_running(state)
    return StateTerms(
        phase,
        z3.If(refining, state.rounds_left - 1, state.rounds_left),
        state.all_readable,
        z3.If(running, z3.If(is_output(phase), backing, BACKINGS[Backing.NOTHING]), state.backing),
        z3.If(attending, acceptable(seen), state.held),
        z3.If(running, seen.number, state.number),
    )


def named_transition(state: StateTerms, seen: SeenTerms, rules: Rules = RIGHT) -> tuple[StateTerms, list[z3.BoolRef]]:
    """Return the next state as constants, and the equations that define them.

    The same as `transition`, but a solver's text stays small where large terms are used many times.
    """
    decided = z3.BitVec("action", 3)
    after = transition(state, seen, rules, decided)
    constants = StateTerms(
        z3.BitVec("phase_after", 3),
        rounds_constant("_after"),
        z3.Bool("all_readable_after"),
        z3.BitVec("backing_after", 2),
        z3.Bool("held_after"),
        z3.Bool("output_number_after"),
    )
    equations = [getattr(constants, name) == getattr(after, name) for name in StateTerms.__dataclass_fields__]
    return constants, [decided == action(seen, rounds_to_try(state, seen), rules), *equations]


def acceptable(seen: SeenTerms) -> z3.BoolRef:
    """Say what an accepted observation must be, not in the ladder's words: no NaN, everything held."""
    no_nan = z3.Not(z3.Or(z3.fpIsNaN(seen.bound), z3.fpIsNaN(seen.tolerance)))
    above_zero = z3.And(z3.Not(z3.fpIsZero(seen.tolerance)), z3.Not(z3.fpIsNegative(seen.tolerance)))
    return z3.And(*seen.flags.values(), no_nan, above_zero, z3.fpLEQ(seen.bound, seen.tolerance))


def is_output(phase: z3.BitVecRef) -> z3.BoolRef:
    """Whether the phase returns an output."""
    return z3.Or(phase == PHASES[Phase.BOUNDED], phase == PHASES[Phase.DENSE])


def is_running(state: StateTerms) -> z3.BoolRef:
    """Whether the step goes on."""
    return z3.Or([state.phase == PHASES[p] for p in (Phase.ATTEND, Phase.READ_HEAD, Phase.READ_LAYER)])


def invariant(state: StateTerms) -> z3.BoolRef:
    """State what holds in every reachable state."""
    return z3.And(*invariant_parts(state).values())


def invariant_parts(state: StateTerms) -> dict[str, z3.BoolRef]:
    """Return the invariant in the parts that are proved one by one; each is kept if all of them held before."""
    output = is_output(state.phase)
    originals = state.backing == BACKINGS[Backing.ORIGINALS]
    compared = state.backing == BACKINGS[Backing.COMPARED]
    return {
        "backed": z3.And(
            z3.Or([state.phase == value for value in PHASES.values()]),
            z3.ULE(state.backing, 2),
            output == z3.Or(originals, compared),
            z3.Implies(originals, state.all_readable),
        ),
        "no_nan": z3.Implies(output, state.number),
        "compared": z3.Implies(compared, z3.And(state.held, state.phase == PHASES[Phase.BOUNDED])),
    }


def rank(state: StateTerms) -> z3.BitVecRef:
    """Return a number, ``RANK_BITS`` wide, that falls with every transition until the last phase, where it is 0."""
    rounds = z3.ZeroExt(RANK_BITS - ROUND_BITS, state.rounds_left)
    return cases(
        [
            (state.phase == PHASES[Phase.ATTEND], rounds + 3),
            (state.phase == PHASES[Phase.READ_HEAD], z3.BitVecVal(2, RANK_BITS)),
            (state.phase == PHASES[Phase.READ_LAYER], z3.BitVecVal(1, RANK_BITS)),
        ],
        z3.BitVecVal(0, RANK_BITS),
    )
