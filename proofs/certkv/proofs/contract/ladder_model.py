"""One head's step as a finite machine: attend and decide, perhaps read originals, end in an output or in an error.

What the numbers were is abstracted to how they compare (`Order`), which is all that the ladder asks. Everything the
machine cannot know (what is lost, what a monitor says, how a bound turns out) is an input of its transition, and the
search tries every value of it.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from certkv.proofs.contract.search import Space, explore, longest_path
from certkv.proofs.mutants.model import require
from certkv.reference.ladder import Action, Observation


class Phase(enum.Enum):
    """Where a head is in its step."""

    ATTEND = "attend"
    """Attend at the levels chosen so far, certify, ask the ladder."""
    READ_HEAD = "read head"
    """Rung 3: read every original of this head."""
    READ_LAYER = "read layer"
    """Rung 4: read every original of every head."""
    BOUNDED = "bounded output"
    DENSE = "dense output"
    ERROR = "error"


LAST = (Phase.BOUNDED, Phase.DENSE, Phase.ERROR)


class Order(enum.Enum):
    """How two floats compare; exactly one of these holds, and ``UNORDERED`` exactly if one of them is NaN."""

    AT_MOST = "<="
    ABOVE = ">"
    UNORDERED = "NaN"


class Backing(enum.Enum):
    """What stands behind an output."""

    NOTHING = "nothing"
    COMPARED = "bound <= tolerance"
    ORIGINALS = "originals"


@dataclass(frozen=True)
class Seen:
    """Inputs of one transition.

    Attributes
    ----------
    finite : bool
        q, k and v are finite.
    promoted_readable : bool
        Every original that this pass reads could be read.
    consistent, ranked, bounded : bool
        Outcomes of the monitors.
    bound : Order
        Of the bound to the tolerance.
    tolerance : Order
        Of the tolerance to 0: ``ABOVE`` for a positive one.
    promotable : bool
        There is something left to promote; without it no round is left that could be tried.
    number : bool
        The output holds no NaN.
    layer_dense : bool
        Another head of the layer asks for rung 4.
    """

    finite: bool = True
    promoted_readable: bool = True
    consistent: bool = True
    ranked: bool = True
    bounded: bool = True
    bound: Order = Order.AT_MOST
    tolerance: Order = Order.ABOVE
    promotable: bool = True
    number: bool = True
    layer_dense: bool = False


@dataclass(frozen=True)
class State:
    """A head in its step.

    Attributes
    ----------
    phase : Phase
    rounds_left : int
        Rounds of promotion that may still be tried.
    all_readable : bool
        Whether every original could be read; fixed during a step.
    backing : Backing
        Of the output; ``NOTHING`` as long as there is none.
    last : Seen or None
        What the last decision was based on.
    """

    phase: Phase
    rounds_left: int
    all_readable: bool
    backing: Backing = Backing.NOTHING
    last: Seen | None = None


@dataclass(frozen=True)
class Rules:
    """The transition; each field that is True is a planted mistake."""

    accepts_unordered: bool = False
    skips_missing: bool = False
    refines_without_end: bool = False
    accepts_before_monitors: bool = False
    ranks_before_consistency: bool = False
    returns_nan: bool = False
    gives_up_silently: bool = False


RIGHT = Rules()
BROKEN: dict[str, Rules] = {name: Rules(**{name: True}) for name in Rules.__dataclass_fields__}


def action(seen: Seen, rounds_left: int, rules: Rules = RIGHT) -> Action:
    """Return the ladder's decision, from the order of severity: error, rung 4, rung 3, acceptance, refinement."""
    fits = seen.bound is Order.AT_MOST or (rules.accepts_unordered and seen.bound is not Order.ABOVE)
    positive = seen.tolerance is Order.ABOVE
    if rules.accepts_before_monitors and positive and fits:
        return Action.ACCEPT
    if not seen.finite or not (seen.promoted_readable or rules.skips_missing):
        return Action.ERROR
    if rules.ranks_before_consistency and not (seen.ranked and seen.bounded):
        return Action.EXACT_HEAD
    if not seen.consistent:
        return Action.DENSE
    if not (seen.ranked and seen.bounded):
        return Action.EXACT_HEAD
    if positive and fits:
        return Action.ACCEPT
    if positive and (rounds_left > 0 or rules.refines_without_end):
        return Action.REFINE
    return Action.ACCEPT if rules.gives_up_silently else Action.EXACT_HEAD


def transition(state: State, seen: Seen, rules: Rules = RIGHT) -> State:
    """One step of the machine from a phase that is not a last one."""
    phase, backing, rounds = _next(state, seen, rules)
    if phase in (Phase.BOUNDED, Phase.DENSE) and not seen.number and not rules.returns_nan:
        phase = Phase.ERROR
    if phase is Phase.BOUNDED and seen.layer_dense:
        phase = Phase.READ_LAYER
    last = seen if state.phase is Phase.ATTEND else state.last
    kept = backing if phase in LAST and phase is not Phase.ERROR else Backing.NOTHING
    return State(phase, rounds, state.all_readable, kept, last)


def _next(state: State, seen: Seen, rules: Rules) -> tuple[Phase, Backing, int]:
    readable = state.all_readable or rules.skips_missing
    rounds = state.rounds_left
    if state.phase is Phase.READ_HEAD:
        return (Phase.BOUNDED if readable else Phase.ERROR), Backing.ORIGINALS, rounds
    if state.phase is Phase.READ_LAYER:
        return (Phase.DENSE if readable else Phase.ERROR), Backing.ORIGINALS, rounds
    match action(seen, rounds if seen.promotable else 0, rules):
        case Action.ACCEPT:
            return Phase.BOUNDED, Backing.COMPARED, rounds
        case Action.REFINE:
            return Phase.ATTEND, Backing.NOTHING, max(rounds - 1, 0)
        case Action.EXACT_HEAD:
            return Phase.READ_HEAD, Backing.NOTHING, rounds
        case Action.DENSE:
            return Phase.READ_LAYER, Backing.NOTHING, rounds
        case Action.ERROR:
            return Phase.ERROR, Backing.NOTHING, rounds


def inputs(state: State) -> Iterator[Seen]:
    """Every input that can meet a state; what is in the host tier can be read, so all readable means promoted too."""
    flags = (False, True)
    if state.phase in LAST:
        return
    if state.phase is not Phase.ATTEND:
        for number, dense in itertools.product(flags, (False,) if state.phase is Phase.READ_LAYER else flags):
            yield Seen(number=number, layer_dense=dense)
        return
    promoted = (True,) if state.all_readable else flags
    for values in itertools.product(flags, promoted, flags, flags, flags, Order, Order, flags, flags, flags):
        yield Seen(*values)


def check_state(state: State) -> None:
    """Raise `CheckFailed` in a state that must not be reachable."""
    require(
        state.phase in LAST or state.backing is Backing.NOTHING, "something is called backed before there is an output"
    )
    if state.phase not in (Phase.BOUNDED, Phase.DENSE):
        return
    require(state.backing is not Backing.NOTHING, "an output with nothing behind it")
    agreed = state.last is not None and state.last.consistent
    require(agreed or state.phase is Phase.DENSE, "scores that do not agree, and no rung 4")
    if state.backing is Backing.ORIGINALS:
        require(state.all_readable, "an output from originals of which one is missing")
    else:
        seen = state.last
        require(seen is not None and state.phase is Phase.BOUNDED, "an output that no decision stands behind")
        if seen is not None:
            require(seen.finite and seen.promoted_readable, "an output from an input that is not there")
            require(seen.consistent and seen.ranked and seen.bounded, "a bounded output against a monitor")
            require(seen.bound is Order.AT_MOST, f"a bounded output where bound <= tolerance is {seen.bound.value}")
            require(seen.tolerance is Order.ABOVE, "a bounded output under a tolerance that is not positive")


def search(rounds: int, rules: Rules = RIGHT) -> tuple[Space[State], int]:
    """Explore every step with up to so many rounds; return the space and the longest path.

    Raises
    ------
    CheckFailed
        A state that must not be reached, a state that is not a last one and has no successor, or a path that never
        ends or takes more than ``rounds + 3`` transitions.
    """

    def successors(state: State) -> Iterator[tuple[str, State]]:
        for seen in inputs(state):
            target = transition(state, seen, rules)
            if target.phase in (Phase.BOUNDED, Phase.DENSE):
                require(seen.number, "an output that holds a NaN")
            yield state.phase.value, target

    initial = [State(Phase.ATTEND, r, readable) for r in range(rounds + 1) for readable in (False, True)]
    space = explore(initial, successors, check_state)
    for state, following in space.successors.items():
        require(bool(following) != (state.phase in LAST), f"dead end, or no end, at {state}")
    longest = longest_path(space)
    # the first pass, one for every round, then rung 3, then rung 4 because another head asks for it
    require(longest <= rounds + 3, f"{longest} transitions with {rounds} rounds")
    return space, longest


def order(x: float, y: float) -> Order:
    """How two floats compare."""
    if math.isnan(x) or math.isnan(y):
        return Order.UNORDERED
    return Order.AT_MOST if x <= y else Order.ABOVE


def abstract(observation: Observation) -> Seen:
    """Return what the machine knows of an observation of the code."""
    return Seen(
        finite=observation.finite,
        promoted_readable=observation.originals_present,
        consistent=observation.consistent,
        ranked=observation.ranked,
        bounded=observation.bounded,
        bound=order(observation.bound, observation.tolerance),
        tolerance=order(observation.tolerance, 0.0),
    )
