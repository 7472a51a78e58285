"""What ``certkv verify`` prints and writes: one table, JSON, JUnit."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from certkv.proofs.registry import KINDS, THEOREMS
from certkv.proofs.smt.solvers import versions as solver_versions
from certkv.proofs.verify.finding import Finding, Task

Findings = Sequence[tuple[Task, Finding]]
SHOWN = ("numpy", "python-flint", "mpmath", "hypothesis")


def versions() -> dict[str, str]:
    """Versions of everything that a proof here rests on."""
    packages = {name: metadata.version(name) for name in SHOWN}
    return {"certkv": metadata.version("certkv"), "python": platform.python_version(), **solver_versions(), **packages}


def is_planted(task: Task) -> bool:
    """Whether a task shows that a planted mistake is noticed."""
    return task.id.endswith("!")


def table(findings: Findings) -> Table:
    """One row per theorem: evidence that held of each kind, planted mistakes noticed, and the verdict."""
    shown = Table(expand=False, pad_edge=False)
    shown.add_column("theorem", no_wrap=True)
    for kind in KINDS:
        shown.add_column(kind, justify="right", no_wrap=True)
    for name in ("planted", "s"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for theorem in THEOREMS:
        mine = [(task, finding) for task, finding in findings if task.theorem == theorem.id]
        if not mine:
            continue
        good = all(finding.ok for _, finding in mine)
        shown.add_row(
            theorem.id,
            *(_kept(mine, kind) for kind in KINDS),
            _count([finding for task, finding in mine if is_planted(task)]),
            f"{sum(finding.seconds for _, finding in mine):.1f}",
            Text("holds" if good else "FAILED", style="green" if good else "red bold"),
        )
    return shown


def _kept(findings: Findings, kind: str) -> str:
    if kind == "paper":
        return "page"
    return _count([finding for task, finding in findings if task.kind == kind and not is_planted(task)])


def _count(findings: Sequence[Finding]) -> str:
    """How many held, of how many if not all."""
    held = sum(finding.ok for finding in findings)
    return "-" if not findings else str(held) if held == len(findings) else f"{held} of {len(findings)}"


def as_json(findings: Findings, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything, for machines."""
    return {
        "versions": versions(),
        "settings": dict(settings),
        "summary": {
            "tasks": len(findings),
            "failed": sum(not finding.ok for _, finding in findings),
            "seconds": sum(finding.seconds for _, finding in findings),
        },
        "tasks": [
            {
                "id": task.id,
                "theorem": task.theorem,
                "kind": task.kind,
                "planted": is_planted(task),
                "statement": task.statement,
                "ok": finding.ok,
                "by": finding.by,
                "detail": finding.detail,
                "seconds": finding.seconds,
            }
            for task, finding in findings
        ],
    }


def as_junit(findings: Findings, left_out: Sequence[tuple[Task, str]] = (), missing: Sequence[str] = ()) -> str:
    """Return a JUnit file: a suite per theorem, a case per task.

    Parameters
    ----------
    findings : sequence of (Task, Finding)
    left_out : sequence of (Task, str)
        Tasks that were not run, and why; they are listed as skipped.
    missing : sequence of str
        Differences to the manifest, each a failure in a suite of that name.
    """
    root = ElementTree.Element("testsuites", name="certkv verify")
    for theorem in THEOREMS:
        mine = [(task, finding) for task, finding in findings if task.theorem == theorem.id]
        skipped = [(task, reason) for task, reason in left_out if task.theorem == theorem.id]
        if not mine and not skipped:
            continue
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=theorem.id,
            tests=str(len(mine) + len(skipped)),
            failures=str(sum(not finding.ok for _, finding in mine)),
            skipped=str(len(skipped)),
            time=f"{sum(finding.seconds for _, finding in mine):.3f}",
        )
        for task, finding in mine:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{theorem.id}.{task.kind}", name=task.id, time=f"{finding.seconds:.3f}"
            )
            if not finding.ok:
                failure = ElementTree.SubElement(case, "failure", message=printable(finding.detail))
                failure.text = printable(f"{task.statement}\n{finding.by}: {finding.detail}")
        for task, reason in skipped:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{theorem.id}.{task.kind}", name=task.id)
            ElementTree.SubElement(case, "skipped", message=reason)
    if missing:
        count = str(len(missing))
        suite = ElementTree.SubElement(root, "testsuite", name="manifest", tests=count, failures=count)
        for line in missing:
            case = ElementTree.SubElement(suite, "testcase", classname="manifest", name=line)
            ElementTree.SubElement(case, "failure", message="evidence is not what was shipped")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def printable(text: str) -> str:
    """Drop what XML cannot hold."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)
