"""``certkv verify``: what is printed, written and returned; above all, that it can fail."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from certkv.cli.main import main
from certkv.proofs.smt import check, solvers
from certkv.proofs.verify import manifest, tasks
from certkv.proofs.verify import run as verify_run
from certkv.proofs.verify.finding import Task
from certkv.proofs.verify.run import Worker

QUICKLY = ["verify", "--quick", "--jobs", "1"]


def source_of(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    """Return the function ``planted`` of a module that the processes can import too."""
    name = f"planted_{folder.name}"
    (folder / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name).planted


BADLY = """
    import multiprocessing, os, signal, subprocess, sys, time
    from certkv.proofs.verify.finding import Task

    def good():
        return True, "nobody", str(os.getpid())

    def says_no():
        return 1, "nobody", "true, but not True"

    def leaves():
        os._exit(0)

    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    def never_returns():
        # what it started must not outlive it either
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.path.join(os.path.dirname(__file__), "pids"), "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    def unreadable():
        return True, "nobody", lambda: None

    def planted():
        runs = good, leaves, good, dies, says_no, never_returns, unreadable, good
        return [Task(f"{i} {run.__name__}", "hull", "smt", "", True, run) for i, run in enumerate(runs)]
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_ends_its_process_or_never_ends_is_a_failure(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is the failure of that task alone: without an answer nothing holds, and the next has a process again."""
    planted = source_of(tmp_path, monkeypatch, BADLY)
    # 3 s: every other task here is a single statement, in a process that has been started before its time counts
    found = [(task.id, finding) for task, finding in verify_run.run_tasks(planted(), jobs, planted, 3.0)]
    assert [name for name, _ in found] == [task.id for task in planted()]
    assert [name for name, finding in found if finding.ok] == ["0 good", "2 good", "7 good"]
    said = {name.partition(" ")[2]: finding.detail for name, finding in found}
    assert "exit code 0" in said["leaves"]
    assert "exit code -9" in said["dies"]
    assert said["never_returns"] == "no answer after 3 s of wall time"
    assert 3.0 <= next(finding.seconds for name, finding in found if "never" in name) < 30.0, "not ended in time"
    assert said["unreadable"]
    assert int(said["good"]) != os.getpid()
    for pid in (tmp_path / "pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_verify_fails_where_a_task_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = source_of(tmp_path, monkeypatch, BADLY)
    monkeypatch.setattr(tasks, "all_tasks", planted)
    monkeypatch.setattr(manifest, "differences", lambda _: [])
    assert main(["verify", "--jobs", "1", "--limit", "3"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED 1 leaves" in printed
    assert "5 of 8 tasks FAILED" in printed


def test_processes_that_cannot_be_started_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is proved, nothing raises."""

    def refused(*_: object) -> None:
        raise OSError("planted: no more processes")

    monkeypatch.setattr(verify_run, "Child", refused)
    mine = tasks.all_tasks()[:3]
    found = list(verify_run.run_tasks(mine, 2))
    assert [task for task, _ in found] == list(mine)
    assert all(not finding.ok and "no more processes" in finding.detail for _, finding in found)


def test_a_source_that_breaks_in_the_process_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = source_of(tmp_path, monkeypatch, "def planted():\n    raise SystemExit(0)\n")
    mine = [Task("x", "hull", "smt", "", True, lambda: (True, "", ""))]
    ((_, finding),) = verify_run.run_tasks(mine, 1, planted)
    assert not finding.ok


def test_breaking_off_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = source_of(tmp_path, monkeypatch, BADLY)
    workers: list[Worker] = []

    def kept(*arguments: Any) -> Worker:
        workers.append(Worker(*arguments))
        return workers[-1]

    monkeypatch.setattr(verify_run, "Worker", kept)
    running = verify_run.run_tasks(planted(), 1, planted, 600.0)
    next(running)
    child = workers[0]._child
    assert child is not None
    running.close()
    try:
        assert not child._process.is_alive()
        assert not workers[0].run(planted()[0]).ok, "none is started afterwards"
    finally:
        workers[0]._end()


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
    suites = {suite.attrib["name"]: suite for suite in ElementTree.parse(junit).getroot()}
    suite = suites["greedy"]
    assert int(suite.attrib["tests"]) - int(suite.attrib["skipped"]) == len(written["tasks"])
    assert suite.attrib["failures"] == "0"


def test_what_was_not_run_is_skipped_in_junit(tmp_path: Path) -> None:
    """Every task there is stands in the file: run, or skipped and why."""
    junit = tmp_path / "v.xml"
    assert main([*QUICKLY, "--only", "affine", "--junit", str(junit)]) == 0
    root = ElementTree.parse(junit).getroot()
    everything = tasks.all_tasks()
    reasons = {
        case.attrib["name"]: [s.attrib["message"] for s in case.iter("skipped")] for case in root.iter("testcase")
    }
    assert reasons.keys() == {task.id for task in everything}
    assert any(task.theorem == "affine" and not task.quick for task in everything)
    for task in everything:
        slow, other = ["slow: --quick leaves it out"], ["--only does not name its theorem"]
        assert reasons[task.id] == (other if task.theorem != "affine" else [] if task.quick else slow), task.id
    skipped = sum(int(suite.attrib["skipped"]) for suite in root)
    assert skipped == sum(bool(reason) for reason in reasons.values())
    assert sum(int(suite.attrib["tests"]) for suite in root) == len(everything)


@pytest.mark.parametrize("answer", ["unknown", "sat", "error"])
def test_whatever_is_not_unsat_fails(
    answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A solver that gives up, finds a counterexample or crashes: exit code 1, and the lemma is named."""
    planted = source_of(
        tmp_path,
        monkeypatch,
        f"""
        from certkv.proofs.smt import check
        from certkv.proofs.smt.solvers import Outcome
        from certkv.proofs.verify.tasks import SOURCES

        def planted():
            check.solve = lambda text, solver, limit=None: Outcome("{answer}", 0.0, "planted")
            return [task for source in SOURCES for task in source()]
        """,
    )
    monkeypatch.setattr(tasks, "all_tasks", planted)
    monkeypatch.setattr(check, "solve", solvers.solve)  # the function above plants it here too: put back afterwards
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that has become empty: nothing fails, and still nothing is proved."""
    monkeypatch.setattr(tasks, "SOURCES", tuple(s for s in tasks.SOURCES if s is not tasks.adversary_corpus))
    junit = tmp_path / "v.xml"
    assert main([*QUICKLY, "--only", "annotations", "--junit", str(junit)]) == 1
    suite = next(suite for suite in ElementTree.parse(junit).getroot() if suite.attrib["name"] == "manifest")
    assert int(suite.attrib["failures"]) == len(list(suite.iter("failure"))) > 0
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


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("import os; os._exit(0)", 2, "cannot import"),
        ("class X:\n def encode(self, x): import os; os._exit(0)\n def decode(self, s): return s", 1, "exit code 0"),
        ("class X:\n def encode(self, x): import sys; sys.exit(0)\n def decode(self, s): return s", 1, "SystemExit"),
        ("class X:\n def encode(self, x):\n  while 1: pass\n def decode(self, s): return s", 1, "no answer after 2 s"),
    ],
)
def test_a_format_that_ends_the_process_is_no_success(
    body: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has a process of its own, which must say that it is done. 2 s: importing the one class is all that counts."""
    (tmp_path / "ending_format.py").write_text(body, "utf-8")
    monkeypatch.chdir(tmp_path)
    limit = ["--limit", "2"] if "while" in body else []
    assert main(["verify", "--format", "ending_format:X", *limit]) == code
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert "sound" not in said.out


LOSSLESS = "class X:\n def encode(self, x): return x.astype('f8')\n def decode(self, s): return s.copy()\n"
BAD_CLAIM = "class Y(X):\n def decode_error_ub(self, s): return s * float('nan')\n"
DIES_LATER = "class Z(X):\n def bytes_per_block(self, b, d): import os; os._exit(0)\n"


@pytest.mark.parametrize(
    ("name", "code", "failed"), [("X", 0, set()), ("Y", 1, {"meaning", "annotations"}), ("Z", 1, {"bytes"})]
)
def test_what_became_of_a_format_is_written(
    name: str,
    code: int,
    failed: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Screen, JSON and JUnit say the same, for a format that ends its process too."""
    (tmp_path / "written_format.py").write_text(LOSSLESS + BAD_CLAIM + DIES_LATER, "utf-8")
    monkeypatch.chdir(tmp_path)
    sizes = ["--blocks", "1,4", "--head-dims", "2"]
    files = ["--json", "v.json", "--junit", "v.xml"]
    assert main(["verify", "--format", f"written_format:{name}", *sizes, *files]) == code
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "v.json").read_text("utf-8"))
    root = ElementTree.parse(tmp_path / "v.xml").getroot()
    found = {row["id"] for row in written["rows"] if row["result"] == "fail"}
    assert failed <= found
    assert bool(found) == bool(failed)
    assert found == {case.attrib["name"] for case in root.iter("testcase") if case.find("failure") is not None}
    assert all(f"FAILED {row}: " in printed for row in found)
    assert written["summary"]["ok"] == (code == 0)
    assert written["summary"]["failed"] == len(found) == sum(int(suite.attrib["failures"]) for suite in root)
    assert written["summary"]["rows"] == len(list(root.iter("testcase")))
    skipped = [row["id"] for row in written["rows"] if row["result"] == "not applicable"]
    assert skipped == [case.attrib["name"] for case in root.iter("testcase") if case.find("skipped") is not None]
    assert written["settings"]["blocks"] == [1, 4]
    if name != "Z":
        assert written["summary"]["tried"] == "1, 4 x 2; 64 x 2"
        assert "tried: 1, 4 x 2; 64 x 2" in printed


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
        (["--limit", "0"], "--limit is 0"),
        (["--limit", "inf"], "--limit is inf"),
        (["--mutants", "--limit", "5"], "--mutants runs alone"),
        (["--json", "/nowhere/v.json"], "does not exist"),
        (["--mutants", "--quick"], "--mutants runs alone"),
        (["--mutants", "--json", "x"], "--mutants runs alone"),
        (["--format", "a:B", "--quick"], "--format runs alone"),
        (["--format", "a:B", "--json", "/nowhere/v.json"], "does not exist"),
        (["--format", "a:B", "--blocks", "4,0"], "'4,0' are no sizes"),
        (["--format", "a:B", "--head-dims", "x"], "'x' are no sizes"),
        (["--blocks", "4"], "--blocks is for a format of your own"),
        (["--mutants", "--head-dims", "4"], "--head-dims is for a format of your own"),
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
