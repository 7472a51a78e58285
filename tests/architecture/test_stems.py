"""One stem per idea: a theorem's file in reference has its derivation page and its test."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = ROOT / "reference/certkv/reference/bounds"
HELPERS = {"__init__", "decay", "paper_total", "gqa_union"}
"""Files of ``bounds`` that state no theorem of their own: shared pieces, and formulas reproduced from the paper."""

STEMS = sorted(path.stem for path in BOUNDS.glob("*.py") if path.stem not in HELPERS)


@pytest.mark.parametrize("stem", STEMS)
def test_theorem_has_derivation_and_test(stem: str) -> None:
    assert (ROOT / f"docs/derivations/{stem}.md").is_file()
    assert (ROOT / f"tests/reference/bounds/test_{stem}.py").is_file()


def test_every_derivation_has_its_theorem() -> None:
    pages = {path.stem for path in (ROOT / "docs/derivations").glob("*.md")} - {"index"}
    assert pages == set(STEMS)
