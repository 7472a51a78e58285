"""What became of a format: data, and a table of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.table import Table

Result = Literal["pass", "fail", "not applicable"]

STYLES = {"pass": "green", "fail": "red", "not applicable": "dim"}


@dataclass(frozen=True)
class Row:
    """One line of a report.

    Attributes
    ----------
    kind : {"check", "mutant"}
    id, what : str
    result : {"pass", "fail", "not applicable"}
        A mutant passes if its check noticed it.
    detail : str
        What was looked at, what failed, or why there was nothing to do.
    seconds : float
    """

    kind: Literal["check", "mutant"]
    id: str
    what: str
    result: Result
    detail: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What became of a format.

    Attributes
    ----------
    name : str
    rows : tuple of Row
    """

    name: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds and every planted mistake was noticed."""
        return all(row.result != "fail" for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows that failed."""
        return tuple(row for row in self.rows if row.result == "fail")


def table(report: Report) -> Table:
    """Lay a report out."""
    found = Table(title=f"format {report.name}", expand=True)
    for column, ratio in (("", None), ("result", None), ("statement", 2), ("seen", 3), ("s", None)):
        found.add_column(column, ratio=ratio, no_wrap=ratio is None)
    for row in report.rows:
        result = {"check": row.result, "mutant": {"pass": "noticed", "fail": "SURVIVES"}.get(row.result, row.result)}
        cells = (row.id, result[row.kind], row.what, row.detail.splitlines()[0][:200], f"{row.seconds:.1f}")
        found.add_row(*(cell.replace("[", r"\[") for cell in cells), style=STYLES[row.result])
    return found
