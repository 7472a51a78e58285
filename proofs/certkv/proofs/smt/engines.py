"""The solvers' own interfaces: SMT-LIB text in, answer out.

Run as a module this is the process that `certkv.proofs.smt.solvers` talks to, one JSON object per line: a solver that
crashes or never comes back takes this process with it and nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Literal

import bitwuzla
import cvc5
import z3

Answer = Literal["unsat", "sat", "unknown", "error"]


def ask_z3(text: str, limit: int) -> tuple[Answer, str]:
    """Ask z3; limit in its resource units."""
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


def ask_cvc5(text: str, limit: int) -> tuple[Answer, str]:
    """Ask cvc5; limit in its resource units, which its nonlinear solver does not always count."""
    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("rlimit", str(limit))
    solver.setOption("produce-models", "true")
    solver.setOption("fp-exp", "true")  # types other than binary32 and binary64
    said: list[str] = []
    try:
        parser = cvc5.InputParser(solver)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "lemma")
        symbols = parser.getSymbolManager()
        while not (command := parser.nextCommand()).isNull():
            if answer := command.invoke(solver, symbols).strip():
                said.append(answer)
        if said == ["sat"]:
            return "sat", ", ".join(f"{x} = {solver.getValue(x)}" for x in symbols.getDeclaredTerms())
    except RuntimeError as error:
        return "error", str(error)
    if said == ["unsat"]:
        return "unsat", ""
    return ("unknown" if said and said[0].startswith("unknown") else "error"), " ".join(said)


def ask_bitwuzla(text: str, limit: int) -> tuple[Answer, str]:
    """Ask bitwuzla; limit in milliseconds, the only one it has."""
    options = bitwuzla.Options()
    options.set(bitwuzla.Option.TIME_LIMIT_PER, limit)
    options.set(bitwuzla.Option.PRODUCE_MODELS, True)
    try:
        parser = bitwuzla.Parser(bitwuzla.TermManager(), options)
        parser.parse(text, True, False)
        solver = parser.bitwuzla()
        result = solver.check_sat()
        if result == bitwuzla.Result.SAT:
            return "sat", ", ".join(f"{x} = {solver.get_value(x)}" for x in parser.get_declared_funs())
    except bitwuzla.BitwuzlaException as error:
        return "error", str(error)
    return ("unsat", "") if result == bitwuzla.Result.UNSAT else ("unknown", "time limit")


ENGINES: dict[str, Callable[[str, int], tuple[Answer, str]]] = {
    "z3": ask_z3,
    "cvc5": ask_cvc5,
    "bitwuzla": ask_bitwuzla,
}


def serve() -> None:
    """Answer requests on standard input until it closes."""
    for line in sys.stdin:
        request = json.loads(line)
        answer, detail = ENGINES[request["solver"]](request["text"], request["limit"])
        sys.stdout.write(json.dumps([answer, detail]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
