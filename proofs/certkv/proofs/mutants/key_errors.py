"""Key errors: residuals, score errors, and what they do to the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import HEAD_DIM, STEP, half, tilted
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import Scene, require_sound, require_tight
from certkv.proofs.mutants.value_errors import coded_with_unrounded_step, every_certify
from certkv.reference import Budget, Naive
from certkv.reference.annotations import annotate_keys, measure
from certkv.reference.annotations import keys as notes
from certkv.reference.bounds import block_bound, quotient, score_error
from certkv.reference.formats import channel, key_format
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.int8_paper import Int8Paper
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray
from certkv.reference.steps import certify as certify_module
from certkv.reference.steps.coded_terms import CodedTerms
from certkv.reference.steps.group import Group, Levels


def key_error_is_attained() -> None:
    """Point all residuals along the query, with weights off by ``e^delta``: the error is the bound."""
    for where, scene in {
        "exact score higher": tilted(0.01),
        "exact score lower": tilted(0.01, sign=-1),
        "layout of the paper": tilted(0.01, keys="int8-paper"),
        "light tilted block": tilted(0.5, light_blocks=9),
        "values far from the anchor": tilted(0.01, light_first=True),
    }.items():
        step = scene.decode(Naive())
        verdicts = require_sound(scene, step, where=where)
        if where != "light tilted block":
            # dilution by 2 of 64 tokens, e^(2 delta) of the denominator, (1 + delta)^2 of the radius
            require_tight(step, verdicts, (64 / 62) * np.exp(0.04), where)


def heaviest_key_counts() -> None:
    """Give four tokens all key residuals of their block and nearly all of its mass."""
    delta, corners = 0.05, 255 * STEP * np.eye(HEAD_DIM)
    off_grid = np.full(HEAD_DIM, 126.5 * STEP)
    tilted_block = np.concatenate([np.tile(off_grid, (4, 1)), corners, np.zeros((44, HEAD_DIM))])
    k = np.concatenate([tilted_block, np.tile(off_grid, (64, 1))])
    v = np.zeros(k.shape)
    v[:64, 0], v[64:, 0] = 1.0, -1 / 16  # 64 tokens against 4
    q = np.full((1, HEAD_DIM), 2 * delta / (HEAD_DIM * STEP), np.float32)
    scene = Scene(q, half(k), half(v), 64)
    require_sound(scene, scene.decode(Naive()))


def residuals_are_measured() -> None:
    """Measure keys whose residual passes half a step because of rounding, in rational arithmetic."""
    offset = np.zeros((64, HEAD_DIM))
    offset[:, :] = 2048.0  # near-constant channels far from zero
    offset[0::2] += 2.0
    step_down = np.zeros((64, HEAD_DIM))
    step_down[0], step_down[1:] = 2041 / 1024, 2037 / 1024
    step_down[1] = 0.0
    near_tie = np.zeros((64, HEAD_DIM))
    near_tie[0], near_tie[1], near_tie[2:] = -2.806640625, 2.1796875, 1.3486328125  # off by 0.5000038 steps
    for where, keys, k in (
        ("far from zero", "int8-paper", offset),
        ("step too small", "int8", step_down),
        ("near a tie", "int8-paper", near_tie),
    ):
        original = half(k).swapaxes(0, 1)
        fmt = key_format(keys)
        encoded = fmt.encode(original)
        ratio_ub = Fraction(float(annotate_keys(original, encoded, fmt).relative_max_ub[0]))
        for channel_ in range(HEAD_DIM):
            step = Fraction(float(encoded.step[0, channel_]))
            minimum = Fraction(float(encoded.minimum[0, channel_]))
            for token in range(64):
                meaning = minimum + step * int(encoded.codes[0, token, channel_])
                residual = abs(Fraction(float(original[0, token, channel_])) - meaning)
                require(residual <= ratio_ub * step, f"{where}: a residual is above its annotation")


def callers_scale_counts() -> None:
    """Attain the bound with scales of all sizes and both signs."""
    for scale in (0.25, 1.0, 4.0, -1.0):
        scene = tilted(0.05, scale=scale)
        require_sound(scene, scene.decode(Naive()), where=f"scale {scale}")


def relative_residuals() -> AbstractContextManager[None]:
    """Divide residuals by the norm of the keys."""

    def relative(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
        magnitude = measure.residual_magnitude(original, encoded, fmt)
        return np.asarray(magnitude / measure.original_norms_ub(original).max())

    return patched((notes, "residual_magnitude", relative))


def mean_residual() -> AbstractContextManager[None]:
    """Store means over the tokens, of norms and of ratios."""
    relative = notes.relative_magnitude

    def mean_ratio(magnitude: FloatArray, unit: FloatArray) -> FloatArray:
        ratio = relative(magnitude, unit)
        return np.broadcast_to(ratio.mean(axis=-2, keepdims=True), ratio.shape)

    return patched((notes, "relative_magnitude", mean_ratio))


HALF_STEP = ((notes, "relative_magnitude", lambda magnitude, unit: np.full(magnitude.shape, 0.5 - 2.0**-40)),)
"""``|k - k_hat| <= s/2`` in place of a measurement; a hair less, so that 1/2 is what is stored."""


def rounded_midpoint() -> AbstractContextManager[None]:
    """Store the offset rounded to 16 bits, code from the unrounded one, and trust half a step."""
    encode = Int8Paper.encode

    def encode_rounded(self: Int8Paper, x: AnyArray) -> Encoded:
        encoded = encode(self, x)
        return replace(encoded, minimum=encoded.minimum.astype(np.float16).astype(np.float32))

    return patched((Int8Paper, "encode", encode_rounded), *HALF_STEP)


def unrounded_step() -> AbstractContextManager[None]:
    """Choose codes with the unrounded step and trust half a stored step."""
    return patched((channel, "quantize", coded_with_unrounded_step), *HALF_STEP)


def default_scale() -> AbstractContextManager[None]:
    """Bound the score error for ``1/sqrt(d)`` whatever the caller's scale."""

    def with_default(function: Any) -> Any:
        return lambda scale, q, *rest: function(q.shape[1] ** -0.5, q, *rest)

    return patched(*((score_error, name, with_default(getattr(score_error, name))) for name in MEASURED))


def signed_scale() -> AbstractContextManager[None]:
    """Multiply by the scale without taking its magnitude; what is below 0 counts as 0."""

    def signed(function: Any) -> Any:
        return lambda scale, *rest: np.maximum(np.copysign(function(scale, *rest), scale), 0.0)

    return patched(*((score_error, name, signed(getattr(score_error, name))) for name in MEASURED))


MEASURED = ("measured_l1", "measured_l2")


def smaller_excess() -> AbstractContextManager[None]:
    """Use ``1 - e^-Delta`` for the largest ``|w - 1|``."""
    return patched((block_bound, "expm1_ub", lambda x: -np.expm1(-x)))


def half_delta() -> AbstractContextManager[None]:
    """Use half of Delta and of Omega, as if a score error could not have both signs."""
    errors = Group._score_errors
    return patched((Group, "_score_errors", lambda self, notes: tuple(x / 2 for x in errors(self, notes))))


def original_keys_free() -> AbstractContextManager[None]:
    """Take the key error of a whole head as 0 as soon as one of its blocks is promoted."""

    def forgetful(group: Group, levels: Levels, rows: IntArray, seen: Any, out_dtype: Any) -> Any:
        cleared = copy.copy(group)
        heads = rows[levels.keys.any(axis=-1)]
        cleared.delta_ub, cleared.operator_ub = group.delta_ub.copy(), group.operator_ub.copy()
        cleared.delta_ub[heads] = cleared.operator_ub[heads] = 0.0
        return certify_module.certify(cleared, levels, rows, seen, out_dtype)

    return every_certify(forgetful)


Loosen = Callable[[FloatArray], FloatArray]


def loose(delta: Loosen, radius: Loosen = lambda x: x) -> AbstractContextManager[None]:
    """Certify with score errors and radii that are larger than needed, without ``spectral`` and without the hull."""
    key_terms, weight_lb, sharpened = block_bound.key_terms, block_bound.weight_lb, CodedTerms.sharpened

    def looser_terms(mass_ub: FloatArray, delta_ub: FloatArray, radius_ub: FloatArray) -> FloatArray:
        return key_terms(mass_ub, delta(delta_ub), radius(radius_ub))

    def looser_weight(mass_lb: FloatArray, delta_ub: FloatArray) -> FloatArray:
        return weight_lb(mass_lb, delta(delta_ub))

    def unsharpened(mine: CodedTerms, other: CodedTerms) -> CodedTerms:
        nothing = np.full(other.key.shape, np.inf)
        return sharpened(mine, replace(other, key=nothing, pure_key=nothing, weight=np.zeros(other.weight.shape)))

    return patched(
        (block_bound, "key_terms", looser_terms),
        (block_bound, "weight_lb", looser_weight),
        (CodedTerms, "sharpened", unsharpened),
        (certify_module, "hull", lambda radius: np.full(len(radius), np.inf)),
    )


def worst(x: FloatArray) -> FloatArray:
    """One number for all blocks, the largest."""
    return np.full(x.shape, x.max())


def paper_terms() -> AbstractContextManager[None]:
    """``2 V_max e^{2 Delta} alpha (e^{2 Delta} - 1)`` over all tokens."""
    return loose(lambda x: 2 * worst(x), lambda x: 2 * worst(x))


def hull_alone() -> AbstractContextManager[None]:
    """Report the trivial bound."""
    return patched((quotient, "over", lambda numerator, denominator: np.full(numerator.shape, np.inf)))


def promoted_blocks_do_not_clear_others() -> None:
    """Promote a block that is exact anyway: the error of the others stays in place."""
    scene = tilted(0.05, light_first=True)  # a budget pins the first block, which is exact
    loose = Budget(10.0, "absolute")
    require_sound(scene, scene.decode(loose))


CHECKS = (
    Check("key-error-attained", "the key term covers the worst residuals, and not much more", key_error_is_attained),
    Check("heaviest-key", "a block's score error covers its worst token", heaviest_key_counts),
    Check("measured-residuals", "annotations cover the exact residuals of what is stored", residuals_are_measured),
    Check("callers-scale", "the bound holds for the caller's scale", callers_scale_counts),
    Check("other-blocks", "a promoted block does not clear the others", promoted_blocks_do_not_clear_others),
)

MUTANTS = (
    Mutant("key-residual-relative", "A1", "key residuals over key norms", relative_residuals, "key-error-attained"),
    Mutant("key-residual-mean", "A4", "mean over tokens in place of the maximum", mean_residual, "heaviest-key"),
    Mutant("offset-rounded", "A5", "16-bit offset, half a step as the error", rounded_midpoint, "measured-residuals"),
    Mutant("half-step-keys", "A5", "half a step as the error", lambda: patched(*HALF_STEP), "measured-residuals"),
    Mutant(
        "half-step-unrounded", "A5", "code from the unrounded step, half a step", unrounded_step, "measured-residuals"
    ),
    Mutant("default-scale", "A6", "score errors for 1/sqrt(d), not the caller's scale", default_scale, "callers-scale"),
    Mutant("signed-scale", "A6", "the scale's sign taken into the score error", signed_scale, "callers-scale"),
    Mutant("paper-key-term", "A11", "the paper's key term", paper_terms, "key-error-attained"),
    Mutant("worst-block", "A11", "the worst score error for all", lambda: loose(worst), "key-error-attained"),
    Mutant("hull-alone", "A11", "nothing but the trivial bound", hull_alone, "key-error-attained"),
    Mutant("one-minus-decay", "-", "1 - e^-Delta in place of e^Delta - 1", smaller_excess, "key-error-attained"),
    Mutant("half-delta", "-", "half of the score error", half_delta, "key-error-attained"),
    Mutant("one-promoted-clears-all", "-", "a promoted block clears a whole head", original_keys_free, "other-blocks"),
)
