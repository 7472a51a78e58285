"""Lemmas about bits and floats: proved by every listed solver, broken variants refuted by every one."""

from __future__ import annotations

import pytest

from certkv.proofs.lemmas import (
    bits_mantissa,
    bits_packing,
    bits_rounding,
    floats_affine,
    floats_codes,
    floats_rounding,
    floats_sums,
)
from certkv.proofs.smt.check import ProofResult, prove, refute_broken
from certkv.proofs.smt.lemma import Lemma, smtlib
from certkv.proofs.smt.solvers import SOLVERS

MODULES = (bits_mantissa, bits_packing, bits_rounding, floats_affine, floats_codes, floats_rounding, floats_sums)
LEMMAS = tuple(lemma for module in MODULES for lemma in module.LEMMAS)

lemmas = pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.id)


def said(results: list[ProofResult]) -> list[str]:
    return [f"{r.question} {r.solver}: {r.outcome.answer} {r.outcome.detail}" for r in results if not r.ok]


@lemmas
def test_proved(lemma: Lemma) -> None:
    assert not said(prove(lemma))


@lemmas
def test_broken_variant_is_refuted(lemma: Lemma) -> None:
    results = refute_broken(lemma)
    assert [r.solver for r in results] == list(lemma.solvers)
    assert not said(results)


@lemmas
def test_the_texts(lemma: Lemma) -> None:
    assert set(lemma.solvers) <= set(SOLVERS)
    assert lemma.stem in {"packing", "affine", "rounding", "log_codes"}
    assert smtlib(lemma.build()) != smtlib(lemma.broken())
    assert "\n" not in lemma.statement


def test_lemmas_of_one_solver() -> None:
    """Three 16-bit numbers, or a division and a rounding of any number: docs/derivations/affine.md lists them."""
    alone = {lemma.id: lemma.solvers for lemma in LEMMAS if len(lemma.solvers) == 1}
    names = [f"{name}_{kind}" for name in ("ordered", "whole4") for kind in ("float16", "bfloat16")]
    assert alone == dict.fromkeys([f"affine.{name}" for name in [*names, "residual4_bfloat16"]], ("bitwuzla",))
    assert not any(lemma.quick for lemma in LEMMAS if lemma.id in alone)
