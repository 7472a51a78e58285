"""Progress on standard error: a bar on a terminal, elsewhere a line now and then. Nothing for what is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from certkv.cli.measure import Tick

LINE_SECONDS = 10.0
"""Time between two lines where standard error is no terminal; a run that is shorter prints none."""


@contextmanager
def progress(total: int, unit: str, quiet: bool = False) -> Iterator[Tick]:
    """Show how far a run is while the ``with`` block runs.

    Parameters
    ----------
    total : int
        Number of units to do.
    unit : str
        Their name, in the plural.
    quiet : bool
        Show nothing.

    Yields
    ------
    Tick
    """
    console = Console(file=sys.stderr)
    if quiet:
        yield lambda what, steps: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("starting", total=total)
            yield lambda what, steps: bar.update(task, description=what, advance=steps)
    else:
        yield _lines(total, unit)


def _lines(total: int, unit: str) -> Tick:
    done, last = 0, time.monotonic()

    def tick(what: str, steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done} of {total} {unit}", file=sys.stderr, flush=True)

    return tick
