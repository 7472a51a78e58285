"""Value errors: what is measured, against what, in which units, under which masses."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import HEAD_DIM, alike, half, ties, tilted
from certkv.proofs.mutants.model import Check, Mutant, patched
from certkv.proofs.mutants.scene import Scene, require_sound, require_tight
from certkv.reference import Naive, PaperPolicy
from certkv.reference.annotations import measure
from certkv.reference.annotations import values as notes
from certkv.reference.formats import affine, channel, token_group
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import FloatType, round_nearest
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray
from certkv.reference.steps import budget, naive, paper
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.certify import Certified, certify
from certkv.reference.steps.claim import coded_log_masses, shares
from certkv.reference.steps.group import Group, Levels

PAST_HALF = np.array([0.0, 2041 / 1024] + 62 * [2037 / 1024])
"""Values near code 254.5 of 255; the step rounded to nearest is 0.05 % off, so the residual is 0.62 steps, not half."""


def value_error_is_attained() -> None:
    """Take tokens that are all alike: the error equals eta_b, so the bound must equal both."""
    cases = {
        "half a step, norm 22": ("int4-g32", ties(1, 15, 32, 0.52)),
        "half a step, two groups": ("int4-g16", ties(2, 15, 16, 0.0625)),
        "exact before the step is rounded": ("int4-g32", np.resize([0.0, 1.0], 32)),
        "more than half a stored step": ("int8-g64", PAST_HALF),
    }
    for where, (fmt, value) in cases.items():
        scene = alike(value, fmt)
        step = scene.decode(Naive())
        # eta_b is rounded up to bfloat16, but these values lie at their anchor, so the hull is the residual itself;
        # the anchor is rounded to FP32 (2**-24), the rest is float64 arithmetic
        require_tight(step, require_sound(scene, step, where=where), 1.0 + 2.0**-22, where)


def heaviest_token_counts() -> None:
    """Give one token the only value residual of its block and nearly all of the mass."""
    v = np.zeros((8, 32))
    v[0] = ties(1, 15, 32, 0.0625)
    k = np.zeros((8, 32))
    k[0] = 2.0
    scene = Scene(np.ones((1, 32), np.float32), half(k), half(v), 4, "dense", "int4-g32")
    require_sound(scene, scene.decode(Naive()))


def executed_masses_count() -> None:
    """Promote a block that then weighs more than its coded scores said, and whose values have all the error."""
    scene = tilted(0.2, light_shift=-1.0)
    v = np.zeros((len(scene.v), HEAD_DIM))
    v[: scene.block] = ties(1, 15, HEAD_DIM, 0.0625)
    scene = replace(scene, v=half(v), values="int4-g16")
    only_first = PaperPolicy(coverage=0.0, k_min=1, k_max=1, tail_threshold=1.0, value_tolerance=np.inf)
    step = scene.decode(only_first)
    # what is left is exact, so all slack is rounding, above all that of eta_b to bfloat16
    require_tight(step, require_sound(scene, step), 1.0 + 2.0**-7 + 2.0**-20)


def relative_residuals() -> AbstractContextManager[None]:
    """Divide eta by the value norm."""

    def relative(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
        size = np.maximum(measure.original_norms_ub(original), 1e-30)
        return np.asarray(measure.residual_magnitude(original, encoded, fmt) / size[..., None])

    return patched((notes, "residual_magnitude", relative))


def measured_before_rounding() -> AbstractContextManager[None]:
    """Measure eta with the step as it was before it was rounded to its storage type."""

    def before(function: Any) -> Any:
        def measured(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
            with patched((affine, "round_up", lambda x, ft: np.asarray(x, np.float32))):
                return np.asarray(function(original, fmt.encode(original), fmt))

        return measured

    return patched(*((notes, name, before(getattr(measure, name))) for name in ("residual", "residual_magnitude")))


def coded_with_unrounded_step(
    x: AnyArray, axis: int, levels: int, ft: FloatType
) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Quantize with the step in binary32 and round it to nearest for storage afterwards."""
    x32, lo, hi = affine.extremes(x, axis)
    step = (hi - lo) / np.float32(levels)
    codes = np.clip(np.rint((x32 - lo) / np.where(step > 0, step, 1)), 0, levels).astype(np.uint8)
    stored = round_nearest(step.astype(np.float64), ft)
    return codes, np.squeeze(stored, axis), np.squeeze(lo.astype(ft.dtype), axis)


def half_steps(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
    """Take half a stored step in every channel as the residual: the textbook rule, nothing measured."""
    step = encoded.step.astype(np.float64)
    if step.shape[:-1] == original.shape[:-1]:  # per token and group
        group = -(-original.shape[-1] // step.shape[-1])
        spread = np.repeat(step, group, axis=-1)[..., : original.shape[-1]]
    else:
        spread = np.broadcast_to(step[..., None, :], original.shape)
    return np.asarray(spread / 2)


def rounded_after_coding() -> AbstractContextManager[None]:
    """Round the step after the codes were chosen and take half of it as the error."""
    return patched(
        (channel, "quantize", coded_with_unrounded_step),
        (token_group, "quantize", coded_with_unrounded_step),
        (notes, "residual_magnitude", half_steps),
    )


def mean_residual() -> AbstractContextManager[None]:
    """Store the mean over the tokens."""
    return patched((notes, "token_max", lambda per_token: np.mean(per_token, axis=-1)))


def every_certify(function: Any) -> AbstractContextManager[None]:
    """Put a function in the place of `certify` in every step."""
    return patched(*((module, "certify", function) for module in (naive, paper, budget)))


def scoring_masses() -> AbstractContextManager[None]:
    """Certify with the masses that the coded scores give."""

    def certify_scored(
        group: Group, levels: Levels, rows: IntArray, seen: Attended, out_dtype: np.dtype[np.generic]
    ) -> Certified:
        blocks, tail = shares(*coded_log_masses(group))
        mass = np.concatenate([blocks, tail[:, None]], axis=-1)[rows]
        within = np.exp(group.coded_scores - coded_log_masses(group)[0][..., None])
        share = (blocks[..., None] * within)[rows]
        return certify(group, levels, rows, replace(seen, mass=mass, share=share), out_dtype)

    return every_certify(certify_scored)


CHECKS = (
    Check(
        "value-error-attained", "eta_b is what one token's value can be off, to the last bit", value_error_is_attained
    ),
    Check("heaviest-token", "eta_b covers the worst token of a block", heaviest_token_counts),
    Check("executed-masses", "the value term uses the masses of the executed pass", executed_masses_count),
)

MUTANTS = (
    Mutant("eta-relative", "A1", "eta_b divided by the value norm", relative_residuals, "value-error-attained"),
    Mutant(
        "eta-before-rounding",
        "A2",
        "eta_b measured before the step is rounded to 16 bits",
        measured_before_rounding,
        "value-error-attained",
    ),
    Mutant(
        "step-rounded-after-coding",
        "A2",
        "codes from the unrounded step, half of the stored step as eta_b",
        rounded_after_coding,
        "value-error-attained",
    ),
    Mutant("masses-of-scoring", "A3", "block masses of the coded scores", scoring_masses, "executed-masses"),
    Mutant("eta-mean", "A4", "mean over tokens in place of the maximum", mean_residual, "heaviest-token"),
)
