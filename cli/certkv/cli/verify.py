"""``certkv verify``: check every proof again, and say what holds."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from certkv.cli.progress import progress
from certkv.cli.report import console
from certkv.cli.writer import require_writable, strict, write
from certkv.reference import InputError

if TYPE_CHECKING:
    from certkv.cli.parser import Subparsers

NOT_PROVED = 1
NEEDED = "certkv verify needs the solvers and Hypothesis: pip install 'certkv[proofs]'"


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="check every proof again: solvers, exhaustive checks, adversary's corpus, campaign, planted mistakes",
        description="Check every piece of evidence for every theorem again. Exit code 0: everything is proved; 1: "
        "anything else, unknown and timeouts included; 2: wrong arguments.",
    )
    parser.add_argument("--quick", action="store_true", help="leave out what is slow; under a minute on two idle cores")
    parser.add_argument(
        "--mutants",
        action="store_true",
        help="plant every known defect in the reference instead, and print the kill table",
    )
    parser.add_argument("--format", metavar="MODULE:CLASS", help="verify a format of your own instead")
    parser.add_argument(
        "--blocks",
        metavar="SIZES",
        help="with --format: tokens per block to try, as 16,32 (default: 1,4,7,64); its default_block is always tried",
    )
    parser.add_argument("--head-dims", metavar="SIZES", help="with --format: head sizes to try (default: 1,8,20,64)")
    parser.add_argument("--only", nargs="+", metavar="THEOREM", help="only the evidence of these theorems")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default %(default)s)")
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="of wall time for each task (with --format: each check); one that takes longer fails (default 900)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every task or check, and its outcome")
    parser.add_argument("--junit", type=Path, metavar="OUT", help="write the same as JUnit XML")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what was asked for.

    Raises
    ------
    InputError
        Wrong arguments, or the packages of the extra ``proofs`` are not installed.
    """
    try:
        import bitwuzla  # noqa: F401
        import cvc5  # noqa: F401
        import hypothesis  # noqa: F401
        import z3  # noqa: F401
    except ImportError as missing:
        raise InputError(NEEDED) from missing
    alone = next((name for name in ("mutants", "format") if getattr(arguments, name)), None)
    others = ["mutants", "format", "only", "quick"]
    others += ["json", "junit"] if alone == "mutants" else []
    beside = [name for name in others if name != alone and getattr(arguments, name)]
    sizes = next((name for name in ("blocks", "head_dims") if getattr(arguments, name) is not None), None)
    if arguments.limit is not None and not 0 < arguments.limit < math.inf:
        raise InputError(f"--limit is {arguments.limit:g}; give a finite number of seconds above 0")
    if alone and beside:
        raise InputError(f"--{alone} runs alone; leave out --{beside[0]}")
    if arguments.mutants and arguments.limit is not None:
        raise InputError("--mutants runs alone; leave out --limit")
    if sizes and not arguments.format:
        raise InputError(f"--{sizes.replace('_', '-')} is for a format of your own; give --format too")
    if arguments.mutants:
        from certkv.proofs.mutants.__main__ import main as kill_table

        return kill_table()
    if arguments.format:
        return verify_format(arguments)
    return verify(arguments)


def verify_format(arguments: argparse.Namespace) -> int:
    """Verify a format of the user's, and print and write what became of it."""
    from certkv.proofs.userformat.command import show, sizes, verify_in_process
    from certkv.proofs.userformat.report import as_json, as_junit
    from certkv.proofs.verify.run import TASK_SECONDS

    blocks, head_dims = (None if text is None else sizes(text) for text in (arguments.blocks, arguments.head_dims))
    limit = TASK_SECONDS if arguments.limit is None else arguments.limit
    for option, path in (("--json", arguments.json), ("--junit", arguments.junit)):
        if path:
            require_writable(option, path)
    begun = time.perf_counter()
    report = verify_in_process(arguments.format, blocks, head_dims, limit=limit)
    show(report)
    settings = {
        "format": arguments.format,
        "blocks": blocks,
        "head_dims": head_dims,
        "limit": limit,
        "seconds": time.perf_counter() - begun,
    }
    if arguments.json:
        write("--json", arguments.json, json.dumps(strict(as_json(report, settings)), indent=1).encode())
    if arguments.junit:
        write("--junit", arguments.junit, as_junit(report).encode())
    return 0 if report.ok else NOT_PROVED


def verify(arguments: argparse.Namespace) -> int:
    """Check the evidence and print the table."""
    from certkv.proofs.registry import KINDS, THEOREMS
    from certkv.proofs.verify.manifest import differences
    from certkv.proofs.verify.report import as_json, as_junit, is_planted, table, versions
    from certkv.proofs.verify.run import TASK_SECONDS, run_tasks
    from certkv.proofs.verify.tasks import all_tasks

    known = [theorem.id for theorem in THEOREMS]
    unknown = [name for name in arguments.only or [] if name not in known]
    if unknown:
        raise InputError(f"--only {unknown[0]} is no theorem; give some of {', '.join(known)}")
    if arguments.jobs < 1:
        raise InputError(f"--jobs is {arguments.jobs}; give at least 1")
    for option, path in (("--json", arguments.json), ("--junit", arguments.junit)):
        if path:
            require_writable(option, path)
    begun = time.perf_counter()
    everything = all_tasks()
    missing = differences(everything)
    asked = [task for task in everything if not arguments.only or task.theorem in arguments.only]
    tasks = [task for task in asked if task.quick or not arguments.quick]
    left_out = [(task, "--only does not name its theorem") for task in everything if task not in asked]
    left_out += [(task, "slow: --quick leaves it out") for task in asked if task not in tasks]
    limit = TASK_SECONDS if arguments.limit is None else arguments.limit
    findings = []
    with progress(len(tasks), "tasks") as tick:
        for task, finding in run_tasks(tasks, arguments.jobs, all_tasks, limit):
            findings.append((task, finding))
            tick(task.theorem, 1)
    screen = console()
    screen.print(Text(", ".join(f"{name} {version}" for name, version in versions().items())))
    screen.print(table(findings))
    for kind, meaning in KINDS.items():
        screen.print(Text(f"{kind}: {meaning}"))
    screen.print(Text("planted: mistakes put in on purpose, each noticed"))
    for line in missing:
        screen.print(Text(f"FAILED evidence is not what was shipped: {line}", style="red"))
    failed = [(task, finding) for task, finding in findings if not finding.ok]
    for task, finding in failed:
        screen.print(Text(f"FAILED {task.id} ({finding.by}): {finding.detail or task.statement}", style="red"))
    planted = sum(is_planted(task) for task, _ in findings)
    seconds = time.perf_counter() - begun
    skipped = len(left_out)
    held = "ALL PROVED" if not skipped else f"ALL THAT WAS RUN HOLDS, {skipped} tasks were not run"
    verdict = f"{len(failed)} of {len(tasks)} tasks FAILED" if failed else "FAILED" if missing else held
    kept = len(tasks) - planted
    screen.print(Text(f"{verdict}: {kept} pieces of evidence, {planted} planted mistakes, {seconds:.0f} s"))
    settings = {
        "skipped": skipped,
        "missing": missing,
        "quick": arguments.quick,
        "only": arguments.only,
        "jobs": arguments.jobs,
        "limit": limit,
        "seconds": seconds,
    }
    if arguments.json:
        write("--json", arguments.json, json.dumps(strict(as_json(findings, settings)), indent=1).encode())
    if arguments.junit:
        write("--junit", arguments.junit, as_junit(findings, left_out, missing).encode())
    return NOT_PROVED if failed or missing or not tasks else 0
