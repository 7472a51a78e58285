"""``certkv bench``: the command."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from certkv.cli.bench.options import POLICIES, TIMED, Options, RefusedError, add_arguments, parsed
from certkv.cli.present import missing_gpu, missing_library

if TYPE_CHECKING:
    import torch

    from certkv.cli.bench.rows import Row
    from certkv.cli.parser import Subparsers

DESCRIPTION = """\
Time a whole decode step of the kernel library on this GPU - attend, certify, refine, finish - beside torch's dense
attention and beside the time in which a read-only sum reads the same bytes, all measured in this run.

Nothing is timed before the kernels were seen to be right on this GPU, in the formats and head sizes asked for: stored
bits equal the twins' on a CPU, outputs are within their bounds of float64 attention, captured runs equal eager ones.
Every step that is timed is judged as well. Exit codes: 0 timed; 1 something is not right, and nothing is reported;
2 wrong options, or no GPU."""

FAILED = 1
SHOWN = 10
"""Failures that are listed."""

DERIVED = ("speedup", "bare_speedup", "certificate")
"""Properties of a row that are written as well."""

HEADING = (
    "batch   tokens  keys       values     policy  tolerance  scratch   step us   bare us  step/bare  dense us  "
    "dense/step  dense/bare  floor us  dense floor us  promoted %  rung   host MB  moved MB  bound/error"
)

SETTING = ("commit", "certkv", "device", "torch", "triton", "q_heads", "kv_heads", "head_dim", "block", "dtype")


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="time the kernels on this GPU, once they were seen to be right on it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    Raises
    ------
    InputError
        Wrong options, or something is missing.
    """
    from certkv.reference import InputError

    try:
        return execute(arguments)
    except RefusedError as error:
        raise InputError(str(error)) from error


def execute(arguments: argparse.Namespace) -> int:
    """Check, time, print and write.

    Raises
    ------
    RefusedError
    """
    options = parsed(arguments)
    if message := missing_library("certkv bench", kernels=options.device == "cuda"):
        raise RefusedError(message)
    import torch

    from certkv import fast
    from certkv.cli.bench.gate import compiled, failures
    from certkv.cli.bench.rows import WrongError, rows, taken_once
    from certkv.cli.bench.timing import clock_for, read_rate

    instead = "--device cpu runs the torch twins, which says nothing about kernels"
    if options.device == "cuda" and (message := missing_gpu("certkv bench", instead)):
        raise RefusedError(message)
    if options.csv:
        require_appendable(options.csv)
    device = torch.device(options.device)
    if options.compile:
        if options.compile == TIMED:
            taken_once(options, device)
        else:
            compiled(options, device, clock_for(device, 1))
        return 0
    setting = described(options, device)
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.1f} s] {text}", file=sys.stderr, flush=True)

    torch.manual_seed(0)
    clock = clock_for(device, options.replays)
    try:
        if (jobs := options.jobs or (len(os.sched_getaffinity(0)) if device.type == "cuda" else 1)) > 1:
            say(f"compiling in {jobs} processes")
            compile_ahead(options, jobs)
        say("checking")
        found = list(failures(options, device, clock))
        if found:
            return complained(found)
        print("checked: stored bits, bounds against float64, tolerances, replays, refusals")
        rate = read_rate(device, clock)
        print(f"a read-only sum reads {rate / 1e6:.3f} TB/s")
        if options.device == "cpu":
            print("twins on a CPU: none of these times says anything about the kernels")
        for number, row in enumerate(rows(options, device, clock, rate, say)):
            print("\n".join(lines(row, heading=number == 0)), flush=True)
            if options.csv:
                append(options.csv, setting, row)
    except WrongError as error:
        return complained([str(error)])
    except fast.CertkvError as error:
        raise RefusedError(" ".join(str(error).split())) from error
    except torch.OutOfMemoryError as error:
        raise RefusedError("not enough memory on this device; give fewer tokens or sequences") from error
    say("done")
    return 0


SHAPE = ("q_heads", "kv_heads", "head_dim", "block", "dtype", "originals", "scratch_bytes", "device")
"""Options that say what is compiled."""


def compile_ahead(options: Options, jobs: int) -> None:
    """Compile in processes of their own into Triton's cache on disk: what is timed by setting, the gate by policy.

    What fails there fails again when it is checked or timed, and is told then.
    """
    shape = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in SHAPE]
    pairs = [("--keys", keys, "--values", values) for keys in options.keys for values in options.values]
    timed = ("--policy", ",".join(options.policy), "--compile", TIMED)
    asked = [
        [sys.executable, "-m", "certkv.cli.bench", *shape, *pair, "--batch", str(n), "--tokens", str(tokens), *timed]
        for n in options.batch
        for tokens in options.tokens
        for pair in pairs
    ]
    asked += [
        [sys.executable, "-m", "certkv.cli.bench", *shape, *pair, "--compile", policy]
        for pair in pairs
        for policy in POLICIES
    ]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda words: subprocess.run(words, capture_output=True, check=False), asked))


def complained(found: list[str]) -> int:
    """Print what is wrong; nothing else is reported."""
    print(f"FAILED: {len(found)} checks do not hold on this device; nothing is timed.")
    for line in found[:SHOWN]:
        print(f"  {line}")
    if len(found) > SHOWN:
        print(f"  and {len(found) - SHOWN} more")
    return FAILED


def described(options: Options, device: torch.device) -> dict[str, str]:
    """Return what every row is about, by column."""
    import torch

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    try:
        certkv = version("certkv")
    except PackageNotFoundError:
        certkv = "unknown"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    sizes = (options.q_heads, options.kv_heads, options.head_dim, options.block)
    values = (options.commit, certkv, name, torch.__version__, triton, *map(str, sizes), options.dtype)
    return dict(zip(SETTING, values, strict=True))


def columns() -> tuple[str, ...]:
    """Return the columns of the CSV."""
    from certkv.cli.bench.rows import Row

    return (*SETTING, *(field.name for field in fields(Row)), *DERIVED)


def lines(r: Row, heading: bool) -> list[str]:
    """Return a row of the table, below the heading if that is wanted."""
    row = (
        f"{r.batch:5d}  {r.tokens:7d}  {r.keys:9s}  {r.values:9s}  {r.policy:6s}  {r.tolerance:>9s}  {r.scratch:7s}  "
        f"{r.step_us:8.1f}  {r.bare_us:8.1f}  {r.step_us / r.bare_us:9.3f}  {r.dense_us:8.1f}  {r.speedup:10.2f}  "
        f"{r.bare_speedup:10.2f}  {r.floor_us:8.1f}  {r.dense_floor_us:14.1f}  "
        f"{r.promoted:10.2f}  {r.rung:4d}  {r.host_mb:8.2f}  {r.moved_mb:8.2f}  {r.tightness:11.1f}"
    )
    return [HEADING, row] if heading else [row]


def require_appendable(path: Path) -> None:
    """Make sure that rows can be appended, before anything is timed.

    Raises
    ------
    RefusedError
        The file cannot be written, or holds other columns.
    """
    try:
        new = not path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if new:
            path.unlink()
            return
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), None)
    except OSError as error:
        raise RefusedError(f"--csv {path} cannot be written: {error.strerror}; another place is expected") from error
    if header is not None and tuple(header) != columns():
        raise RefusedError(f"--csv {path} holds other columns; give another file")


def append(path: Path, setting: dict[str, str], row: Row) -> None:
    """Append a row, and the header to a new file.

    Raises
    ------
    RefusedError
    """
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator=os.linesep)
            if file.tell() == 0:
                writer.writerow(columns())
            numbers = [*astuple(row), *(getattr(row, name) for name in DERIVED)]
            writer.writerow([*setting.values(), *(round(x, 3) if isinstance(x, float) else x for x in numbers)])
    except OSError as error:
        raise RefusedError(f"--csv {path} cannot be written: {error.strerror}") from error
