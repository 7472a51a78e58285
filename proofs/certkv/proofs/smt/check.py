"""Prove lemmas, show that their hypotheses can be met, and refute their broken variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from certkv.proofs.smt.engines import Answer
from certkv.proofs.smt.lemma import Goal, Lemma, smtlib, smtlib_hypotheses
from certkv.proofs.smt.solvers import Outcome, solve

Question = Literal["proof", "hypotheses", "broken"]

WANTED: dict[Question, Answer] = {"proof": "unsat", "hypotheses": "sat", "broken": "sat"}


@dataclass(frozen=True)
class ProofResult:
    """One question about one lemma, put to one solver.

    Attributes
    ----------
    lemma : str
        Its id.
    question : {"proof", "hypotheses", "broken"}
        Negated lemma, hypotheses alone, negated broken variant.
    solver : str
    outcome : Outcome
    """

    lemma: str
    question: Question
    solver: str
    outcome: Outcome

    @property
    def ok(self) -> bool:
        """Whether the solver gave the one answer that counts; ``unknown`` and ``error`` never do."""
        return self.outcome.answer == WANTED[self.question]


def prove(lemma: Lemma, limit: int | None = None) -> list[ProofResult]:
    """Put the lemma to every listed solver, and its hypotheses to them in turn until one finds values.

    Parameters
    ----------
    lemma : Lemma
    limit : int, optional
        See `certkv.proofs.smt.solvers.solve`.

    Returns
    -------
    list of ProofResult
        One per solver, then one for the hypotheses: that of the first solver that met them, or of the last that
        tried. The lemma is proved if all are ``ok``.
    """
    goal, failure = _built(lemma.build)
    if goal is None:
        return [ProofResult(lemma.id, "proof", solver, failure) for solver in lemma.solvers]
    text = smtlib(goal)
    proofs = [ProofResult(lemma.id, "proof", solver, solve(text, solver, limit)) for solver in lemma.solvers]
    return [*proofs, _meet(lemma, smtlib_hypotheses(goal), limit)]


def refute_broken(lemma: Lemma, limit: int | None = None) -> list[ProofResult]:
    """Put the broken variant to every listed solver; each must find a counterexample. Parameters as in `prove`."""
    goal, failure = _built(lemma.broken)
    if goal is None:
        return [ProofResult(lemma.id, "broken", solver, failure) for solver in lemma.solvers]
    text = smtlib(goal)
    return [ProofResult(lemma.id, "broken", solver, solve(text, solver, limit)) for solver in lemma.solvers]


def _meet(lemma: Lemma, text: str, limit: int | None) -> ProofResult:
    """First solver that finds values for the hypotheses, or the last one's answer."""
    results = (ProofResult(lemma.id, "hypotheses", solver, solve(text, solver, limit)) for solver in lemma.solvers)
    for result in results:
        if result.ok:
            break
    return result


def _built(build: Callable[[], Goal]) -> tuple[Goal | None, Outcome]:
    """Build a goal; an error in building is an outcome, so that one bad lemma does not hide the others."""
    try:
        return build(), Outcome("error", 0.0)
    except Exception as error:  # noqa: BLE001 - whatever it is, the lemma failed and the table says why
        return None, Outcome("error", 0.0, f"{type(error).__name__}: {error}")
