"""Tables of times in the pages, rewritten between their markers from the newest rows of the result files.

    certkv bench --csv benchmarks/results/bench.csv ...      # on a GPU
    python -m benchmarks.gpu.progressive                     # on a GPU
    python -m benchmarks.speed

A page has a section on what nothing was measured of only once there are rows.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/bench.csv"
PROGRESSIVE = ROOT / "benchmarks/results/progressive.csv"
BEGIN = "<!-- speed: generated -->"
END = "<!-- end -->"

Row = dict[str, str]
"""As in the file; a column that an older run did not have is empty."""

SHAPE = {"q_heads": "32", "kv_heads": "8", "head_dim": "128", "block": "64", "dtype": "float16"}
"""What the pages speak of."""

SETTING = ("device", "batch", "tokens", "keys", "values", "policy", "tolerance", "scratch", "originals")
"""What tells rows of one shape apart; of rows alike the newest counts."""

Group = dict[tuple[str, str], Row]
"""Rows of one cache, by policy and tolerance."""


def newest(rows: Sequence[Row]) -> list[Row]:
    """Return the newest row of every setting that was timed on a GPU, in the shape of the pages."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if not row["device"].startswith("cpu") and all(row[name] == x for name, x in SHAPE.items()):
            setting = tuple(row[name] for name in SETTING)
            found.pop(setting, None)  # so that what is last in the file is last here
            found[setting] = row
    return list(found.values())


def groups(rows: Sequence[Row]) -> list[Group]:
    """Put rows of one cache and commit together, smallest first: the newest one's. Scratch is for another table."""
    made: dict[tuple[int, int, str, str], Group] = {}
    for row in reversed(rows):
        # where nothing is fetched it does not matter where originals are
        if row["scratch"] == "off" and (row["originals"] == "host" or row["rung"] == "0"):
            of = (int(row["batch"]), int(row["tokens"]), row["keys"], row["values"])
            group = made.setdefault(of, {})
            if row["commit"] == next(iter(group.values()), row)["commit"]:
                group[row["policy"], row["tolerance"]] = row
    return [made[of] for of in sorted(made)]


def number(text: str) -> str:
    """Three digits; nothing for what was not measured."""
    if not text:
        return "-"
    x = float(text)
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}"


def times(text: str) -> str:
    """Format a factor."""
    return f"{float(text):.2f}x" if text else "-"


def per_cent(text: str) -> str:
    """Format a share."""
    return f"{float(text):.0f} %" if text else "-"


MET, ONE = ("budget", "met"), ("budget", "1%")

Cell = Callable[[Group], str]


def _of(policy: tuple[str, str], column: str, form: Callable[[str], str]) -> Cell:
    return lambda group: form(group[policy][column]) if policy in group else "-"


def _any(column: str, form: Callable[[str], str]) -> Cell:
    """Return a column that is the same for every policy."""
    return lambda group: form(next(iter(group.values()))[column])


CACHE: dict[str, Cell] = {
    "batch": _any("batch", str),
    "tokens": _any("tokens", lambda text: f"{int(text):,}"),
    "keys, values": lambda group: "{keys}, {values}".format(**next(iter(group.values()))),
    "dense SDPA": _any("dense_us", number),
    "floor of the bytes": _any("floor_us", number),
    "pass alone": _any("bare_us", number),
    "against dense": _any("bare_speedup", times),
    "`Budget`, nothing promoted": _of(MET, "step_us", number),
    "the step against dense": _of(MET, "speedup", times),
    "certificate": _of(MET, "certificate", per_cent),
}

FAST: dict[str, Cell] = {
    **CACHE,
    "`Naive`": _of(("naive", ""), "step_us", number),
    "`Budget`, 1 % promoted": _of(ONE, "step_us", number),
}


def table(found: Sequence[Group], columns: dict[str, Cell]) -> str:
    """Return a table of the columns that have anything in them, and a line that says of which code and machine."""
    cells = {name: [cell(group) for group in found] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if set(column) != {"-"}}
    lines = [list(shown), ["---"] * len(shown), *map(list, zip(*shown.values(), strict=True))]
    rows = [row for group in found for row in group.values()]
    machine = ", ".join(dict.fromkeys(f"{r['device']}, torch {r['torch']}, Triton {r['triton']}" for r in rows))
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{body}\n\n{machine}; commit {commits}."


def is_oscar(group: Group) -> bool:
    """Whether keys are of OScaR's family."""
    return next(iter(group.values()))["keys"].startswith(("oscar", "kivi"))


OSCAR = (
    "## On a GPU",
    "",
    "32 query heads on 8 KV heads, d = 128, FP16, blocks of 64; replayed graphs, medians in microseconds, nothing "
    "left in the L2 before each; dense is torch's",
    "attention over a preallocated cache of as many sequences. *Pass alone*: attend and merge, compiled without any "
    "certificate, which only [the benchmark](../bench.md)",
    "does. *Certificate*: what a step of `Budget` takes more at a tolerance that every head meets. Such a tolerance is "
    "as wide as the bounds of these formats: it is the price of",
    "knowing them, not of making them smaller.",
    "",
    "",
)
"""Heading and text above the table."""


def speed(found: Sequence[Group]) -> str:
    """Return the table of docs/fast.md."""
    return table([group for group in found if not is_oscar(group)], FAST)


def oscar(found: Sequence[Group]) -> str:
    """Return the section of docs/formats/oscar.md; nothing where nothing was measured."""
    mine = [group for group in found if is_oscar(group)]
    return "\n".join(OSCAR) + table(mine, CACHE) if mine else ""


PLANES = (
    "## What they cost on a GPU",
    "",
    "Layers of eight KV heads of one type, four queries each, d = 128, FP16, originals in pinned host memory; a whole "
    "step of `Budget`, captured, in microseconds beside",
    "torch's dense attention of the same originals; *fetched*: bytes that a head needs from host memory, planes that "
    "lie there included, in percent of the 16-bit keys and",
    "values that it sees; *planes*: bytes of planes that it reads, wherever they lie. Means over types of heads (of "
    "times: geometric ones).",
    "",
    "",
)
"""Heading and text above the table."""


def mean(numbers: Sequence[float]) -> float:
    """Geometric mean of times."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def share(rows: Sequence[Row], column: str) -> str:
    """Arithmetic mean of shares, in percent."""
    return f"{100 * sum(float(row[column]) for row in rows) / len(rows):.2g}"


def progressive(rows: Sequence[Row]) -> str:
    """Return the section of docs/planes.md, of the commit that the newest row is of; nothing without rows."""
    rows = [row for row in rows if row["commit"] == rows[-1]["commit"] and not row["gpu"].startswith("cpu")]
    found: dict[tuple[int, str], dict[float, dict[str, Row]]] = {}
    for row in rows:  # the newest of rows alike
        of = (int(row["tokens"]), row["system"])
        found.setdefault(of, {}).setdefault(float(row["tolerance"]), {})[row["head"]] = row
    if not found:
        return ""
    tolerances = sorted({t for some in found.values() for t in some})
    header = ["tokens", "system", "heads", "dense", *(f"step at {100 * t:g} %" for t in tolerances)]
    lines = [[*header, *(f"fetched; planes at {100 * t:g} %" for t in tolerances)]]
    lines.append(["---"] * len(lines[0]))
    for (tokens, system), some in found.items():
        of_each = [list(some.get(t, {}).values()) for t in tolerances]
        steps = [number(str(mean([float(row["step_us"]) for row in of]))) if of else "-" for of in of_each]
        bytes_ = ["; ".join(share(of, name) for name in ("fetched", "plane_bytes")) if of else "-" for of in of_each]
        heads = dict.fromkeys(row["head"] for of in of_each for row in of)
        dense = mean([float(row["dense_us"]) for of in of_each for row in of])
        lines.append([f"{tokens:,}", system, ", ".join(heads), number(str(dense)), *steps, *bytes_])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machine = ", ".join(dict.fromkeys(f"{row['gpu']}, {row['versions']}" for row in rows))
    return "\n".join(PLANES) + f"{body}\n\n{machine}; commit {rows[-1]['commit']}."


def filled(text: str, content: str) -> str:
    """Return a page's text with the content between its markers.

    Raises
    ------
    ValueError
        A marker is missing or twice there.
    """
    pattern = re.compile(rf"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END} exactly once")
    block = f"{BEGIN}\n{content}\n{END}" if content else f"{BEGIN}\n{END}"
    return pattern.sub(lambda _: block, text)


def lines_of(file: Path) -> list[Row]:
    """Read a result file."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def read(file: Path) -> list[Group]:
    """Read what `certkv bench` has written."""
    return groups(newest(lines_of(file)))


PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs/fast.md": lambda: speed(read(RESULTS)),
    ROOT / "docs/formats/oscar.md": lambda: oscar(read(RESULTS)),
    ROOT / "docs/planes.md": lambda: progressive(lines_of(PROGRESSIVE)) if PROGRESSIVE.exists() else "",
}
"""What stands between the markers of each page."""


def main() -> None:
    """Rewrite the pages."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for page, content in PAGES.items():
        page.write_text(filled(page.read_text("utf-8"), content()), "utf-8")


if __name__ == "__main__":
    main()
