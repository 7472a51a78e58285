"""The command: choose cases, run them in processes, print, write, and fail if anything is wrong."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from certkv.proofs.campaign.generators import GENERATORS
from certkv.proofs.campaign.plan import SIZES, Job, planned_jobs
from certkv.proofs.campaign.report import (
    requirements,
    show,
    show_requirements,
    show_sizes,
    tally_json,
    total,
    write_csv,
)
from certkv.proofs.campaign.run import run_job
from certkv.proofs.campaign.tally import Tally

WIDTH = 210
LARGEST_FRACTION = 1000.0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m certkv.proofs.campaign",
        description="Random and adversarial head-steps through the reference, each judged against exact attention. "
        "Exit code 0: no violation, no broken contract, no warning, nothing undecided, counts reached; 1: otherwise; "
        "2: bad usage.",
    )
    p.add_argument("--fraction", type=float, default=1.0, help="share of the full campaign; 2.5: 2.5 of them")
    p.add_argument("--seed", type=int, default=0, help="seed of every random number (default 0)")
    p.add_argument("--jobs", type=int, default=2, help="processes (default 2); 1 runs in this process")
    p.add_argument("--only", nargs="+", metavar="NAME", help="generators, or generator:size, to run; no counts needed")
    p.add_argument("--index", type=int, help="run this one case of what --only names")
    p.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no case after this time; counts may be missed"
    )
    p.add_argument("--csv", type=Path, metavar="OUT", help="also write the counts by generator and size here")
    p.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    return p


def chosen_jobs(options: argparse.Namespace, usage: argparse.ArgumentParser) -> list[Job]:
    """Return the cases that the options ask for; bad usage exits with code 2."""
    if not 0.0 < options.fraction <= LARGEST_FRACTION:
        usage.error(f"--fraction is {options.fraction}; give a number above 0 and at most {LARGEST_FRACTION:g}")
    if not options.minutes > 0.0:
        usage.error(f"--minutes is {options.minutes}; give a number above 0")
    for path in (options.json, options.csv):
        if path and not path.absolute().parent.is_dir():
            usage.error(f"{path}: the folder does not exist; create it first")
    if options.jobs < 1 or options.seed < 0:
        usage.error("--jobs must be at least 1 and --seed at least 0")
    if options.index is not None and (not options.only or options.index < 0):
        usage.error("--index needs --only and a number of at least 0")
    names = [name.partition(":") for name in options.only or []]
    for name, _, size in names:
        if name not in GENERATORS or (size and size not in GENERATORS[name].cases):
            usage.error(f"--only {name}{':' + size if size else ''}: give one of {', '.join(GENERATORS)}, or name:size")
    if options.index is not None:
        found = [(name, size) for name, _, one in names for size in ([one] if one else GENERATORS[name].cases)]
        return [Job(name, size, options.index) for name, size in found]
    jobs = planned_jobs(GENERATORS, options.fraction)
    wanted = [(name, size) for name, _, size in names]
    return [job for job in jobs if not wanted or (job.generator, job.size) in wanted or (job.generator, "") in wanted]


def run_all(jobs: Sequence[Job], seed: int, processes: int, deadline: float) -> Iterator[tuple[int, Tally | None]]:
    """Run cases, in processes if more than one; yields (number of the case, its tally) in any order.

    A case that would begin after the deadline (of `time.time`, which processes share) yields None.
    """
    run = partial(run_numbered, seed, deadline)
    if processes == 1:
        yield from map(run, enumerate(jobs))
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(run, enumerate(jobs), chunksize=2)


def run_numbered(seed: int, deadline: float, numbered: tuple[int, Job]) -> tuple[int, Tally | None]:
    """Run one case in a worker."""
    return numbered[0], run_job(numbered[1], seed) if time.time() < deadline else None


def merged(jobs: Sequence[Job], results: Mapping[int, Tally]) -> dict[tuple[str, str], Tally]:
    """Sum tallies by generator and size, in the order of the jobs whatever the processes did: the same sums always."""
    parts = {
        (name, size): Tally() for name, generator in GENERATORS.items() for size in SIZES if size in generator.cases
    }
    for i, job in enumerate(jobs):
        if i in results:
            parts[job.generator, job.size].merge(results[i])
    return {key: tally for key, tally in parts.items() if tally.cases}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = parser()
    options = usage.parse_args(arguments)
    jobs = chosen_jobs(options, usage)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    start = time.monotonic()
    deadline = time.time() + 60.0 * options.minutes
    results: dict[int, Tally] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cases", total=len(jobs))
        for i, tally in run_all(jobs, options.seed, min(options.jobs, len(jobs)), deadline):
            if tally is not None:
                results[i] = tally
            progress.advance(task)
    parts = merged(jobs, results)
    chosen = [name for name in GENERATORS if any(name == generator for generator, _ in parts)]
    tallies = {name: total([tally for (g, _), tally in parts.items() if g == name]) for name in chosen}
    sizes = {name: total([tally for (_, s), tally in parts.items() if s == name]) for name in SIZES}
    seconds = time.monotonic() - start
    show(console, tallies, seconds)
    show_sizes(console, {name: tally for name, tally in sizes.items() if tally.cases})
    left_out = len(jobs) - len(results)
    if left_out:
        console.print(f"{left_out:,} of {len(jobs):,} cases were left out: time was up")
    whole = total(tallies.values())
    wanted = [] if options.only else requirements(whole, options.fraction)
    show_requirements(console, wanted)
    sound = not (whole.violations or whole.breaks or whole.warnings or whole.undecided)
    passed = sound and all(r.met for r in wanted)
    console.print("sound" if passed else "FAILED")
    if options.csv:
        write_csv(options.csv, parts)
    if options.json:
        result = {
            "config": {
                "fraction": options.fraction,
                "seed": options.seed,
                "only": options.only,
                "index": options.index,
                "sizes": {name: vars(size) for name, size in SIZES.items()},
            },
            "passed": passed,
            "seconds": seconds,
            "left_out": left_out,
            "requirements": [{"what": r.what, "counted": r.counted, "needed": r.needed} for r in wanted],
            "total": tally_json(whole),
            "sizes": {name: tally_json(tally) for name, tally in sizes.items()},
            "generators": {name: tally_json(tally) for name, tally in tallies.items()},
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if passed else 1
