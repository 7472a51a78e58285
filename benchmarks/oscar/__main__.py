"""Measure, append to the result file, print. Exit code 1 if a certificate is violated.

Rows of kind "finding" say what rotation and scaling are worth, those of kind "promise" what the certificate says; a
column that a row has nothing to say about is empty.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import origin
from benchmarks.oscar.finding import Finding, find
from benchmarks.oscar.promised import Promise, promises
from benchmarks.oscar.sources import PEAKED, captures, heads, imbalances
from benchmarks.tightness.heads import KINDS
from rich.console import Console

from certkv.cli.progress import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/oscar.csv"
MEASURED = ("reference", "benchmarks/oscar", "benchmarks/tightness")

SWITCHES = ("kivi", "oscar-scaling", "oscar-rotation", "oscar", "oscar-head", "oscar-paper")
"""Neither, one of the two, both; per head; with an integer zero point."""

VALUES = ("kivi", "oscar")
CASES, CASES_SMALL = 47, 8
"""Layers of findings, and pairs of promises on each layer, for progress."""

PAIRS = (("int8", "int4-g32"), ("oscar-4", "oscar-4"), ("oscar+2+4", "oscar+2+4"), ("oscar", "oscar"), ("kivi", "kivi"))


def findings(small: bool) -> Iterator[tuple[str, list[Finding]]]:
    """Yield rows layer by layer: every switch, on keys alone and (captures) on values alone."""
    for source in captures(small):
        of_keys = [find(source, source.name, keys, "dense") for keys in SWITCHES]
        yield source.name, of_keys + [find(source, source.name, "dense", values) for values in VALUES]
    for source in heads(KINDS, small):
        yield source.name, [find(source, source.name, keys, "dense") for keys in SWITCHES]
    for name, source in imbalances(small):
        yield name, [find(source, name, keys, "dense") for keys in SWITCHES]


def all_promises(small: bool) -> Iterator[tuple[str, list[Promise]]]:
    """Yield rows layer by layer and pair by pair: every tolerance."""
    for source in (*captures(small), *heads(PEAKED, small)):
        for keys, values in PAIRS[-2:] if small else PAIRS:
            yield f"{source.name}, {keys}", list(promises(source, source.name, keys, values))


def columns() -> list[str]:
    """Return the columns of the result file."""
    own = [field.name for row in (Finding, Promise) for field in fields(row)]
    return ["run", "commit", "versions", "kind", *dict.fromkeys(own)]


def append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a result file, which is begun where there is none.

    Raises
    ------
    ValueError
        The file has other columns.
    """
    new = not file.exists()
    if not new and file.read_text("utf-8").splitlines()[:1] != [",".join(columns())]:
        raise ValueError(f"{file} has other columns than this version writes; move it away")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns(), lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{x:.4g}" if isinstance(x, float) else x for k, x in row.items()})


def main() -> int:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few small cases, recorded where --out says alone")
    origin.add_arguments(parser, RESULTS)
    options = parser.parse_args()
    out, of = origin.asked(parser, options, RESULTS, *MEASURED)
    head = {
        "run": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": of,
        "versions": f"certkv {version('certkv')}, NumPy {version('numpy')}, Python {platform.python_version()}",
    }
    rows: list[dict[str, Any]] = []
    violations = 0
    total = CASES_SMALL if options.small else CASES
    with progress(total, "cases", quiet=options.small) as tick:
        for name, some in findings(options.small):
            rows += [head | {"kind": "finding"} | asdict(finding) for finding in some]
            tick(name, 1)
        for name, others in all_promises(options.small):
            rows += [head | {"kind": "promise"} | asdict(promise) for promise in others]
            violations += sum(promise.violations for promise in others)
            tick(name, 1)
    if out is not None:
        append(out, rows)
    steps = sum(row.get("head_steps", 0) for row in rows)
    Console(file=sys.stdout).print(
        f"{steps} head-steps, {violations} violations; {out or 'not recorded'}", soft_wrap=True
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
