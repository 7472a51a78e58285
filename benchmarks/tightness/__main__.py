"""Measure, append to the result file, rewrite tables and plots of the page. Exit code 1 if a certificate is violated.

With --report-only, tables and plots again from the newest run on file; with --small, seconds, no page and no file
unless --out names one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from benchmarks import origin
from benchmarks.tightness.cases import Group, cases, run
from benchmarks.tightness.measure import HeadStep, Setup
from benchmarks.tightness.rows import Row, append, condense, last_run
from rich.console import Console

from certkv.cli.progress import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/tightness.csv"
PAGE = ROOT / "docs/tightness.md"
MEASURED = ("reference", "cli", "benchmarks/tightness")


def measure_all(small: bool, processes: int, of: str) -> list[Row]:
    """Run all cases on some processes and condense them; rows are of commit ``of``."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    versions = f"certkv {version('certkv')}, NumPy {version('numpy')}, Python {platform.python_version()}"
    everything = list(cases(small))
    found: dict[tuple[Group, Setup], list[HeadStep]] = defaultdict(list)
    # one thread each: the cases are small and the processes are the parallelism
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    with pool, progress(len(everything), "cases", quiet=small) as tick:
        for case, steps in zip(everything, pool.map(run, everything), strict=True):
            for setup, step in steps:
                found[case.group, setup].append(step)
            tick(f"{case.group.head}, {case.group.tokens} tokens", 1)
    return [condense(when, of, versions, group, setup, steps) for (group, setup), steps in found.items()]


def main() -> int:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few small cases, and no page")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    origin.add_arguments(parser, RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables and plots are rewritten")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 8))
    options = parser.parse_args()
    out, of = origin.asked(parser, options, RESULTS, *MEASURED)
    if options.report_only:
        rows = last_run(out or RESULTS)
    else:
        if not options.small:
            importlib.import_module("benchmarks.tightness.page")  # what it misses is missing now, not after the run
        rows = measure_all(options.small, options.processes, of)
        if out is not None:
            append(out, rows)
    if not options.small:
        from benchmarks.tightness.page import rewrite

        rewrite(options.page, rows)
    violations = sum(row.violations for row in rows)
    steps = sum(row.head_steps for row in rows)
    Console(file=sys.stdout).print(
        f"{steps} head-steps, {violations} violations; {out or 'not recorded'}", soft_wrap=True
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
