"""The solvers, each fed the same SMT-LIB text through its own parser.

Limits count steps of the solver where it can (z3, cvc5), so that a proof that passes here passes on a slow machine too;
bitwuzla only knows a time per check. Whatever runs into a limit is ``unknown``, and that is a failure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import bitwuzla
import cvc5
import z3

Answer = Literal["unsat", "sat", "unknown", "error"]


@dataclass(frozen=True)
class Outcome:
    """What a solver said.

    Attributes
    ----------
    answer : {"unsat", "sat", "unknown", "error"}
    seconds : float
        Wall time, parsing included.
    detail : str
        Values of the constants for "sat" where the solver gives them, the reason for "unknown", the message for
        "error".
    """

    answer: Answer
    seconds: float
    detail: str = ""


LIMITS = {"z3": 1_000_000_000, "cvc5": 100_000_000, "bitwuzla": 600_000}
"""Largest effort per check: z3 and cvc5 resource units, bitwuzla milliseconds."""


def _z3(text: str, limit: int) -> tuple[Answer, str]:
    logic = re.search(r"\(set-logic (\w+)\)", text)
    context = z3.Context()
    solver = z3.SolverFor(logic.group(1), ctx=context) if logic else z3.Solver(ctx=context)
    solver.set("rlimit", limit)
    try:
        solver.from_string(text)
        result = solver.check()
    except z3.Z3Exception as error:
        return "error", str(error)
    if result == z3.sat:
        return "sat", " ".join(str(solver.model()).split())
    return ("unsat", "") if result == z3.unsat else ("unknown", solver.reason_unknown())


def _cvc5(text: str, limit: int) -> tuple[Answer, str]:
    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("rlimit", str(limit))
    solver.setOption("produce-models", "true")
    solver.setOption("fp-exp", "true")  # types other than binary32 and binary64
    answers: list[str] = []
    try:
        parser = cvc5.InputParser(solver)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "lemma")
        symbols = parser.getSymbolManager()
        while not (command := parser.nextCommand()).isNull():
            answers.append(command.invoke(solver, symbols).strip())
        said = [answer for answer in answers if answer]
        if said == ["sat"]:
            return "sat", ", ".join(f"{x} = {solver.getValue(x)}" for x in symbols.getDeclaredTerms())
    except RuntimeError as error:
        return "error", str(error)
    if said == ["unsat"]:
        return "unsat", ""
    return ("unknown" if said and said[0].startswith("unknown") else "error"), " ".join(said)


def _bitwuzla(text: str, limit: int) -> tuple[Answer, str]:
    options = bitwuzla.Options()
    options.set(bitwuzla.Option.TIME_LIMIT_PER, limit)
    options.set(bitwuzla.Option.PRODUCE_MODELS, True)
    manager = bitwuzla.TermManager()
    try:
        parser = bitwuzla.Parser(manager, options)
        parser.parse(text, True, False)
        solver = parser.bitwuzla()
        result = solver.check_sat()
        if result == bitwuzla.Result.SAT:
            return "sat", ", ".join(f"{x} = {solver.get_value(x)}" for x in parser.get_declared_funs())
    except bitwuzla.BitwuzlaException as error:
        return "error", str(error)
    return ("unsat", "") if result == bitwuzla.Result.UNSAT else ("unknown", "time limit")


_RUN: dict[str, Callable[[str, int], tuple[Answer, str]]] = {"z3": _z3, "cvc5": _cvc5, "bitwuzla": _bitwuzla}

SOLVERS = tuple(_RUN)


def solve(text: str, solver: str, limit: int | None = None) -> Outcome:
    """Ask one solver about one SMT-LIB text with one ``(check-sat)``.

    Parameters
    ----------
    text : str
    solver : str
        One of ``SOLVERS``.
    limit : int, optional
        Effort in the solver's unit; default ``LIMITS[solver]``.

    Returns
    -------
    Outcome
        Never raises for what the text contains: that is the answer "error".

    Raises
    ------
    ValueError
        If there is no such solver.
    """
    if solver not in _RUN:
        raise ValueError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
    start = time.perf_counter()
    if text.count("(check-sat)") != 1:
        return Outcome("error", 0.0, "the text must have exactly one (check-sat)")
    answer, detail = _RUN[solver](text, LIMITS[solver] if limit is None else limit)
    return Outcome(answer, time.perf_counter() - start, detail)


def versions() -> dict[str, str]:
    """Version of every solver, as it reports itself."""
    return {
        "z3": str(z3.get_version_string()),
        "cvc5": str(cvc5.__version__),
        "bitwuzla": str(bitwuzla.version()),
    }
