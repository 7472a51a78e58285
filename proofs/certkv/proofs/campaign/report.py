"""What a campaign prints and writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from certkv.proofs.campaign.tally import KINDS, Ratio, Tally

LEGEND = """encl.: judged by an enclosure; viol.: error above the bound; contr.: any other promise broken; \
warn.: warnings of NumPy; undec.: neither a violation nor proved to be none; inf: bound +inf.
Error/bound, attained at least: max and mean (geometric) where quantization is most of the bound; round.: the largest
where float64 rounding is most of it; cast: the largest where the output was rounded to 32 or 16 bits."""

LINES = 20
"""Findings printed in full; the JSON has all."""


@dataclass(frozen=True)
class Requirement:
    """A number that a full campaign must reach."""

    what: str
    counted: int
    needed: int

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.counted >= self.needed


def total(tallies: Iterable[Tally]) -> Tally:
    """Sum of tallies."""
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole


def requirements(whole: Tally, fraction: float) -> list[Requirement]:
    """Return the numbers to reach, scaled by the fraction."""
    needs = (
        ("head-steps", whole.head_steps, 4_440_000),
        ("with N >= 1,024 and d >= 64", whole.long_steps, 440_000),
        ("with N >= 16,384", whole.very_long_steps, 2_000),
        ("judged by enclosures", whole.enclosed, 40_000),
    )
    return [Requirement(what, counted, math.ceil(needed * fraction)) for what, counted, needed in needs]


def show(console: Console, tallies: dict[str, Tally], seconds: float) -> None:
    """Print the table and the findings."""
    table = Table(title="Head-steps of the reference against exact attention")
    columns = ("generator", "head-steps", "N", "encl.", "viol.", "contr.", "warn.", "undec.", "inf")
    ratios = ("max", "mean", "round.", "cast")
    for i, column in enumerate((*columns, *ratios, "rungs 0 1 2 3 4")):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    whole = total(tallies.values())
    for name, tally in tallies.items():
        table.add_row(*row(name, tally))
    table.add_section()
    table.add_row(*row("all", whole))
    console.print(table)
    console.print(LEGEND, highlight=False)
    for title, lines in (
        ("violation", whole.violations),
        ("broken contract", whole.breaks),
        ("warning", whole.warnings),
        ("undecided", whole.undecided),
    ):
        for line in lines[:LINES]:
            console.print(f"{title}: {line}", soft_wrap=True, markup=False, highlight=False)
        if len(lines) > LINES:
            console.print(f"... and {len(lines) - LINES} more of these")
    console.print(f"{seconds:.0f} s")


def show_sizes(console: Console, sizes: dict[str, Tally]) -> None:
    """Print the table of head-steps by size of cases."""
    table = Table(title="By size of cases")
    columns = (
        "size",
        "cases",
        "head-steps",
        "N",
        "N >= 1,024, d >= 64",
        "encl.",
        "viol.",
        "max",
        "keys / values / both",
    )
    for i, column in enumerate((*columns, "CPU s", "per CPU s")):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for name, tally in sizes.items():
        table.add_row(
            name,
            f"{tally.cases:,}",
            f"{tally.head_steps:,}",
            f"{tally.least_tokens:,}-{tally.most_tokens:,}" if tally.head_steps else "-",
            f"{tally.long_steps:,}",
            f"{tally.enclosed:,}",
            str(len(tally.violations)),
            number(tally.ratios["quantized"].largest),
            " / ".join(f"{count:,}" for count in tally.promoted[1:]),
            f"{tally.seconds:,.0f}",
            f"{tally.head_steps / tally.seconds:,.0f}" if tally.seconds else "-",
        )
    console.print(table)


def write_csv(path: Path, parts: Mapping[tuple[str, str], Tally]) -> None:
    """Write one line per generator and size."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ("cases", "head_steps", "long_steps", "very_long_steps", "enclosed", "infinite")
        lists = ("violations", "breaks", "warnings", "undecided")
        ratios = [f"{what}_{kind}" for kind in KINDS for what in ("max", "mean")]
        rungs = [f"rung_{i}" for i in range(5)]
        promoted = ("promoted_none", "promoted_keys", "promoted_values", "promoted_both")
        writer.writerow(["generator", "size", *names, *lists, *ratios, *rungs, *promoted, "cpu_seconds"])
        for (generator, size), tally in parts.items():
            counts = [getattr(tally, name) for name in names]
            found = [len(getattr(tally, name)) for name in lists]
            numbers = [f"{x:.6g}" for kind in KINDS for x in (tally.ratios[kind].largest, tally.ratios[kind].mean)]
            rest = [*tally.rungs, *tally.promoted, f"{tally.seconds:.3f}"]
            writer.writerow([generator, size, *counts, *found, *numbers, *rest])


def row(name: str, tally: Tally) -> list[str]:
    """Cells of one generator."""
    quantized, rounding, cast = (tally.ratios[kind] for kind in KINDS)
    return [
        name,
        f"{tally.head_steps:,}",
        f"{tally.least_tokens:,}-{tally.most_tokens:,}" if tally.head_steps else "-",
        f"{tally.enclosed:,}",
        str(len(tally.violations)),
        str(len(tally.breaks)),
        str(len(tally.warnings)),
        str(len(tally.undecided)),
        f"{tally.infinite:,}",
        number(quantized.largest),
        number(quantized.mean),
        number(rounding.largest),
        number(cast.largest),
        " ".join(f"{count:,}" for count in tally.rungs),
    ]


def number(x: float) -> str:
    """Three digits, or a dash for none."""
    return "-" if math.isnan(x) or x == 0.0 else f"{x:.3g}"


def show_requirements(console: Console, wanted: list[Requirement]) -> None:
    """Print counted and needed numbers."""
    for r in wanted:
        console.print(f"{r.counted:>12,} {r.what} (needed: {r.needed:,}){'' if r.met else '  MISSED'}")


def ratio_json(ratio: Ratio) -> dict[str, Any]:
    """One ratio for the JSON."""
    mean = None if math.isnan(ratio.mean) else ratio.mean
    return {"max": ratio.largest, "geometric_mean": mean, "positive": ratio.positive, "where": ratio.where}


def tally_json(tally: Tally) -> dict[str, Any]:
    """One generator for the JSON."""
    return {
        "cases": tally.cases,
        "head_steps": tally.head_steps,
        "long_head_steps": tally.long_steps,
        "very_long_head_steps": tally.very_long_steps,
        "enclosed": tally.enclosed,
        "tokens": [tally.least_tokens, tally.most_tokens] if tally.head_steps else None,
        "infinite_bounds": tally.infinite,
        "rungs": tally.rungs,
        "promoted": dict(zip(("nothing", "keys", "values", "both"), tally.promoted, strict=True)),
        "violations": tally.violations,
        "contract_breaks": tally.breaks,
        "warnings": tally.warnings,
        "undecided": tally.undecided,
        "error_over_bound": {kind: ratio_json(tally.ratios[kind]) for kind in KINDS},
    }
