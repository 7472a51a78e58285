"""``python -m certkv.proofs.contract``: search both machines, drive the reference beside them, plant mistakes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from rich.console import Console
from rich.progress import track
from rich.table import Table

from certkv.proofs.contract.models import MODELS
from certkv.proofs.contract.planted import PLANTED
from certkv.proofs.contract.stateful import run
from certkv.proofs.mutants.model import CheckFailed

EXAMPLES = 100
"""Histories of the unchanged reference, and at most so many for each planted mistake."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was searched, driven and found; 1 if anything fails or a planted mistake is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m certkv.proofs.contract", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="histories to drive (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    table = Table("what", "found", "s", expand=True)
    failures = 0
    for what, wanted, call in track(_tasks(chosen.examples), console=Console(stderr=True), transient=True):
        start = time.perf_counter()
        try:
            found, good = call(), not wanted
        except CheckFailed as failure:
            found, good = str(failure).splitlines()[0][:160], wanted
        failures += not good
        table.add_row(what, found, f"{time.perf_counter() - start:.1f}", style="" if good else "red")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, markup=False)
    console.print(f"{failures} failures")
    return 1 if failures else 0


def _tasks(examples: int) -> list[tuple[str, bool, Callable[[], str]]]:
    """List (what, whether it must fail, call)."""

    def searched(call: Callable[[], tuple[int, int]]) -> Callable[[], str]:
        return lambda: "{} states, {} transitions, nothing broken".format(*call())

    tasks: list[tuple[str, bool, Callable[[], str]]] = []
    for model in MODELS:
        tasks.append((model.id, False, searched(model.run)))
        tasks += [(f"  {mistake}", True, searched(call)) for mistake, call in model.broken.items()]
    tasks.append(("reference beside the machines", False, partial(_drive, examples)))
    tasks += [(f"  {what}", True, partial(_drive, examples, plant)) for what, plant in PLANTED.items()]
    return tasks


def _drive(examples: int, plant: Callable[[], AbstractContextManager[None]] = nullcontext) -> str:
    with plant():
        run(examples, 20)
    return f"{examples} histories, no difference"


if __name__ == "__main__":
    sys.exit(main())
