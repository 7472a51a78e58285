"""Every check holds on correct code, every mutant is killed, and docs/DEFECTS.md says so row by row."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from certkv.proofs.mutants import __main__ as table
from certkv.proofs.mutants import registry
from certkv.proofs.mutants.model import Mutant, patched, require_raises
from certkv.proofs.mutants.registry import CHECKS, MUTANTS, CheckFailed, kill
from certkv.reference import ladder, step

ROWS = [f"A{n}" for n in range(1, 12)] + [f"B{n}" for n in range(1, 10)]
DEFECTS = Path(__file__).resolve().parents[2] / "docs" / "DEFECTS.md"


@pytest.mark.parametrize("name", CHECKS)
def test_check_holds(name: str) -> None:
    CHECKS[name].run()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_mutant_is_killed(mutant: Mutant) -> None:
    outcome = kill(mutant)
    assert outcome.killed, f"{mutant.what}: {mutant.check} sees nothing"


def test_ids_are_unique() -> None:
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)
    assert len(CHECKS) == sum(len(theme.CHECKS) for theme in registry.THEMES)


def test_every_row_has_a_mutant() -> None:
    assert {mutant.defect for mutant in MUTANTS} == {*ROWS, "-"}


def test_every_check_has_a_mutant() -> None:
    assert {mutant.check for mutant in MUTANTS} == set(CHECKS)


def test_document_lists_the_mutants_of_each_row() -> None:
    rows = dict(re.findall(r"^\| ([AB]\d+) \|(.*)\|$", DEFECTS.read_text(), flags=re.MULTILINE))
    assert list(rows) == ROWS
    for row, text in rows.items():
        planted, checked = (set(re.findall(r"`([^`]+)`", cell)) for cell in text.split("|")[-2:])
        mine = [mutant for mutant in MUTANTS if mutant.defect == row]
        assert planted == {mutant.id for mutant in mine}, row
        assert checked == {mutant.check for mutant in mine}, row


def test_document_lists_the_other_mutants() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|", DEFECTS.read_text(), flags=re.MULTILINE))
    assert listed == {mutant.id for mutant in MUTANTS if mutant.defect == "-"}


def test_planting_ends_with_the_block() -> None:
    decode, action = step.decode, ladder.next_action
    for mutant in MUTANTS:
        with mutant.plant():
            pass
    assert (step.decode, ladder.next_action) == (decode, action)


def test_renamed_code_is_an_error() -> None:
    with pytest.raises(AttributeError), patched((ladder, "no_such_function", None)):
        pass


def survivor(plant: AbstractContextManager[None] | None = None) -> Mutant:
    return Mutant("harmless", "-", "nothing", lambda: plant or nullcontext(), "mass")


def test_a_survivor_fails_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(table, "CHECKS", {"mass": CHECKS["mass"]})
    killed = tuple(mutant for mutant in MUTANTS if mutant.check == "mass")
    monkeypatch.setattr(table, "MUTANTS", killed)
    assert table.main() == 0
    monkeypatch.setattr(table, "MUTANTS", (*killed, survivor()))
    assert table.main() == 1
    assert "harmless survives mass" in capsys.readouterr().out


def test_a_stumble_is_no_kill() -> None:
    broken = patched((ladder, "next_action", None), (registry, "CHECKS", {"mass": CHECKS["unknown-not-accepted"]}))
    with pytest.raises(TypeError):
        kill(survivor(broken))


def test_a_missing_error_is_a_failure() -> None:
    with pytest.raises(CheckFailed, match="no ValueError"):
        require_raises(ValueError, lambda: None, "nothing")
