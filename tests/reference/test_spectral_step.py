"""Whole steps with and without the terms of theorem ``spectral``: never worse with them, and never unsound."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.scene import Scene
from certkv.proofs.strategies import HeadStep, head_steps
from certkv.proofs.strategies.properties import bounds_hold
from certkv.reference import Naive, PaperPolicy, Policy, Step
from certkv.reference.bounds import arithmetic
from certkv.reference.bounds.spectral import ScoreKnowledge
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps import coded_terms
from certkv.reference.steps import group as group_module
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.coded_terms import CodedTerms
from certkv.reference.steps.group import Group, Levels, any_row

SAME = 1.0 + 1e-11
"""Shares of tokens are summed, or the mass of their block is taken: fewer than 200 roundings apart, 5e-14. Where errors
are large a root is searched, which ends within 2e-12 of it."""

LOST = 2.0**-900
"""What a step charges for underflow anyway."""


def block_terms(
    group: Group,
    levels: Levels,
    seen: Attended,
    output: FloatArray,
    errors: ScoreKnowledge,
    rounding_ub: FloatArray,
) -> CodedTerms:
    """What is left of the terms with the largest error of each block alone: theorem ``block_bound``."""
    del output, errors, rounding_ub
    mass = arithmetic.mass_ub(seen.mass[:, :-1], group.view.tokens)
    eta = group.coded_value_notes.residual_norm_ub.astype(np.float64)
    nothing = np.full(mass.shape, np.inf)
    return CodedTerms(nothing, nothing, np.where(levels.values, 0.0, mass * eta), np.zeros(mass.shape))


def without_norms(case: HeadStep) -> Step:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_terms, "spectral_terms", block_terms)
        return case.decode()


def whole(scene: Scene) -> HeadStep:
    return HeadStep(scene, Naive(), None, "float64", (len(scene.k),), 0)


POLICIES: list[Policy] = [Naive(), PaperPolicy(k_min=1, k_max=1, coverage=0.5, value_budget=0.01)]


@given(head_steps(policy=st.sampled_from(POLICIES)))
def test_never_worse_than_block_bound_and_never_below_the_error(case: HeadStep) -> None:
    """Same output, same levels; every bound holds by enclosures."""
    sharp, plain = case.decode(), without_norms(case)
    assert (sharp.output == plain.output).all()
    with np.errstate(over="ignore"):
        assert (sharp.certificate.bound <= plain.certificate.bound * SAME + LOST).all()
    bounds_hold(case)


def test_it_is_worth_it() -> None:
    """Gaussian heads of 512 tokens in blocks of 64: the bound falls to less than a third, for each head."""
    scene = gaussian(3, tokens=512, head_dim=64, block=64, values="int4-g32")
    case = whole(scene)
    sharp, plain = case.decode().certificate.bound, without_norms(case).certificate.bound
    assert (sharp < plain / 3).all()


def test_a_share_that_underflows_may_be_half_of_the_truth() -> None:
    """A score coded 700 too low, and the smallest number there is as its value."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    k, v = np.zeros((8, 1, 2)), np.zeros((8, 1, 2))
    k[:5, 0, 0] = 126.5
    k[5:, 0] = [[-128.0, -2040.0], [127.0, -2040.0], [-128.0, -2040.0]]
    v[4, 0, 0] = 2.0**-133
    scene = Scene(np.array([[1400.5, 1.0]], np.float32), k.astype(bfloat16), v.astype(bfloat16), 4, "int8", "dense")
    step = scene.decode(Naive())
    (verdict,) = scene.verdicts(step)
    assert verdict.error_lb > 1e-41, "the token counts"
    assert verdict.error_ub <= step.certificate.bound[0]


def test_promoted_sides_are_apart() -> None:
    """Original keys leave value terms, original values leave key terms."""
    case = whole(gaussian(4, tokens=64, block=16, values="int4-g32"))
    seen: list[CodedTerms] = []
    real = coded_terms.spectral_terms

    def spied(group: Group, levels: Levels, attended: Attended, *rest: object) -> CodedTerms:
        for side in ("keys", "values"):
            marks = {"keys": np.zeros_like(levels.keys), "values": np.zeros_like(levels.values)}
            marks[side][:, 1] = True
            errors = ScoreKnowledge(*(np.where(marks["keys"], 0.0, x) for x in (group.delta_ub, group.operator_ub)))
            group.originals("values", any_row(marks["values"]))
            output, rounding = rest[0], rest[2]
            seen.append(real(group, Levels(**marks), attended, output, errors, rounding))  # type: ignore[arg-type]
        return real(group, levels, attended, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_terms, "spectral_terms", spied)
        case.decode()
    keys, values = seen[:2]
    assert (keys.pure_key[:, 1] == 0.0).all()
    assert (keys.key[:, 1] > 0.0).all(), "rounding stays"
    assert (keys.value[:, 1] > 0.0).all()
    assert (values.value[:, 1] == 0.0).all()
    assert (values.key[:, 1] > keys.key[:, 1]).all()
    assert (keys.pure_key[:, 0] > 0.0).all()


def test_a_key_norm_that_no_step_measures_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual where every step is 0 has an infinite ratio: then nothing bounds the norm of the original."""
    scene = gaussian(5, tokens=32, block=16, kv_heads=1)
    view = scene.cache().view(0)
    plain = Group(scene.q.astype(np.float64), np.arange(len(scene.q)), scene.scale, view)
    assert np.isfinite(plain.key_norm_ub).all()
    notes = view.key_annotations()
    unmeasured = replace(notes, relative_norm_ub=np.full_like(notes.relative_norm_ub, np.inf))
    monkeypatch.setattr(type(view), "key_annotations", lambda self: unmeasured)
    monkeypatch.setattr(group_module, "residual_unit", lambda encoded: np.zeros((2, 32)))
    assert np.isinf(Group(plain.q, plain.heads, plain.scale, view).key_norm_ub).all()


def test_an_output_beyond_its_type_has_no_bound_and_no_warning() -> None:
    """Distances from an infinite output are infinite; NumPy's warnings, which pytest makes errors, must not appear."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    rng = np.random.default_rng(3)
    k, v = rng.standard_normal((70, 1, 8)).astype(bfloat16), (1e30 * rng.standard_normal((70, 1, 8))).astype(bfloat16)
    scene = Scene(rng.standard_normal((2, 8)).astype(np.float16), k, v, 32, "int8", "int4-g32")
    step = HeadStep(scene, Naive(), None, "float16", (70,), 0).decode()
    assert np.isinf(step.output).any()
    assert (step.certificate.bound == np.inf).all()
