"""``certkv verify``: what is printed, written and returned; above all, that it can fail."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from certkv.cli.main import main
from certkv.proofs.smt import check, solvers
from certkv.proofs.smt.solvers import Outcome
from certkv.proofs.verify import manifest, tasks
from certkv.proofs.verify import run as verify_run
from certkv.proofs.verify.finding import Task

QUICKLY = ["verify", "--quick", "--jobs", "1"]


def test_one_theorem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything about one theorem: table, JSON and JUnit say the same."""
    out, junit = tmp_path / "v.json", tmp_path / "v.xml"
    assert main([*QUICKLY, "--only", "greedy", "--json", str(out), "--junit", str(junit)]) == 0
    printed = capsys.readouterr().out
    assert "greedy" in printed
    assert "ALL THAT WAS RUN HOLDS" in printed
    assert "ALL PROVED" not in printed, "most was not run"
    assert "z3 " in printed
    written = json.loads(out.read_text("utf-8"))
    assert written["summary"]["failed"] == 0
    assert {task["theorem"] for task in written["tasks"]} == {"greedy"}
    assert any(task["planted"] for task in written["tasks"])
    assert {"certkv", "z3", "cvc5", "python"} <= written["versions"].keys()
    (suite,) = ElementTree.parse(junit).getroot()
    assert int(suite.attrib["tests"]) == len(written["tasks"])
    assert suite.attrib["failures"] == "0"


@pytest.mark.parametrize("answer", ["unknown", "sat", "error"])
def test_whatever_is_not_unsat_fails(
    answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A solver that gives up, finds a counterexample or crashes: exit code 1, and the lemma is named."""
    monkeypatch.setattr(check, "solve", lambda text, solver, limit=None: Outcome(answer, 0.0, "planted"))
    junit = tmp_path / "v.xml"
    assert main([*QUICKLY, "--only", "tolerance", "--junit", str(junit)]) == 1
    printed = capsys.readouterr().out
    assert "FAILED tolerance." in printed
    assert "HOLDS" not in printed
    assert ElementTree.parse(junit).getroot().find(".//failure") is not None


def test_a_task_that_breaks_is_a_failure() -> None:
    """Whatever is raised is the outcome of that one task, and never a success."""

    def broken() -> tuple[bool, str, str]:
        raise ZeroDivisionError("planted")

    finding = verify_run.run_task(Task("x", "hull", "smt", "", True, broken))
    assert not finding.ok
    assert "ZeroDivisionError" in finding.detail


def test_evidence_that_is_missing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that has become empty: nothing fails, and still nothing is proved."""
    monkeypatch.setattr(tasks, "SOURCES", tuple(s for s in tasks.SOURCES if s is not tasks.adversary_corpus))
    assert main([*QUICKLY, "--only", "annotations"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED evidence is not what was shipped: annotations enclosure: 0 tasks instead of" in printed
    assert "HOLDS" not in printed


def test_the_manifest_is_up_to_date() -> None:
    """Run ``python -m certkv.proofs.verify.manifest`` as its source says after a change of evidence."""
    assert manifest.differences(tasks.all_tasks()) == []


def test_a_task_that_wants_to_leave_is_a_failure() -> None:
    """A clean exit from inside a task is no success."""

    def leaves() -> tuple[bool, str, str]:
        raise SystemExit(0)

    assert not verify_run.run_task(Task("x", "hull", "smt", "", True, leaves)).ok


def test_a_format_that_leaves_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_format.py").write_text("import sys\nsys.exit(0)\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--format", "leaving_format:X"]) == 2


def test_an_interrupted_question_is_not_answered_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a question that was given up must not reach the one after it."""
    hypothesis_only = "(set-logic QF_LRA)(declare-const x Real)(assert (> x 0))(check-sat)"
    contradiction = "(set-logic QF_LRA)(declare-const x Real)(assert (and (> x 0) (< x 0)))(check-sat)"

    def interrupted() -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(solvers._ENGINES._running().stdout, "readline", interrupted)
        with pytest.raises(KeyboardInterrupt):
            solvers.solve(contradiction, "z3")
    assert solvers.solve(hypothesis_only, "z3").answer == "sat"
    assert solvers.solve(contradiction, "z3").answer == "unsat"


def test_a_planted_mistake_that_is_not_noticed_is_a_failure() -> None:
    ok, _, detail = tasks.must_fail(lambda: None, "every case")()
    assert not ok
    assert "not noticed" in detail


def test_two_processes_agree_with_one() -> None:
    mine = [task for task in tasks.all_tasks() if task.theorem in ("tolerance", "greedy")]
    one = [(task.id, finding.ok) for task, finding in verify_run.run_tasks(mine, 1)]
    two = [(task.id, finding.ok) for task, finding in verify_run.run_tasks(mine, 2)]
    assert one == two
    assert all(ok for _, ok in one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nonsense"], "nonsense is no theorem"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--json", "/nowhere/v.json"], "does not exist"),
        (["--mutants", "--quick"], "--mutants runs alone"),
        (["--format", "a:B", "--json", "x"], "--format runs alone"),
        (["--format", "nonsense"], "module:Class"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_without_the_solvers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain installation has none: one line says what to install."""
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "z3":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["verify", "--quick"]) == 2
    assert "pip install 'certkv[proofs]'" in capsys.readouterr().err


def test_kill_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--mutants"]) == 0
    assert "mutants killed" in capsys.readouterr().out
