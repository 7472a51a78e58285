"""What a theorem is: a statement, its hypotheses, what relies on it, and the evidence that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["smt", "exhaustive", "enclosure", "paper", "model"]
KINDS: dict[Kind, str] = {
    "smt": "proved by solvers from one SMT-LIB text: exactly `unsat` for the negation, from every solver listed",
    "exhaustive": "checked for every input there is",
    "enclosure": "checked with interval arithmetic over seeded inputs, corners included",
    "model": "a state machine searched to its last reachable state, and compared with the code event by event",
    "paper": "a derivation in the documentation, for what no solver can state (any N, any d)",
}


@dataclass(frozen=True)
class Theorem:
    """One claim that a certificate rests on.

    Attributes
    ----------
    id : str
        The stem: also the name of its derivation page, its file in the reference, and its solver lemmas.
    title, statement, formula : str
        In a few words, in a sentence, in symbols.
    hypotheses : tuple of str
        What must be true for the statement; empty where nothing must.
    relied_on_by : tuple of str
        Dotted names of the code that is unsound without it.
    source : str
        Where it comes from.
    reference, test : str
        Paths of the executable statement and of its test, from the root of the project.
    """

    id: str
    title: str
    statement: str
    formula: str
    hypotheses: tuple[str, ...]
    relied_on_by: tuple[str, ...]
    source: str
    reference: str
    test: str
