"""Ask a solver about a text, in a process of its own, with two limits.

The first limit counts the solver's steps (z3, cvc5; bitwuzla only knows time), so that a proof that passes here passes
on a slow machine too. The second is wall time, because cvc5's nonlinear solver can spend hours without counting a
step: the process is then ended. Whatever meets a limit is ``unknown``, and that is a failure.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import bitwuzla
import cvc5
import z3

from certkv.proofs.smt.engines import ENGINES, Answer

SOLVERS = tuple(ENGINES)

LIMITS = {"z3": 1_000_000_000, "cvc5": 100_000_000, "bitwuzla": 600_000}
"""Largest effort per check: z3 and cvc5 resource units, bitwuzla milliseconds."""

WALL_SECONDS = 600.0
"""Wall time after which a check is given up."""


@dataclass(frozen=True)
class Outcome:
    """What a solver said.

    Attributes
    ----------
    answer : {"unsat", "sat", "unknown", "error"}
    seconds : float
        Wall time, parsing included.
    detail : str
        Values of the constants for "sat", the reason for "unknown", the message for "error".
    """

    answer: Answer
    seconds: float
    detail: str = ""


class _Engines:
    """The process that runs the solvers; started when needed, again after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, text: str, solver: str, limit: int, wall: float) -> tuple[Answer, str]:
        """One question, one answer."""
        with self._lock:
            process = self._running()
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the solvers' process has no pipes")
            expired = threading.Event()

            def end() -> None:
                expired.set()
                process.kill()

            timer = threading.Timer(wall, end)
            timer.start()
            try:
                process.stdin.write(json.dumps({"text": text, "solver": solver, "limit": limit}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            except BaseException:
                # an answer may still be on its way, and the next question must not get it
                self._close()
                raise
            finally:
                timer.cancel()
            if line:
                answer, detail = json.loads(line)
                return answer, detail
            self._close()
        if expired.is_set():
            return "unknown", f"ended after {wall:g} s of wall time"
        return "error", f"{solver} took its process down"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "certkv.proofs.smt.engines"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            atexit.register(self._close)
        return self._process

    def _close(self) -> None:
        """End the process and reap it."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()
            atexit.unregister(self._close)


_ENGINES = _Engines()


def solve(text: str, solver: str, limit: int | None = None, wall: float = WALL_SECONDS) -> Outcome:
    """Ask one solver about one SMT-LIB text with one ``(check-sat)``.

    Parameters
    ----------
    text : str
    solver : str
        One of ``SOLVERS``.
    limit : int, optional
        Effort in the solver's unit; default ``LIMITS[solver]``.
    wall : float
        Seconds of wall time after which the solver's process is ended.

    Returns
    -------
    Outcome
        Never raises for what the text contains: that is the answer "error".

    Raises
    ------
    ValueError
        If there is no such solver.
    """
    if solver not in ENGINES:
        raise ValueError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
    if text.count("(check-sat)") != 1:
        return Outcome("error", 0.0, "the text must have exactly one (check-sat)")
    start = time.perf_counter()
    answer, detail = _ENGINES.ask(text, solver, LIMITS[solver] if limit is None else limit, wall)
    return Outcome(answer, time.perf_counter() - start, detail)


def versions() -> dict[str, str]:
    """Version of every solver, as it reports itself."""
    return {
        "z3": str(z3.get_version_string()),
        "cvc5": str(cvc5.__version__),
        "bitwuzla": str(bitwuzla.version()),
    }
