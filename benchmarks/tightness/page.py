"""Rewrite what is measured in the page: everything between its markers, and the plots beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tightness import figures, tables
from benchmarks.tightness.rows import Row

TABLES = {
    "targets": tables.targets,
    "ratios": tables.ratios,
    "blocks": tables.blocks,
    "reads": tables.reads,
    "promoted": tables.promoted,
    "rounds": tables.rounds,
    "moved": tables.moved,
}


def source_line(rows: Sequence[Row]) -> str:
    """Say what was run."""
    first, steps = rows[0], sum(row.head_steps for row in rows)
    return f"{steps} head-steps, run {first.run} at commit {first.commit} ({first.versions})."


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return a page's text with the tables of these rows between its markers.

    Raises
    ------
    ValueError
        A marker is missing or twice there.
    """
    for name, content in (("run", source_line(rows)), *((name, table(rows)) for name, table in TABLES.items())):
        begin, end = f"<!-- {name}: generated -->", "<!-- end -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page needs {begin} and {end} exactly once")
        block = f"{begin}\n{content}\n{end}"
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


def rewrite(page: Path, rows: Sequence[Row]) -> None:
    """Rewrite the page and the plots in the folder of its name."""
    page.write_text(filled(page.read_text("utf-8"), rows), "utf-8")
    figures.draw(page.with_suffix(""), rows)
