"""Damage memory, run steps, and count what became of it; append to the result file and rewrite the page's tables.

Exit code 1 if a step that compares checksums returns an output beyond its bound as good, or ends in an untyped
exception. With --small, seconds, no page and no file unless --out names one; with --report-only, the page from the
newest run on file.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from benchmarks import origin
from benchmarks.faults.campaign import campaign
from benchmarks.faults.places import DAMAGE
from benchmarks.faults.scenes import KINDS
from benchmarks.faults.table import append, last_run, markdown
from rich.console import Console

from certkv.cli.progress import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/faults.csv"
PAGE = ROOT / "docs/faults.md"
MEASURED = ("fast", "benchmarks/faults")
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


def rewrite(page: Path, tables: str) -> None:
    """Put tables between the page's marks."""
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}")


def main() -> int:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two scenes of few sequences, and no page")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--seed", type=int, default=0)
    origin.add_arguments(parser, RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are rewritten")
    options = parser.parse_args()
    sequences, few, kinds = (3, 2, 2) if options.small else (128, 8, len(KINDS))
    out, of = origin.asked(parser, options, RESULTS, *MEASURED)
    if options.report_only:
        counts = last_run(out or RESULTS)
    else:
        torch.set_num_threads(1)
        versions = f"torch {torch.__version__}; Python {platform.python_version()}"
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with progress(kinds * len(DAMAGE), "scenes", quiet=options.small) as tick:
            counts = campaign(sequences, few, kinds, options.seed, lambda what: tick(what, 1))
        if out is not None:
            append(out, when, of, versions, counts)
    if not options.small:
        rewrite(options.page, markdown(counts))
    checked = [found for key, found in counts.items() if key.verify == "step"]
    bad = sum(found["beyond"] + found["crashed"] for found in checked)
    Console(file=sys.stdout).print(
        f"{sum(found['faults'] for found in checked):,} faults with checksums, {bad} beyond a bound unnoticed; "
        f"{out or 'not recorded'}",
        soft_wrap=True,
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
