"""The tables of docs/planes.md, rewritten between their markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.planes.measure import SYSTEMS, TOLERANCES
from benchmarks.planes.rows import Row

HOST = tuple(system for system in SYSTEMS if system.place == "host")
DEVICE = tuple(system for system in SYSTEMS if system.place == "device")


def percent(x: float) -> str:
    """Two significant digits, in percent."""
    return f"{100 * x:.2g}" if x < 0.1 else f"{100 * x:.0f}"


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fetched(rows: Sequence[Row]) -> str:
    """Bytes from host memory per head and tolerance, a column per system."""
    header = ["head", "tokens", "tolerance, %", *(system.name for system in HOST)]
    body = []
    groups = dict.fromkeys((row.head, row.tokens) for row in rows)
    for head, tokens in groups:
        for t in TOLERANCES:
            mine = [row for row in rows if (row.head, row.tokens, row.tolerance) == (head, tokens, t)]
            cells = [
                percent(float(np.average(shares, weights=steps)))
                for system in HOST
                for shares, steps in [_pick(mine, system.name, "fetched")]
            ]
            body.append([head, str(tokens), f"{100 * t:g}", *cells])
    return markdown(header, body)


def overall(rows: Sequence[Row]) -> str:
    """Mean over heads of what is read always, held, and fetched."""
    header = ["system", "read always", "held by the device", *(f"fetched at {100 * t:g} %" for t in TOLERANCES)]
    header += ["planes read at 5 %", "head-steps in rung 3"]
    body = []
    for system in SYSTEMS:
        mine = [row for row in rows if row.system == system.name]
        cells = [percent(float(np.mean([getattr(row, name) for row in mine]))) for name in ("base", "device")]
        for t in TOLERANCES:
            cells.append(percent(_mean_of_groups(mine, t, "fetched")))
        cells.append(percent(_mean_of_groups(mine, 0.05, "plane_bytes")))
        cells.append(f"{sum(row.rung_3 for row in mine)} of {sum(row.head_steps for row in mine)}")
        body.append([system.name, *cells])
    return markdown(header, body)


def run_line(rows: Sequence[Row]) -> str:
    """Say what was run."""
    first, steps, bad = rows[0], sum(row.head_steps for row in rows), sum(row.violations for row in rows)
    return f"{steps} head-steps, {bad} violations; run {first.run} at commit {first.commit} ({first.versions})."


TABLES = {"run": run_line, "overall": overall, "fetched": fetched}


def _pick(rows: Sequence[Row], system: str, name: str) -> tuple[list[float], list[int]]:
    mine = [row for row in rows if row.system == system]
    return [getattr(row, name) for row in mine], [row.head_steps for row in mine]


def _mean_of_groups(rows: Sequence[Row], t: float, name: str) -> float:
    """Every head and length counts alike; layers of a capture count together."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.tolerance == t:
            groups.setdefault((row.head, row.tokens), []).append(row)
    means = [
        np.average([getattr(row, name) for row in group], weights=[row.head_steps for row in group])
        for group in groups.values()
    ]
    return float(np.mean(means))


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return a page's text with the tables of these rows between its markers.

    Raises
    ------
    ValueError
        A marker is missing or twice there.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: generated -->", "<!-- end -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page needs {begin} and {end} exactly once")
        block = f"{begin}\n{table(rows)}\n{end}"
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


def rewrite(page: Path, rows: Sequence[Row]) -> None:
    """Rewrite the page."""
    page.write_text(filled(page.read_text("utf-8"), rows), "utf-8")
