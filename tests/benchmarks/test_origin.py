"""Rows of results name the code that they measure, and runs to try something out are not recorded."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks import origin  # noqa: E402

RECORDED = ROOT / "benchmarks/results/planes.csv"


def asked(*words: str) -> tuple[Path | None, str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--report-only", action="store_true")
    origin.add_arguments(parser, RECORDED)
    return origin.asked(parser, parser.parse_args(words), RECORDED, "reference")


def git(monkeypatch: pytest.MonkeyPatch, head: str, changed: str) -> None:
    said = {"rev-parse": head, "status": changed}

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=said[command[1]])

    monkeypatch.setattr(subprocess, "run", answer)


def test_changed_code_is_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git(monkeypatch, "abc\n", "")
    assert asked() == (RECORDED, "abc")
    git(monkeypatch, "abc\n", " M reference/x.py\n")
    assert asked() == (RECORDED, "abc+")
    assert asked("--commit", "mine", "--out", str(tmp_path / "o.csv")) == (tmp_path / "o.csv", "mine")


def test_what_has_no_commit_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(monkeypatch, "", "")
    for words in ((), ("--small", "--out", str(RECORDED))):
        with pytest.raises(SystemExit):
            asked(*words)
        assert "give --commit NAME" in capsys.readouterr().err
    assert asked("--commit", "mine") == (RECORDED, "mine")
    assert asked("--report-only") == (RECORDED, "unknown")
    assert asked("--out", str(tmp_path / "o.csv")) == (tmp_path / "o.csv", "unknown")
    assert asked("--small") == (None, "unknown")


def test_a_small_run_records_nothing() -> None:
    before = RECORDED.read_bytes()
    command = [sys.executable, "-m", "benchmarks.planes", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not recorded" in done.stdout
    assert RECORDED.read_bytes() == before
