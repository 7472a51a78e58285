"""The command: choose cases, run them in processes, print, write, and fail if anything is wrong."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from certkv.proofs.campaign.generators import GENERATORS
from certkv.proofs.campaign.plan import SIZES, Job, planned_jobs
from certkv.proofs.campaign.report import requirements, show, show_requirements, tally_json, total
from certkv.proofs.campaign.run import run_job
from certkv.proofs.campaign.tally import Tally

WIDTH = 210


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m certkv.proofs.campaign",
        description="Random and adversarial head-steps through the reference, each judged against exact attention. "
        "Exit code 0: no violation, no broken contract, no warning, nothing undecided, counts reached; 1: otherwise; "
        "2: bad usage.",
    )
    p.add_argument("--fraction", type=float, default=1.0, help="share of the full campaign to run (default 1.0)")
    p.add_argument("--seed", type=int, default=0, help="seed of every random number (default 0)")
    p.add_argument("--jobs", type=int, default=2, help="processes (default 2); 1 runs in this process")
    p.add_argument("--only", nargs="+", metavar="NAME", help="generators, or generator:size, to run; no counts needed")
    p.add_argument("--index", type=int, help="run this one case of what --only names")
    p.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    return p


def chosen_jobs(options: argparse.Namespace, usage: argparse.ArgumentParser) -> list[Job]:
    """Return the cases that the options ask for; bad usage exits with code 2."""
    if not 0.0 < options.fraction <= 1.0:
        usage.error(f"--fraction is {options.fraction}; give a number above 0 and at most 1")
    if options.json and not options.json.absolute().parent.is_dir():
        usage.error(f"--json {options.json}: the folder does not exist; create it first")
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


def run_all(jobs: Sequence[Job], seed: int, processes: int) -> Iterator[tuple[int, Tally]]:
    """Run cases, in processes if more than one; yields (number of the case, its tally) in any order."""
    if processes == 1:
        for i, job in enumerate(jobs):
            yield i, run_job(job, seed)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(partial(run_numbered, seed), enumerate(jobs), chunksize=2)


def run_numbered(seed: int, numbered: tuple[int, Job]) -> tuple[int, Tally]:
    """Run one case in a worker."""
    return numbered[0], run_job(numbered[1], seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = parser()
    options = usage.parse_args(arguments)
    jobs = chosen_jobs(options, usage)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    start = time.monotonic()
    results: dict[int, Tally] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cases", total=len(jobs))
        for i, tally in run_all(jobs, options.seed, min(options.jobs, len(jobs))):
            results[i] = tally
            progress.advance(task)
    tallies: dict[str, Tally] = {name: Tally() for name in GENERATORS if any(job.generator == name for job in jobs)}
    for i, job in enumerate(jobs):  # in this order, whatever the processes did: the same sums every time
        tallies[job.generator].merge(results[i])
    seconds = time.monotonic() - start
    show(console, tallies, seconds)
    whole = total(tallies)
    wanted = [] if options.only else requirements(whole, options.fraction)
    show_requirements(console, wanted)
    sound = not (whole.violations or whole.breaks or whole.warnings or whole.undecided)
    passed = sound and all(r.met for r in wanted)
    console.print("sound" if passed else "FAILED")
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
            "requirements": [{"what": r.what, "counted": r.counted, "needed": r.needed} for r in wanted],
            "total": tally_json(whole),
            "generators": {name: tally_json(tally) for name, tally in tallies.items()},
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if passed else 1
