"""The lemmas of the theorems: proved by every solver that they list, their broken variants refuted by the same."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import certkv.proofs.lemmas as package
from certkv.proofs.smt.check import prove, refute_broken
from certkv.proofs.smt.lemma import Lemma, smtlib

MODULES = (
    "affine",
    "arithmetic",
    "block_bound",
    "correction",
    "decomposition",
    "full_tv",
    "greedy",
    "hull",
    "key_tv",
    "mass",
    "norms",
    "score_error",
    "softmax_state",
    "tail_tv",
    "tail_tv_forms",
    "tolerance",
    "value_blocks",
)
"""Modules over the reals."""

ELSEWHERE = ("bits_", "floats_", "ladder", "cache_life")
"""Modules over bits, floats and states: slower, so they have test files of their own."""

LEMMAS: tuple[Lemma, ...] = tuple(
    lemma for module in MODULES for lemma in importlib.import_module(f"{package.__name__}.{module}").LEMMAS
)

each = pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.id)


@each
def test_proved(lemma: Lemma) -> None:
    failures = [f"{r.question}, {r.solver}: {r.outcome}" for r in prove(lemma) if not r.ok]
    assert not failures


@each
def test_broken_variant_refuted(lemma: Lemma) -> None:
    failures = [f"{r.solver}: {r.outcome}" for r in refute_broken(lemma) if not r.ok]
    assert not failures


@each
def test_stated_whole(lemma: Lemma) -> None:
    assert lemma.statement
    assert "\n" not in lemma.statement
    assert set(lemma.solvers) >= {"z3", "cvc5"}, "a lemma that only one solver proves is to be staged further"
    assert smtlib(lemma.build()) == smtlib(lemma.build()), "the text depends on what was built before"
    assert smtlib(lemma.build()) != smtlib(lemma.broken())


@pytest.mark.parametrize("module", MODULES)
def test_ids_carry_the_stem(module: str) -> None:
    stems = {lemma.stem for lemma in importlib.import_module(f"{package.__name__}.{module}").LEMMAS}
    assert len(stems) == 1
    assert module.startswith(stems.pop())


def test_every_module_is_somebodys() -> None:
    """A module in neither list would be proved by nobody's test."""
    found = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    unknown = {name for name in found - set(MODULES) if not name.startswith(ELSEWHERE)}
    assert not unknown
    assert set(MODULES) <= found
