"""The spectral certificate: norms over a block's tokens, the heaviest token apart, weights from masses."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.mutants.inputs import HEAD_DIM, STEP, alike, half, ties, tilted
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import Scene, require_sound, require_tight
from certkv.reference import Naive
from certkv.reference.annotations import keys as key_notes
from certkv.reference.annotations import measure
from certkv.reference.annotations import values as value_notes
from certkv.reference.bounds import spectral, weighted_sums
from certkv.reference.bounds.arithmetic import exp_minus_lb
from certkv.reference.bounds.spectral import Heaviest, ScoreKnowledge
from certkv.reference.bounds.weighted_sums import Sums, first_order
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.steps import coded_terms
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.coded_terms import CodedTerms
from certkv.reference.steps.distances import DIFFERENCE
from certkv.reference.steps.group import Group, Levels

ALIKE_VALUE = ties(1, 15, HEAD_DIM, 0.5)
"""Decoded as `DECODED_VALUE`: half a step higher, but for the two channels that span the range."""

DECODED_VALUE = np.where(ALIKE_VALUE == 3.75, 4.0, ALIKE_VALUE)


def aligned_errors_count() -> None:
    """Let all keys, or all values, of a block err in one direction: its operator norms are as large as they can be."""
    for where, scene in {
        "keys": tilted(0.01),
        "keys, values far from the anchor": tilted(0.01, light_first=True),
        "values": alike(ties(1, 15, 32, 2.0**-6), "int4-g32", block=16),
        "large values": alike(ties(1, 15, 32, 4.0), "int4-g32", block=16),
    }.items():
        require_sound(scene, scene.decode(Naive()), where=where)


def large_errors_count() -> None:
    """Let a light block's scores be 1 or 2 too low: beyond the second order, a factor e^Delta.

    Large blocks, so that the two tokens that span the range, which score higher, are few.
    """
    for delta in (1.0, 2.0):
        scene = tilted(delta, light_shift=8.0, block=1024)
        require_sound(scene, scene.decode(Naive()), where=f"Delta {delta}")


def own_distance_counts() -> None:
    """One token in a block has some mass, a decoded value where the output is, and a residual; its score is too low.

    Another channel keeps the other tokens of its block away, so that only its own term is left.
    """
    delta, away = 1.0, 40.0
    q = np.append(np.resize([1.0, -1.0], HEAD_DIM - 1), 0.0) * 2 * delta / (HEAD_DIM * STEP)
    q[-1] = away / (255 * STEP)
    k = np.zeros((128, HEAD_DIM))
    k[:] = np.where(q > 0, 126.5, 127.5) * STEP
    k[:, -1] = 0.0
    k[65:, -1] = -255 * STEP
    k[65], k[66] = 0.0, 255 * STEP
    k[65:67, -1] = -255 * STEP
    v = np.tile(DECODED_VALUE, (128, 1))
    v[64:] = ALIKE_VALUE
    scene = Scene(q.astype(np.float32)[None], half(k), half(v), 64, "int8", "int4-g32")
    require_sound(scene, scene.decode(Naive()))


def lost_weight_is_attained() -> None:
    """Let a block lose weight, its values be where the output is, its residuals be balanced by the other's values.

    Then nothing is misplaced: error and bound are the block's value term over what is left of the weights.
    """
    # 64 coded values and 64 exact ones whose mean is the original value of the first
    scene = tilted(1.0, sign=-1, light_shift=1.0)
    v = np.tile(2 * ALIKE_VALUE - DECODED_VALUE, (128, 1))
    v[:64] = ALIKE_VALUE
    scene = replace(scene, v=half(v), values="int4-g32")
    step = scene.decode(Naive())
    # two of 64 tokens have no key error, and masses are equal up to float16: 10 % of room
    require_tight(step, require_sound(scene, step), 1.1)


def rounding_has_a_norm() -> None:
    """64 errors of one sign and size, as rounding might make them, on equal shares."""
    eps = 0.01
    none = ScoreKnowledge(np.zeros((1, 1)), np.zeros((1, 1)))
    errors = none.and_rounding(np.full((1, 1), eps), 64)
    nowhere = Heaviest(np.zeros((1, 1), np.int64), np.full((1, 1), np.inf))
    shares = np.full((1, 1, 64), 1 / 64)
    term = spectral.key_terms(shares, np.ones((1, 64)), np.array([8.0]), np.zeros(1), errors, nowhere)
    require(float(term[0, 0]) >= np.expm1(eps), f"term {term[0, 0]} below the error {np.expm1(eps)}")


def sums_cover_the_worst() -> None:
    """Errors that reach what the two limits allow, for weights with one heavy token and for weights alike."""
    for weights, errors in (
        (np.array([1.0] + [0.1] * 10), np.array([1.0] + [10**-0.5] * 10)),
        (np.full(101, 0.1), np.full(101, 0.1)),
    ):
        beta = weighted_sums.sums(weights[None])
        delta, omega = errors.max(keepdims=True), norm_ub(errors)[None]
        for name, seen in (
            ("first_order", weights @ errors),
            ("root_order", np.linalg.norm(weights * errors)),
            ("second_order", weights @ errors**2),
        ):
            bound = float(getattr(weighted_sums, name)(beta, delta, omega)[0])
            require(bool(bound >= seen * (1 - 2.0**-40)), f"{name} {bound} below the sum {seen}")


def tiny_products_count() -> None:
    """Code a score 700 too low: its share underflows, its value is the smallest number, and it is half the truth."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    k, v = np.zeros((8, 1, 2)), np.zeros((8, 1, 2))
    k[:5, 0, 0] = 126.5  # exact where all keys are alike; beside -128 and 127 it is a tie and coded as 126
    k[5:, 0] = [[-128.0, -2040.0], [127.0, -2040.0], [-128.0, -2040.0]]
    v[4, 0, 0] = 2.0**-133
    q = np.array([[1400.5, 1.0]], np.float32)
    scene = Scene(q, k.astype(bfloat16), v.astype(bfloat16), 4, "int8", "dense")
    require_sound(scene, scene.decode(Naive()))


def mean_of_rows(module: object) -> AbstractContextManager[None]:
    """Root mean square of the row norms as the operator norm."""

    def mean(difference: FloatArray, magnitude: FloatArray, unit: FloatArray) -> FloatArray:
        del difference
        rows = np.divide(
            magnitude, unit, out=np.zeros(magnitude.shape), where=np.broadcast_to(unit, magnitude.shape) > 0
        )
        return np.asarray(np.sqrt((rows * rows).sum(axis=(-2, -1)) / rows.shape[-2]))

    return patched((module, "rows_norm_ub", mean))


def rows_as_they_are() -> AbstractContextManager[None]:
    """Operator norm of residuals that are not divided by the annotations of their tokens."""
    real = measure.rows_norm_ub

    def plain(difference: FloatArray, magnitude: FloatArray, unit: FloatArray) -> FloatArray:
        return real(difference, magnitude, np.ones(unit.shape))

    return patched((value_notes, "rows_norm_ub", plain))


def rounding_as_one() -> AbstractContextManager[None]:
    """Add a token's rounding to the norm of all, without the root of their number."""

    def add(self: ScoreKnowledge, rounding_ub: FloatArray, block: int) -> ScoreKnowledge:
        del block
        return ScoreKnowledge(self.delta + rounding_ub, self.operator + rounding_ub)

    return patched((ScoreKnowledge, "and_rounding", add))


def one_other() -> AbstractContextManager[None]:
    """Take for the rest of the weights the second largest alone."""
    real = weighted_sums.sums

    def fewer(weights: FloatArray) -> Sums:
        second = np.sort(weights, axis=-1)[..., -2] if weights.shape[-1] > 1 else np.zeros(weights.shape[:-1])
        return replace(real(weights), rest=second)

    return patched((weighted_sums, "sums", fewer))


def exchanged(beta: Sums, delta_ub: FloatArray, operator_ub: FloatArray) -> FloatArray:
    """Bound the heaviest token by the norm, the others by the largest error."""
    return np.fmin(first_order(beta, delta_ub, operator_ub), beta.top * operator_ub + beta.rest * delta_ub)


def no_anchor_part() -> AbstractContextManager[None]:
    """Take the output to be at the anchor."""
    return patched((coded_terms, "from_anchor", lambda group, output: np.zeros(len(output))))


def decoded_distance(group: Group, values: BoolArray, token: IntArray, output: FloatArray) -> FloatArray:
    """Distance of the decoded value, without the residual."""
    del values
    used = group.coded_values[np.arange(token.shape[-1]), token]
    return norm_ub(used - output[:, None]) * DIFFERENCE


def decoded_distances(group: Group, values: BoolArray, output: FloatArray) -> FloatArray:
    """Distances of all decoded values, without their residuals."""
    del values
    return np.stack([norm_ub(group.coded_values - c) * DIFFERENCE for c in output])


def undivided(shares: FloatArray, mass_lb: FloatArray, errors: ScoreKnowledge) -> FloatArray:
    """``rho e^-D1`` in place of ``rho e^(-D1/rho)``."""
    moved = first_order(weighted_sums.sums(shares), errors.delta, errors.operator)
    return mass_lb * exp_minus_lb(np.fmin(moved, errors.delta))


def exact_shares() -> AbstractContextManager[None]:
    """Value terms from the shares of exact scores."""
    real = coded_terms.spectral_terms

    def terms(group: Group, levels: Levels, seen: Attended, *rest: Any) -> CodedTerms:
        right = real(group, levels, seen, *rest)
        exact = attend(group, Levels(np.ones_like(levels.keys), levels.values), np.arange(len(levels.keys)))
        notes = group.coded_value_notes
        operator = notes.residual_operator_ub.astype(np.float64)
        values = spectral.value_terms(exact.share, notes.token_residuals_ub(), operator)
        return replace(right, value=np.where(levels.values, 0.0, values))

    return patched((coded_terms, "spectral_terms", terms))


CHECKS = (
    Check("aligned-errors", "errors of a block that all point one way are covered", aligned_errors_count),
    Check("large-errors", "score errors beyond the second order are covered", large_errors_count),
    Check("own-distance", "a heavy token's residual counts in its distance from the output", own_distance_counts),
    Check("lost-weight", "where the error is a value term over lost weight, so is the bound", lost_weight_is_attained),
    Check("rounding-norm", "rounding of many tokens adds up to its norm", rounding_has_a_norm),
    Check("worst-sums", "weighted sums cover errors that reach both limits", sums_cover_the_worst),
    Check("tiny-products", "products that underflow are not lost where e^Delta is large", tiny_products_count),
)

MUTANTS = (
    Mutant(
        "key-operator-mean",
        "-",
        "root mean square of the rows as the keys' operator norm",
        lambda: mean_of_rows(key_notes),
        "aligned-errors",
    ),
    Mutant(
        "value-operator-mean",
        "-",
        "root mean square of the rows as the values' operator norms",
        lambda: mean_of_rows(value_notes),
        "aligned-errors",
    ),
    Mutant(
        "value-rows-plain", "-", "operator norm of residuals not divided by eta_t", rows_as_they_are, "aligned-errors"
    ),
    Mutant(
        "no-anchor-part",
        "-",
        "key terms without the distance of the output from the anchor",
        no_anchor_part,
        "aligned-errors",
    ),
    Mutant(
        "psi-half",
        "-",
        "psi(0) = 1/2 for every Delta",
        lambda: patched((spectral, "psi_ub", lambda x: np.full(x.shape, 0.5))),
        "large-errors",
    ),
    Mutant(
        "heaviest-no-residual",
        "-",
        "the heaviest token's distance without its residual",
        lambda: patched((coded_terms, "token_radius", decoded_distance)),
        "own-distance",
    ),
    Mutant(
        "distances-no-residual",
        "-",
        "distances of all tokens without their residuals",
        lambda: patched((coded_terms, "token_radii", decoded_distances)),
        "own-distance",
    ),
    Mutant(
        "weight-undivided",
        "-",
        "e^-D1 without division by the mass",
        lambda: patched((spectral, "weight_lb", undivided)),
        "lost-weight",
    ),
    Mutant("value-shares-exact", "-", "value terms from exact shares, not executed ones", exact_shares, "lost-weight"),
    Mutant("rounding-as-one", "-", "one token's rounding added to the norm of all", rounding_as_one, "rounding-norm"),
    Mutant("rest-second", "-", "the second largest weight as the norm of the others", one_other, "worst-sums"),
    Mutant(
        "split-exchanged",
        "-",
        "the heaviest token by Omega and the others by Delta",
        lambda: patched((weighted_sums, "first_order", exchanged)),
        "worst-sums",
    ),
    Mutant(
        "shares-flushed",
        "-",
        "shares times sizes lost to underflow",
        lambda: patched((spectral, "weighted_ub", lambda shares, sizes: shares * sizes)),
        "tiny-products",
    ),
)
