"""Result files: rows of dataclasses, appended run by run."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Any)
"""A dataclass of int, float and str fields, of which one is ``run``."""


def append(file: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Append rows to a result file, which is begun where there is none.

    Raises
    ------
    ValueError
        The file has other columns.
    """
    names = [field.name for field in fields(kind)]
    new = not file.exists()
    if not new and file.read_text("utf-8").splitlines()[:1] != [",".join(names)]:
        raise ValueError(f"{file} has other columns than this version writes; move it away")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, names, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{x:.4g}" if isinstance(x, float) else x for k, x in asdict(row).items()})


def last_run(file: Path, kind: type[Row]) -> list[Row]:
    """Read the rows of the newest run."""
    kinds = {"int": int, "float": float, "str": str}
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [
            kind(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(kind)})
            for line in csv.DictReader(opened)
        ]
    return [row for row in rows if row.run == rows[-1].run]
