"""What became of a format: data, and a table of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from certkv.proofs.verify.report import printable, versions

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
    class_name : str
        Of the user's class, which may have inherited its name.
    tried : str
        Sizes that were tried, tokens per block x channels.
    rows : tuple of Row
    """

    name: str
    class_name: str
    tried: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """The name, and the class where that is another."""
        return self.name if self.name == self.class_name else f"{self.name} (class {self.class_name})"

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
    found = Table(title=Text(f"format {report.title}"), expand=True)
    for column, ratio in (("", None), ("result", None), ("statement", 2), ("seen", 3), ("s", None)):
        found.add_column(column, ratio=ratio, no_wrap=ratio is None)
    for row in report.rows:
        result = {"check": row.result, "mutant": {"pass": "noticed", "fail": "SURVIVES"}.get(row.result, row.result)}
        cells = (row.id, result[row.kind], row.what, " ".join(row.detail.split())[:200], f"{row.seconds:.1f}")
        found.add_row(*(cell.replace("[", r"\[") for cell in cells), style=STYLES[row.result])
    return found


def verdict(report: Report) -> str:
    """Say in one line what came out, and for which sizes."""
    failed = ", ".join(row.id for row in report.failures)
    said = f"FAILED: {failed}" if failed else "sound"
    return f"{report.title}: {said} (tokens per block x channels tried: {report.tried})"


def as_json(report: Report, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything, for machines."""
    return {
        "versions": versions(),
        "settings": dict(settings),
        "summary": {
            "format": report.name,
            "class": report.class_name,
            "tried": report.tried,
            "ok": report.ok,
            "rows": len(report.rows),
            "failed": len(report.failures),
            "seconds": sum(row.seconds for row in report.rows),
        },
        "rows": [asdict(row) for row in report.rows],
    }


def as_junit(report: Report) -> str:
    """Return a JUnit file: a suite of checks and a suite of planted mistakes; what is not applicable is skipped."""
    root = ElementTree.Element("testsuites", name=printable(f"certkv verify --format: {report.title}"))
    for kind in ("check", "mutant"):
        mine = [row for row in report.rows if row.kind == kind]
        if not mine:
            continue
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=kind,
            tests=str(len(mine)),
            failures=str(sum(row.result == "fail" for row in mine)),
            skipped=str(sum(row.result == "not applicable" for row in mine)),
            time=f"{sum(row.seconds for row in mine):.3f}",
        )
        for row in mine:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=printable(f"{report.class_name}.{kind}"),
                name=row.id,
                time=f"{row.seconds:.3f}",
            )
            if row.result == "fail":
                failure = ElementTree.SubElement(case, "failure", message=printable(row.detail))
                failure.text = printable(f"{row.what}\n{row.detail}")
            elif row.result == "not applicable":
                ElementTree.SubElement(case, "skipped", message=printable(row.detail))
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
