"""Verify a format in a process of its own, which the format may crash or leave, and print what became of it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from certkv.proofs.userformat.report import Report, Row, table, verdict
from certkv.proofs.userformat.verify import CHECKS, verify_format
from certkv.proofs.verify.child import Child, LostError
from certkv.proofs.verify.run import START_SECONDS, TASK_SECONDS
from certkv.reference.errors import CertkvError, SettingError


def load(where: str) -> Any:
    """Import ``module:name``; modules of the current directory count.

    Raises
    ------
    SettingError
        Not of that form, or nothing of that name.
    """
    module, colon, name = where.partition(":")
    if not colon or not module or not name:
        raise SettingError(f"{where!r} is not of the form module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"cannot import {where!r}: {error}") from error


def serve(
    pipe: Connection, where: str, blocks: Sequence[int] | None, head_dims: Sequence[int] | None, mutants: bool
) -> None:
    """Run in the process: say what runs, what came of it, then that all is done."""
    pipe.send(("started", ""))
    try:
        report = verify_format(
            load(where),
            blocks=blocks,
            head_dims=head_dims,
            mutants=mutants,
            progress=lambda what: pipe.send(("running", what)),
            finished=lambda row: pipe.send(("finished", row)),
        )
    except CertkvError as error:
        pipe.send(("refused", str(error)))
    except SystemExit:
        pipe.send(("refused", f"{where!r} wants to end the process that imports it"))
    else:
        pipe.send(("done", report))


def verify_in_process(
    where: str,
    blocks: Sequence[int] | None = None,
    head_dims: Sequence[int] | None = None,
    *,
    mutants: bool = True,
    limit: float = TASK_SECONDS,
) -> Report:
    """Verify ``module:Class``; a format that ends its process, or takes more than ``limit`` seconds, fails a check.

    Raises
    ------
    SettingError
        There is no such format.
    """
    rows: list[Row] = []
    running, begun = "", time.perf_counter()
    child = Child(serve, where, blocks, head_dims, mutants)
    try:
        with Console(stderr=True).status("verifying") as status:
            child.receive(START_SECONDS)
            while True:
                what, said = child.receive(limit)
                if what == "done":
                    report: Report = said
                    return report
                if what == "refused":
                    raise SettingError(said)
                if what == "finished":
                    rows.append(said)
                else:
                    running, begun = said, time.perf_counter()
                    status.update(running)
    except LostError as lost:
        if not running:
            raise SettingError(f"cannot import {where!r}: {lost}") from lost
        kind: Literal["check", "mutant"] = "check" if running in {check.id for check in CHECKS} else "mutant"
        detail = f"{lost}; what would have come next was not run"
        rows.append(Row(kind, running, "the process answers", "fail", detail, time.perf_counter() - begun))
        return Report(where, where, "not all of what was asked for", tuple(rows))
    finally:
        child.end()


def show(report: Report) -> None:
    """Print the table and the verdict."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(report))
    for row in report.failures:
        console.print(f"FAILED {row.id}: {row.detail}", markup=False, highlight=False, soft_wrap=True)
    console.print(verdict(report), markup=False, highlight=False, soft_wrap=True)


def sizes(text: str) -> tuple[int, ...]:
    """Read sizes separated by commas.

    Raises
    ------
    SettingError
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise SettingError(f"{text!r} are no sizes; give sizes of at least 1, separated by commas")
    return found
