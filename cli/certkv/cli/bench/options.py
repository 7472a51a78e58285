"""What can be asked of a benchmark, checked before anything runs."""

from __future__ import annotations

import argparse
import math
import subprocess
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

POLICIES = ("naive", "budget", "paper")

TIMED = "timed"
"""What a process that compiles is told where it is to take what is timed, and not the steps of the gate."""
RELATIVE_TO = ("values", "output", "absolute")
DTYPES = ("float16", "bfloat16")
PLACES = ("host", "device")
UNKNOWN = "unknown"
MET = "met"


class RefusedError(Exception):
    """Something about the options, or what is missing here, in one line."""


@dataclass(frozen=True)
class Tolerance:
    """What `Budget` enforces.

    Attributes
    ----------
    text : str
        As it was given.
    number : float or None
        The tolerance itself; None where it is found by trying.
    share : float
        Of the blocks that are to be promoted, where it is found by trying; 0 for a tolerance that every head meets.
    """

    text: str
    number: float | None
    share: float


@dataclass(frozen=True)
class Options:
    """One benchmark."""

    tokens: tuple[int, ...]
    batch: tuple[int, ...]
    q_heads: int
    kv_heads: int
    head_dim: int
    block: int
    dtype: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    policy: tuple[str, ...]
    tolerance: tuple[Tolerance, ...]
    relative_to: str
    originals: str
    scratch_bytes: int
    replays: int
    minutes: float
    jobs: int
    compile: str
    device: str
    csv: Path | None
    commit: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; lists are comma-separated."""
    add = parser.add_argument
    add("--tokens", default="8192,32768,131072", metavar="N,..", help="per sequence (default %(default)s)")
    add("--batch", default="1", metavar="N,..", help="sequences (default %(default)s)")
    add("--keys", default="int8", metavar="FORMAT,..", help="(default %(default)s)")
    add("--values", default="int4,int8", metavar="FORMAT,..", help="(default %(default)s)")
    add("--policy", default="naive,budget", metavar="NAME,..", help=f"{', '.join(POLICIES)} (default %(default)s)")
    add(
        "--tolerance",
        default=f"{MET},1%",
        metavar="T,..",
        help="of the budget policy: numbers; 'met' for a tolerance that every head meets in its first pass; 'P%%' for "
        "one that makes P percent of the blocks be promoted (default %(default)s)",
    )
    add("--relative-to", choices=RELATIVE_TO, default="values", help="what numbers are shares of (default %(default)s)")
    add("--q-heads", type=int, default=32, metavar="N", help="query heads (default %(default)s)")
    add("--kv-heads", type=int, default=8, metavar="N", help="KV heads (default %(default)s)")
    add("--head-dim", type=int, default=128, metavar="D", help="head size (default %(default)s)")
    add("--block", type=int, default=64, metavar="B", help="tokens per block (default %(default)s)")
    add("--dtype", choices=DTYPES, default="float16", help="of the originals (default %(default)s)")
    add("--originals", choices=PLACES, default="host", help="where they are kept (default %(default)s)")
    add("--scratch-bytes", type=int, default=0, metavar="BYTES", help="device pool of fetched originals (default 0)")
    add("--replays", type=int, default=40, metavar="N", help="timed runs, of which the median counts (default 40)")
    add("--minutes", type=float, default=math.inf, metavar="M", help="begin no cache after so many (default: no limit)")
    add(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="processes that compile before anything runs (default: the CPUs)",
    )
    add("--compile", choices=(*POLICIES, TIMED), default="", help=argparse.SUPPRESS)  # what these processes are told
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu times the torch twins: no speed of a kernel")
    add("--csv", type=Path, metavar="OUT", help="append a row per setting, with commit, GPU and versions")
    add("--commit", default="", metavar="NAME", help="what the rows call this code (default: asked of git)")


def parsed(arguments: argparse.Namespace) -> Options:
    """Check the options.

    Raises
    ------
    RefusedError
    """
    numbers = {field.name: getattr(arguments, field.name) for field in fields(Options)}
    for name in ("tokens", "batch"):
        numbers[name] = _wholes(f"--{name}", numbers[name])
    for name in ("q_heads", "kv_heads", "head_dim", "block", "replays"):
        if numbers[name] < 1:
            raise RefusedError(f"--{name.replace('_', '-')} is {numbers[name]}; give at least 1")
    for name in ("keys", "values", "policy"):
        numbers[name] = tuple(part.strip() for part in numbers[name].split(","))
    for name in numbers["policy"]:
        if name not in POLICIES:
            raise RefusedError(f"--policy: unknown policy {name!r}; choose from {', '.join(POLICIES)}, comma-separated")
    numbers["tolerance"] = tuple(_tolerance(part.strip()) for part in numbers["tolerance"].split(","))
    if numbers["jobs"] < 0:
        raise RefusedError(f"--jobs is {numbers['jobs']}; give at least 1, or 0 for the number of CPUs")
    if not numbers["minutes"] > 0:
        raise RefusedError(f"--minutes is {numbers['minutes']}; give a positive number")
    numbers["commit"] = numbers["commit"] or commit()
    if numbers["csv"] and numbers["commit"] == UNKNOWN:
        raise RefusedError("--csv: this is no git checkout, so rows could not say which code they time; give --commit")
    return Options(**numbers)


def _wholes(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RefusedError(f"{option} {text}: give whole numbers, comma-separated, e.g. 8192,131072") from error
    if min(numbers) < 1:
        raise RefusedError(f"{option} {text}: every number must be at least 1")
    return numbers


def _tolerance(text: str) -> Tolerance:
    """Read a number, a percentage of blocks, or 'met'.

    Raises
    ------
    RefusedError
    """
    if text == MET:
        return Tolerance(text, None, 0.0)
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if text.endswith("%") and 0.0 < number <= 100.0:
        return Tolerance(text, None, number / 100.0)
    if text.endswith("%") or not 0.0 <= number < math.inf:
        raise RefusedError(f"--tolerance {text}: give numbers of at least 0, {MET}, or percentages of blocks like 1%")
    return Tolerance(text, number, 0.0)


def commit() -> str:
    """Name this code: git's short hash, with + where library or command were changed since; else the version.

    A checkout that this file does not belong to, say of a project that certkv is installed in, is not asked.
    """
    folder = Path(__file__).parent
    try:
        asked = [
            ["ls-files", "--error-unmatch", __file__],
            ["rev-parse", "--short", "HEAD"],
            ["status", "--porcelain", "--", ":/fast", ":/cli"],
        ]
        answers = [
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout
            for words in asked
        ]
    except (OSError, subprocess.SubprocessError):
        try:
            return version("certkv")
        except PackageNotFoundError:
            return UNKNOWN
    return answers[1].strip() + ("+" if answers[2].strip() else "")
