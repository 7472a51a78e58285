"""One stem per idea: a theorem is in the registry, in the reference, in the derivations, and has evidence."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from certkv.proofs.registry import THEOREMS, Theorem
from certkv.proofs.registry.document import theorems_page
from certkv.proofs.verify.tasks import all_tasks

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = ROOT / "reference/certkv/reference/bounds"
HELPERS = {"__init__", "decay", "paper_total", "gqa_union", "root", "kappa", "kernel_model"}
"""Files of ``bounds`` that state no theorem of their own: shared pieces, and formulas reproduced from the paper."""

by_id = pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.id)


@by_id
def test_theorem_is_stated_derived_and_relied_on(theorem: Theorem) -> None:
    """The files exist, and so does the code that is named as relying on it."""
    assert (ROOT / theorem.reference).is_file()
    assert (ROOT / theorem.test).is_file()
    assert (ROOT / f"docs/derivations/{theorem.id}.md").is_file()
    assert theorem.relied_on_by
    for name in theorem.relied_on_by:
        parts = name.split(".")
        for size in range(len(parts), 0, -1):
            try:
                found: object = importlib.import_module(".".join(parts[:size]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[size:]:
                found = getattr(found, attribute)
            break


@by_id
def test_theorem_has_evidence(theorem: Theorem) -> None:
    """More than its page: something that runs, and a planted mistake or a worst case that it can fail on."""
    mine = [task for task in all_tasks() if task.theorem == theorem.id]
    assert mine


def test_ids_are_unique() -> None:
    assert len({theorem.id for theorem in THEOREMS}) == len(THEOREMS)


def test_every_piece_of_evidence_serves_a_theorem() -> None:
    assert {task.theorem for task in all_tasks()} == {theorem.id for theorem in THEOREMS}


def test_every_page_and_every_bound_is_a_theorem() -> None:
    pages = {path.stem for path in (ROOT / "docs/derivations").glob("*.md")}
    assert pages == {theorem.id for theorem in THEOREMS}
    bounds = {path.stem for path in BOUNDS.glob("*.py")} - HELPERS
    assert bounds <= pages
    for stem in bounds:
        assert (ROOT / f"tests/reference/bounds/test_{stem}.py").is_file()


def test_theorems_page_is_up_to_date() -> None:
    """Run ``python -m certkv.proofs.registry > docs/THEOREMS.md`` after a change."""
    assert (ROOT / "docs/THEOREMS.md").read_text("utf-8") == theorems_page()
