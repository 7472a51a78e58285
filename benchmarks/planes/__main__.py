"""Measure, append to the result file, rewrite the tables of the page. Exit code 1 if a certificate is violated.

With --report-only, tables again from the newest run on file; with --small, seconds, no page and no file unless
--out names one; with --long, longer
heads and a longer capture too.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import origin
from benchmarks.planes.measure import SYSTEMS, run, sources
from benchmarks.planes.page import rewrite, run_line
from benchmarks.planes.rows import Row, append, condense, last_run
from rich.console import Console

from certkv.cli.progress import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/planes.csv"
PAGE = ROOT / "docs/planes.md"
MEASURED = ("reference", "benchmarks/planes", "benchmarks/tightness")


def measure_all(size: str, of: str) -> list[Row]:
    """Run every system on every source; rows are of commit ``of``."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    versions = f"certkv {version('certkv')}, NumPy {version('numpy')}, Python {platform.python_version()}"
    head = (when, of, versions)
    everything = list(sources(size))
    rows: list[Row] = []
    with progress(len(everything) * len(SYSTEMS), "caches", quiet=size == "small") as tick:
        for source in everything:
            for system in SYSTEMS:
                found = run(source, system)
                rows += [condense(head, source, system, t, steps) for t, steps in found.items()]
                tick(f"{source.head}, {len(source.k)} tokens, {system.name}", 1)
    return rows


def main() -> int:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one small head, and no page")
    parser.add_argument("--long", action="store_true", help="longer heads and a longer capture as well; an hour")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    origin.add_arguments(parser, RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are rewritten")
    options = parser.parse_args()
    out, of = origin.asked(parser, options, RESULTS, *MEASURED)
    if options.report_only:
        rows = last_run(out or RESULTS)
    else:
        rows = measure_all("small" if options.small else "long" if options.long else "usual", of)
        if out is not None:
            append(out, rows)
    if not options.small:
        rewrite(options.page, rows)
    Console(file=sys.stdout).print(f"{run_line(rows)} {out or 'not recorded'}", soft_wrap=True)
    return 1 if any(row.violations for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
