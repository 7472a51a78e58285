"""The guides: every Python block of the kernel library's runs, in order; every command in them is one that we have."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from certkv.cli.main import build_parser

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "fast.md").read_text("utf-8"), re.DOTALL)


def test_every_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """One namespace for all: later blocks use what earlier ones made."""
    assert len(BLOCKS) > 5
    names: dict[str, object] = {"__name__": "guide"}
    for index, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/fast.md, block {index}", "exec"), names)
    printed = capsys.readouterr().out
    assert "torch.Size([1, 8, 64])" in printed
    assert "q[0, 3, 5] is not finite" in printed
    assert "(1030,)" in printed  # appended in the loop
    assert "Damage(sequence=0" in printed
    assert "the second time [0]" in printed


COMMAND = re.compile(r"^(?:\$ )?(certkv [a-z].*|python -m certkv\.cli\.bench .*)$")


def commands() -> list[str]:
    """Every ``certkv ...`` that a page tells to type, without prompt and comment."""
    found = []
    for page in (*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"):
        kind = None  # of the fenced block that a line is in
        for line in page.read_text("utf-8").splitlines():
            if line.startswith("```"):
                kind = line.removeprefix("```") if kind is None else None
            elif kind in ("", "console") and (match := COMMAND.match(line)):
                found.append(re.sub(r"^python -m certkv\.cli\.bench", "certkv bench", match[1]))
    return [line for line in found if not line.startswith("certkv demo:")]  # what it prints


def test_the_pages_have_commands() -> None:
    """Otherwise the next test would pass over them."""
    assert {"audit", "bench", "demo", "verify"} <= {line.split()[1] for line in commands()}


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_every_command_is_understood(line: str) -> None:
    words = shlex.split(line.partition(" && ")[0], comments=True)
    build_parser().parse_args(words[1:])


def test_torch_is_imported_only_where_it_is_asked_for() -> None:
    """It takes seconds, and is not there where the extra ``fast`` is not installed."""
    script = "import sys, certkv.cli.main as m; m.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
