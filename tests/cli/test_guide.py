"""The guide of the kernel library: every Python block runs, in order, as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
