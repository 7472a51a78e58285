"""Lemmas about bits and floats: proved by every listed solver, broken variants refuted by every one."""

from __future__ import annotations

import pytest

from certkv.proofs.lemmas import bits_mantissa, bits_packing, bits_rounding, floats_affine, floats_rounding, floats_sums
from certkv.proofs.smt.check import ProofResult, prove, refute_broken
from certkv.proofs.smt.lemma import Lemma, smtlib
from certkv.proofs.smt.solvers import SOLVERS

MODULES = (bits_mantissa, bits_packing, bits_rounding, floats_affine, floats_rounding, floats_sums)
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
    assert lemma.stem in {"packing", "affine", "rounding"}
    assert smtlib(lemma.build()) != smtlib(lemma.broken())
    assert "\n" not in lemma.statement


def test_most_lemmas_have_more_than_one_solver() -> None:
    """Which ones rest on a single solver is said in the derivations; this list must match them."""
    alone = {lemma.id for lemma in LEMMAS if len(lemma.solvers) == 1}
    assert alone == {
        *[f"affine.{name}_{kind}" for name in ("ranges", "in_range4", "in_range8", "whole4") for kind in KINDS],
        "affine.residual4_bfloat16",
        "affine.decode_float16",
        "rounding.sum_outward_float64",
        *[f"rounding.{name}_outward_{kind}" for name in ("product", "root") for kind in ("float32", "float64")],
        "rounding.quotient_outward_float32",
        "rounding.sum_inward_float32",
    }


KINDS = ("float16", "bfloat16")
