"""``python -m certkv.proofs.userformat module:Class``: verify a format of yours and print what became of it."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from certkv.proofs.userformat.report import Report, table
from certkv.proofs.userformat.verify import verify_format
from certkv.proofs.verify.child import Child, LostError
from certkv.proofs.verify.run import START_SECONDS, TASK_SECONDS
from certkv.reference.errors import CertkvError


def load(where: str) -> Any:
    """Import ``module:name``; modules of the current directory count.

    Raises
    ------
    ValueError
        Not of that form, or nothing of that name.
    """
    module, colon, name = where.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"{where!r} is not of the form module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {where!r}: {error}") from error


def serve(pipe: Connection, where: str, blocks: Sequence[int], head_dims: Sequence[int], mutants: bool) -> None:
    """Run in a process of its own, which a format may crash or leave: say what runs, then that it is done."""
    pipe.send(("started", ""))
    try:
        report = verify_format(
            load(where),
            blocks=blocks,
            head_dims=head_dims,
            mutants=mutants,
            progress=lambda what: pipe.send(("running", what)),
        )
    except (ValueError, CertkvError) as error:
        pipe.send(("refused", str(error)))
    except SystemExit:
        pipe.send(("refused", f"{where!r} wants to end the process that imports it"))
    else:
        pipe.send(("done", report))


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one format: 0 if everything holds, 1 if not, 2 if there is no such format."""
    parser = argparse.ArgumentParser(prog="python -m certkv.proofs.userformat", description=__doc__)
    parser.add_argument("format", metavar="module:Class", help="a class with encode and decode, or an object of one")
    parser.add_argument("--blocks", type=_sizes, default=(1, 4, 7), help="tokens per block to try (default: 1,4,7)")
    parser.add_argument("--head-dims", type=_sizes, default=(1, 8, 20), help="head sizes to try (default: 1,8,20)")
    parser.add_argument("--no-mutants", action="store_true", help="only the checks")
    parser.add_argument(
        "--limit",
        type=_seconds,
        default=TASK_SECONDS,
        metavar="SECONDS",
        help="of wall time for each check; one that takes longer fails (default: %(default)g)",
    )
    chosen = parser.parse_args(arguments)
    errors = Console(stderr=True)
    console = Console(width=None if sys.stdout.isatty() else 180)
    running = ""
    child = Child(serve, chosen.format, chosen.blocks, chosen.head_dims, not chosen.no_mutants)
    try:
        with errors.status("verifying") as status:
            child.receive(START_SECONDS)
            what, said = child.receive(chosen.limit)
            while what == "running":
                running = said
                status.update(running)
                what, said = child.receive(chosen.limit)
    except LostError as lost:
        if not running:
            errors.print(f"cannot import {chosen.format!r}: {lost}", style="red", markup=False)
            return 2
        console.print(f"{chosen.format}: FAILED: {running}: {lost}", markup=False)
        return 1
    finally:
        child.end()
    if what != "done":
        errors.print(said, style="red", markup=False)
        return 2
    report: Report = said
    console.print(table(report))
    failed = ", ".join(row.id for row in report.failures)
    console.print(f"{report.name}: {'sound' if report.ok else f'FAILED: {failed}'}")
    return 0 if report.ok else 1


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("give a finite number of seconds above 0")
    return seconds


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError("give sizes of at least 1, separated by commas")
    return sizes


if __name__ == "__main__":
    sys.exit(main())
