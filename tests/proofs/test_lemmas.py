"""The lemmas of the theorems: proved by every solver that they list, their broken variants refuted by the same."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import certkv.proofs.lemmas as package
from certkv.proofs.lemmas import all_lemmas
from certkv.proofs.smt.check import prove, refute_broken
from certkv.proofs.smt.lemma import Goal, Lemma, smtlib

MODULES = (
    "affine",
    "arithmetic",
    "block_bound",
    "certificate_state",
    "correction",
    "correction_carried",
    "decomposition",
    "full_tv",
    "greedy",
    "hull",
    "kernel_arithmetic",
    "kernel_arithmetic_folded",
    "kernel_arithmetic_sums",
    "key_tv",
    "log_codes",
    "mass",
    "norms",
    "operator_norm",
    "oscar_element",
    "outward_fp32",
    "planes",
    "quotient",
    "rotation",
    "score_error",
    "sharp",
    "sharp_forms",
    "softmax_state",
    "spectral",
    "tail_tv",
    "tail_tv_forms",
    "token_norm_imbalance",
    "tolerance",
    "value_blocks",
    "weighted_sums",
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


def alike(lemmas: Sequence[Lemma]) -> list[list[str]]:
    """Ids of lemmas that put the same question, whatever the order of their hypotheses."""
    asked: dict[tuple[str, ...], list[str]] = {}
    for lemma in lemmas:
        asked.setdefault(tuple(sorted(smtlib(lemma.build()).splitlines())), []).append(lemma.id)
    return [ids for ids in asked.values() if len(ids) > 1]


def test_no_two_lemmas_are_the_same() -> None:
    """One fact under two names would count as two proofs."""
    assert alike(all_lemmas()) == []


def test_a_repeated_lemma_is_seen() -> None:
    one = LEMMAS[0]

    def turned() -> Goal:
        goal = one.build()
        return Goal(goal.logic, list(reversed(goal.hypotheses)), goal.conclusion)

    assert alike([one, LEMMAS[1], replace(one, id="x.again", build=turned)]) == [[one.id, "x.again"]]
