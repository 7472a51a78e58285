"""A lemma as data, and its one SMT-LIB text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import z3

LOGICS = ("QF_NRA", "QF_LRA", "QF_BV", "QF_FP", "QF_BVFP")


@dataclass(frozen=True, eq=False)
class Goal:
    """Hypotheses that imply a conclusion, for all values of the free constants.

    Attributes
    ----------
    logic : str
        One of ``LOGICS``.
    hypotheses : sequence of z3.BoolRef
        May be empty.
    conclusion : z3.BoolRef
    """

    logic: str
    hypotheses: Sequence[z3.BoolRef]
    conclusion: z3.BoolRef

    def __post_init__(self) -> None:
        if self.logic not in LOGICS:
            raise ValueError(f"logic {self.logic!r} is not one of {', '.join(LOGICS)}")


@dataclass(frozen=True, eq=False)
class Lemma:
    """A step of a theorem that a solver can check whole.

    Attributes
    ----------
    id : str
        ``stem.name``, the stem being the theorem's.
    statement : str
        One line: words and formula.
    build : callable returning Goal
    broken : callable returning Goal
        The same lemma with a planted mistake (a hypothesis dropped, a conclusion too strong). Every listed solver must
        find a counterexample: a proof procedure that accepts it would accept anything.
    solvers : tuple of str
        All of them must prove it.
    quick : bool
        Whether it belongs to the quick run.
    """

    id: str
    statement: str
    build: Callable[[], Goal]
    broken: Callable[[], Goal]
    solvers: tuple[str, ...] = ("z3", "cvc5")
    quick: bool = True

    def __post_init__(self) -> None:
        if not self.solvers:
            raise ValueError(f"lemma {self.id}: no solver listed, so nothing would be proved")
        if len(set(self.solvers)) < len(self.solvers):
            raise ValueError(f"lemma {self.id}: {', '.join(self.solvers)} lists a solver twice; it counts once")

    @property
    def stem(self) -> str:
        """The theorem that the lemma serves."""
        return self.id.partition(".")[0]


def smtlib(goal: Goal) -> str:
    """Text that is unsatisfiable exactly if the goal holds: hypotheses and the negated conclusion."""
    return _script(goal.logic, [*goal.hypotheses, z3.Not(goal.conclusion)])


def smtlib_hypotheses(goal: Goal) -> str:
    """Text that is satisfiable exactly if the hypotheses are: a lemma from contradictory ones says nothing."""
    return _script(goal.logic, list(goal.hypotheses))


def _script(logic: str, assertions: list[z3.BoolRef]) -> str:
    """SMT-LIB 2 script. z3 prints it, but the text is what every solver reads, z3 included.

    The constants are declared in the order of their names and terms printed one by one, so that the same lemma always
    gives the same text (`z3.Solver.to_smt2` numbers shared terms by what else was built before).
    """
    sorts = {constant.sexpr(): constant.sort().sexpr() for constant in constants(assertions)}
    lines = [f"(set-logic {logic})"]
    lines += [f"(declare-const {name} {sort})" for name, sort in sorted(sorts.items())]
    lines += [f"(assert {assertion.sexpr()})" for assertion in assertions]
    return "\n".join([*lines, "(check-sat)", ""])


def constants(terms: Sequence[z3.ExprRef]) -> list[z3.ExprRef]:
    """Return the free constants of some terms, each once.

    A term that occurs many times is entered once: sharing makes a term's tree exponentially larger than the term.
    """
    found: list[z3.ExprRef] = []
    pending, entered = list(terms), set[int]()
    while pending:
        term = pending.pop()
        if term.get_id() in entered:
            continue
        entered.add(term.get_id())
        pending.extend(term.children())
        if z3.is_const(term) and term.decl().kind() == z3.Z3_OP_UNINTERPRETED:
            found.append(term)
    return found
