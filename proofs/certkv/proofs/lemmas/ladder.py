"""`ladder`: every step ends in a bounded output, a dense output or an error, and a NaN never in a bounded one.

The machine is `certkv.proofs.contract.ladder_terms`. Bounds and tolerances are IEEE floats: their comparisons are the
code's, NaN, infinities and signed zeros included. A step is one transition from an arbitrary state that satisfies the
invariant, so the conclusions hold after any number of them, for any number of rounds up to
`certkv.reference.ladder.MAX_ROUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import z3

from certkv.proofs.contract import ladder_terms as machine
from certkv.proofs.contract.ladder_model import BROKEN, RIGHT, Phase, Rules
from certkv.proofs.contract.ladder_terms import ACTIONS, PHASES, rounds_constant, seen_terms, state_terms
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.reference.ladder import Action

LOGIC = "QF_BVFP"


def _decided(wanted: Action, suffix: str = "", rules: Rules = RIGHT) -> z3.BoolRef:
    rounds = rounds_constant(suffix)
    return machine.action(seen_terms(suffix), rounds, rules) == ACTIONS[wanted]


def _accept(rules: Rules, bits: int = 64) -> Goal:
    seen = seen_terms(sort=z3.Float64() if bits == 64 else z3.Float32())
    accepted = machine.action(seen, rounds_constant(), rules) == ACTIONS[Action.ACCEPT]
    return Goal(LOGIC, [accepted], machine.acceptable(seen))


def _order(strict: bool) -> Goal:
    """Compare two floats in the three possible ways, as IEEE predicates."""
    seen = seen_terms()
    b, t = seen.bound, seen.tolerance
    nan = z3.Or(z3.fpIsNaN(b), z3.fpIsNaN(t))
    at_most = z3.fpLT(b, t) if strict else z3.fpLEQ(b, t)
    above = z3.fpGT(b, t)
    one = z3.And(z3.Or(at_most, above, nan), *(z3.Not(z3.And(x, y)) for x, y in ((at_most, above), (at_most, nan))))
    return Goal(LOGIC, [], z3.And(one, z3.Not(z3.And(above, nan))))


def _abstraction(same_order: bool) -> Goal:
    """Two observations that agree in flags and orders get the same action, whatever the numbers."""
    one, other = seen_terms("_1"), seen_terms("_2")
    rounds = rounds_constant()
    equal = [one.flags[name] == other.flags[name] for name in one.flags]
    equal.append(machine.positive(one) == machine.positive(other))
    if same_order:
        equal.append(machine.fits(one) == machine.fits(other))
    return Goal(LOGIC, equal, machine.action(one, rounds) == machine.action(other, rounds))


def _severity(rules: Rules) -> Goal:
    """One more check that fails never makes the answer milder. Actions are numbered by severity."""
    good, bad = seen_terms("_1"), seen_terms("_2")
    rounds = rounds_constant()
    worse = [z3.Implies(bad.flags[name], good.flags[name]) for name in good.flags]
    same = [good.bound == bad.bound, good.tolerance == bad.tolerance]
    fewer = z3.ULE(machine.action(good, rounds, rules), machine.action(bad, rounds, rules))
    return Goal(LOGIC, [*worse, *same], fewer)


def _zero(strict: bool) -> Goal:
    """Take a tolerance of 0, of either sign, or below."""
    seen = seen_terms()
    zero = z3.FPVal(0.0, z3.Float64())
    low = z3.fpLEQ(seen.tolerance, zero)
    hypotheses = [low] if strict else []
    return Goal(LOGIC, hypotheses, z3.Not(z3.Or(_decided(Action.ACCEPT), _decided(Action.REFINE))))


def _infinite(finite: bool) -> Goal:
    """Let no infinite bound pass a finite tolerance."""
    seen = seen_terms()
    t = seen.tolerance
    hypotheses = [_decided(Action.ACCEPT), *([z3.Not(z3.fpIsInf(t))] if finite else [])]
    return Goal(LOGIC, hypotheses, z3.fpLT(seen.bound, z3.fpPlusInfinity(z3.Float64())))


def _last_round(rules: Rules) -> Goal:
    return Goal(LOGIC, [rounds_constant() == 0], z3.Not(_decided(Action.REFINE, rules=rules)))


def _consistent(nan_passes: bool) -> Goal:
    """Put a NaN anywhere into the monitor ``|s_exact - s_coded| <= Delta + guard``."""
    exact, coded, delta, guard = (z3.FP(name, z3.Float64()) for name in ("exact", "coded", "delta", "guard"))
    rne = z3.RNE()
    apart, slack = z3.fpAbs(z3.fpSub(rne, exact, coded)), z3.fpAdd(rne, delta, guard)
    holds = z3.Not(z3.fpGT(apart, slack)) if nan_passes else z3.fpLEQ(apart, slack)
    numbers = [z3.Not(z3.fpIsNaN(x)) for x in (exact, coded, delta, guard)]
    return Goal("QF_FP", [holds], z3.And(numbers))


def _boundary(nan_passes: bool) -> Goal:
    """Put a NaN anywhere into the monitor ``l_b + Delta <= l_(r)``."""
    mass, delta, weakest = (z3.FP(name, z3.Float64()) for name in ("mass", "delta", "weakest"))
    total = z3.fpAdd(z3.RNE(), mass, delta)
    holds = z3.Not(z3.fpGT(total, weakest)) if nan_passes else z3.fpLEQ(total, weakest)
    return Goal("QF_FP", [holds], z3.And([z3.Not(z3.fpIsNaN(x)) for x in (mass, delta, weakest)]))


def _start(backed: bool) -> Goal:
    """Start a step in a state of the invariant."""
    state = state_terms()
    hypotheses = [state.phase == PHASES[Phase.ATTEND], *([state.backing == 0] if backed else [])]
    return Goal(LOGIC, hypotheses, machine.invariant(state))


def _kept(rules: Rules, part: str) -> Goal:
    """Keep one part of the invariant, given all of it."""
    state, seen = state_terms(), seen_terms()
    after, equations = machine.named_transition(state, seen, rules)
    return Goal(LOGIC, [machine.invariant(state), *equations], machine.invariant_parts(after)[part])


def _ends(rules: Rules) -> Goal:
    state, seen = state_terms(), seen_terms()
    after, equations = machine.named_transition(state, seen, rules)
    running = [machine.invariant(state), machine.is_running(state), *equations]
    return Goal(LOGIC, running, z3.ULT(machine.rank(after), machine.rank(state)))


def _rank_zero(complete: bool) -> Goal:
    """Rank 0 is the end: an output or an error."""
    state = state_terms()
    ends = [machine.is_output(state.phase), *([state.phase == PHASES[Phase.ERROR]] if complete else [])]
    return Goal(LOGIC, [machine.invariant(state), machine.rank(state) == 0], z3.Or(ends))


def _missing(rules: Rules) -> Goal:
    """Follow a read that fails by an error and nothing else."""
    state, seen = state_terms(), seen_terms()
    reading = z3.Or(state.phase == PHASES[Phase.READ_HEAD], state.phase == PHASES[Phase.READ_LAYER])
    attending = z3.And(state.phase == PHASES[Phase.ATTEND], z3.Not(seen.flags["promoted_readable"]))
    fails = z3.Or(attending, z3.And(reading, z3.Not(state.all_readable)))
    after, equations = machine.named_transition(state, seen, rules)
    return Goal(LOGIC, [machine.invariant(state), fails, *equations], after.phase == PHASES[Phase.ERROR])


def _nan(rules: Rules) -> Goal:
    """Return nothing that a pass computed whose bound or tolerance is NaN."""
    state, seen = state_terms(), seen_terms()
    nan = z3.Or(z3.fpIsNaN(seen.bound), z3.fpIsNaN(seen.tolerance))
    after, equations = machine.named_transition(state, seen, rules)
    return Goal(LOGIC, [state.phase == PHASES[Phase.ATTEND], nan, *equations], z3.Not(machine.is_output(after.phase)))


def _stays(ended: bool) -> Goal:
    """Nothing follows an end."""
    state, seen = state_terms(), seen_terms()
    after, equations = machine.named_transition(state, seen)
    ends = [z3.Not(machine.is_running(state))] if ended else []
    return Goal(LOGIC, [machine.invariant(state), *ends, *equations], after.phase == state.phase)


def _lemma(name: str, statement: str, build: Callable[[Rules], Goal], mistake: str) -> Lemma:
    """Make a lemma whose broken variant is the same goal for a machine with a planted mistake."""
    return Lemma(f"ladder.{name}", statement, partial(build, RIGHT), partial(build, BROKEN[mistake]))


LEMMAS = (
    _lemma(
        "accepts_only_what_held",
        "ACCEPT ==> every check held, no NaN, 0 < tolerance, bound <= tolerance (binary64)",
        _accept,
        "accepts_unordered",
    ),
    Lemma(
        "ladder.accepts_only_what_held_in_fp32",
        "the same with binary32 numbers, as a kernel compares them",
        partial(_accept, RIGHT, 32),
        partial(_accept, BROKEN["accepts_unordered"], 32),
    ),
    Lemma(
        "ladder.order",
        "exactly one of x <= y, x > y, NaN holds for any two binary64 numbers",
        partial(_order, strict=False),
        partial(_order, strict=True),
    ),
    Lemma(
        "ladder.abstraction",
        "the action depends on the numbers only through 0 < tolerance and bound <= tolerance",
        partial(_abstraction, same_order=True),
        partial(_abstraction, same_order=False),
    ),
    _lemma(
        "severity",
        "one more failed check never makes the action milder: ACCEPT < REFINE < EXACT_HEAD < DENSE < ERROR",
        _severity,
        "ranks_before_consistency",
    ),
    Lemma(
        "ladder.zero_tolerance",
        "tolerance <= 0 (or -0) ==> neither ACCEPT nor REFINE",
        partial(_zero, strict=True),
        partial(_zero, strict=False),
    ),
    Lemma(
        "ladder.infinite_bound",
        "ACCEPT under a finite tolerance ==> bound < inf",
        partial(_infinite, finite=True),
        partial(_infinite, finite=False),
    ),
    _lemma("last_round", "no rounds left ==> no REFINE", _last_round, "refines_without_end"),
    Lemma(
        "ladder.score_consistency",
        "|s - s'| <= Delta + guard in binary64 ==> none of the four is NaN",
        partial(_consistent, nan_passes=False),
        partial(_consistent, nan_passes=True),
    ),
    Lemma(
        "ladder.boundary",
        "l + Delta <= l_(r) in binary64 ==> none of the three is NaN",
        partial(_boundary, nan_passes=False),
        partial(_boundary, nan_passes=True),
    ),
    Lemma(
        "ladder.starts",
        "a step starts in a state of the invariant",
        partial(_start, backed=True),
        partial(_start, backed=False),
    ),
    _lemma(
        "invariant_backed",
        "every transition from the invariant keeps its first part: what stands behind an output, and was read",
        partial(_kept, part="backed"),
        "skips_missing",
    ),
    _lemma(
        "invariant_no_nan",
        "every transition from the invariant keeps its second part: an output holds no NaN",
        partial(_kept, part="no_nan"),
        "returns_nan",
    ),
    _lemma(
        "invariant_compared",
        "every transition from the invariant keeps its third part: a compared output is bounded, and its bound met",
        partial(_kept, part="compared"),
        "gives_up_silently",
    ),
    _lemma(
        "ends",
        "every transition of a running step lowers the rank, rounds_left + 3 at its start",
        _ends,
        "refines_without_end",
    ),
    Lemma(
        "ladder.last_phases",
        "rank 0 ==> bounded output, dense output or error",
        partial(_rank_zero, complete=True),
        partial(_rank_zero, complete=False),
    ),
    _lemma("missing_is_an_error", "an original that is read and missing ==> error, next", _missing, "skips_missing"),
    _lemma("nan_is_not_returned", "NaN in bound or tolerance ==> no output from this pass", _nan, "accepts_unordered"),
    Lemma(
        "ladder.end_is_final",
        "no transition leaves an output or an error",
        partial(_stays, ended=True),
        partial(_stays, ended=False),
    ),
)
