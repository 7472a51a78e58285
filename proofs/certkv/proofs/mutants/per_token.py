"""One number per token, and operator norms relative to these numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.adversary.blocks import meaning, operator_square_lb, rational
from certkv.proofs.mutants.inputs import ties
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.annotations import annotate_keys, annotate_values, log_codes, measure
from certkv.reference.annotations import values as value_notes
from certkv.reference.formats import key_format, value_format
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray

Rows = list[list[Fraction]]


def blocks() -> dict[str, AnyArray]:
    """Blocks [1, B, 32] of values: ordinary ones, very large and very uneven ones, parallel and scattered residuals."""
    rng = np.random.default_rng(31)
    normal = rng.normal(size=(16, 32))
    uneven = normal * np.exp2(-np.arange(16.0))[:, None]
    parallel = np.exp2(rng.uniform(-3.0, 0.0, 16))[:, None] * ties(1, 15, 32, 1.0)
    found = {"normal": normal, "uneven": uneven, "parallel": parallel}
    stored = {name: x.astype(np.float16)[None] for name, x in found.items()}
    stored["huge"] = (normal * 2.0**60).astype(ml_dtypes.bfloat16)[None]
    stored["tiny"] = (normal * 2.0**-70).astype(ml_dtypes.bfloat16)[None]
    return stored


def rows_of(x: AnyArray, fmt: Format) -> tuple[Rows, Encoded]:
    """Return the exact residuals of the only block, and what is stored of it."""
    encoded = fmt.encode(x)
    exact = meaning(encoded.take(0))
    return [[a - b for a, b in zip(r, s, strict=True)] for r, s in zip(rational(x[0]), exact, strict=True)], encoded


def squared(row: list[Fraction]) -> Fraction:
    """``||row||^2``."""
    return sum((e * e for e in row), Fraction(0))


def tokens_are_covered() -> None:
    """Compare every token's bounds with exact norms, and on boundaries between codes, in both directions."""
    fmt = value_format("int4-g32")
    for where, x in blocks().items():
        residual, encoded = rows_of(x, fmt)
        notes = annotate_values(x, encoded, fmt, np.zeros(32))
        for name, rows, found in (
            ("residual", residual, notes.token_residuals_ub()),
            ("distance", rational(x[0]), notes.token_distances_ub()),
        ):
            largest = max(squared(row) for row in rows)
            for t, row in enumerate(rows):
                bound, square = Fraction(float(found[0, t])) ** 2, squared(row)
                require(bound >= square, f"{where}: the {name} of token {t} is above its annotation")
                # 2^(1/8) (1 + 2^-15) of the code, 1 + 2^-7 of a maximum; the last code stands for all below it
                close = bound <= square * Fraction(2 ** (1 / 4) * (1 + 2.0**-13)) or square < largest / 2**60
                require(close, f"{where}: the annotation of token {t} is far above its {name}")
    maximum = np.array(3.0, ml_dtypes.bfloat16)
    at = log_codes.RATIOS * 3.0
    for x in (at, np.nextafter(at, 0.0), np.minimum(np.nextafter(at, np.inf), 3.0)):
        codes = log_codes.encode(x, maximum)
        require(bool((log_codes.decode(codes, maximum) >= x).all()), "a code means less than its number")


def operators_are_covered() -> None:
    """Compare operator norms with exact images: of residuals over their units, and over their tokens' bounds."""
    keys, values = key_format("int8"), value_format("int4-g32")
    for where, x in blocks().items():
        residual, encoded = rows_of(x, keys)
        steps = [Fraction(float(s)) for s in encoded.step[0]]
        relative = [[e / s if s else e for e, s in zip(row, steps, strict=True)] for row in residual]
        _require_operator(f"{where}, keys", float(annotate_keys(x, encoded, keys).relative_operator_ub[0]), relative)
        residual, encoded = rows_of(x, values)
        notes = annotate_values(x, encoded, values, np.zeros(32))
        for name, rows, units, found in (
            ("residuals", residual, notes.token_residuals_ub(), notes.residual_operator_ub),
            ("distances", rational(x[0]), notes.token_distances_ub(), notes.anchored_operator_ub),
        ):
            divided = [[e / Fraction(float(u)) for e in row] for row, u in zip(rows, units[0], strict=True)]
            _require_operator(f"{where}, {name}", float(found[0]), divided)


def _require_operator(where: str, found: float, rows: Rows) -> None:
    """Check a norm from below by an exact image, and from above by the trace power: 16^(1/16) at B = 16, and bfloat16.

    The image of the direction that float64 finds is within 2^-40 of the norm.
    """
    square = operator_square_lb(rows)
    require(Fraction(found) ** 2 >= square, f"{where}: the operator norm is above its annotation {found:.3g}")
    rank_one = sum((squared(row) for row in rows), Fraction(0)) <= square * Fraction(1 + 2.0**-30)
    factor = 1.0 if rank_one else 16 ** (1 / 16)
    loose = square * Fraction((factor * (1 + 2.0**-7) * (1 + 2.0**-30)) ** 2)
    require(Fraction(found) ** 2 <= loose, f"{where}: the annotation {found:.3g} is far above the operator norm")


def power_iteration() -> AbstractContextManager[None]:
    """Estimate the operator norm by power iteration, which approaches it from below."""

    def power(x: FloatArray) -> FloatArray:
        y = np.ones((*x.shape[:-2], x.shape[-1], 1))
        for _ in range(10):
            y = np.swapaxes(x, -1, -2) @ (x @ y)
            size = np.linalg.norm(y, axis=-2, keepdims=True)
            y = y / np.where(size > 0, size, 1.0)
        return np.asarray(np.linalg.norm(x @ y, axis=(-2, -1)))

    return patched((measure, "operator_norm_ub", power))


def largest_row() -> AbstractContextManager[None]:
    """Take the largest row norm for the operator norm."""
    return patched((measure, "operator_norm_ub", lambda x: np.linalg.norm(x, axis=-1).max(axis=-1)))


def frobenius() -> AbstractContextManager[None]:
    """Take the Frobenius norm: as large as if all residuals were parallel."""
    return patched((measure, "operator_norm_ub", lambda x: np.linalg.norm(x, axis=(-2, -1)) * (1.0 + 2.0**-40)))


RANGE = 2.0**8


def fixed_range() -> AbstractContextManager[None]:
    """Let codes stand for 2^8 downwards, whatever the block's maximum: what is larger gets the largest code."""
    encode, decode = log_codes.encode, log_codes.decode

    def saturating(x: FloatArray, maximum: AnyArray) -> Any:
        return encode(np.minimum(x, RANGE), np.full(maximum.shape, RANGE))

    def absolute(codes: Any, maximum: AnyArray) -> FloatArray:
        return decode(codes, np.full(maximum.shape, RANGE))

    return patched((log_codes, "encode", saturating), (log_codes, "decode", absolute))


def nearest_code() -> AbstractContextManager[None]:
    """Take the code whose meaning is nearest."""
    encode = log_codes.encode

    def nearest(x: FloatArray, maximum: AnyArray) -> Any:
        code = encode(x, maximum).astype(np.int64)
        following = np.minimum(code + 1, log_codes.CODES - 1)
        here, there = (log_codes.decode(c.astype(np.uint8), maximum) for c in (code, following))
        return np.where(x - there < here - x, following, code).astype(np.uint8)

    return patched((log_codes, "encode", nearest))


def floor_mantissas() -> AbstractContextManager[None]:
    """Decode with mantissas rounded down, encode with those rounded up."""
    lower = log_codes.RATIOS * (1.0 - 2.0**-15)

    def decode(codes: Any, maximum: AnyArray) -> FloatArray:
        return np.asarray(lower[codes] * maximum.astype(np.float64)[..., None])

    return patched((log_codes, "decode", decode))


def rows_over(unit: Any) -> AbstractContextManager[None]:
    """Divide rows by something else than what their codes mean: from (norms, maximum) to [..., B]."""

    def annotation(difference: FloatArray, magnitude: FloatArray) -> tuple[AnyArray, AnyArray, AnyArray]:
        norms = measure.inexact_norm_ub(magnitude)
        maximum = measure.store_ub(measure.token_max(norms))
        codes = log_codes.encode(norms, maximum)
        operator = measure.rows_norm_ub(difference, magnitude, unit(norms, maximum)[..., None])
        return maximum, codes, measure.store_ub(operator)

    return patched((value_notes, "token_annotation", annotation))


def block_maximum(norms: FloatArray, maximum: AnyArray) -> FloatArray:
    """Return the block's maximum for every token."""
    return np.broadcast_to(maximum.astype(np.float64)[..., None], norms.shape)


def relative_codes() -> AbstractContextManager[None]:
    """Measure value residuals relative to the norm of their value."""

    def relative(original: AnyArray, encoded: Encoded, fmt: Format) -> FloatArray:
        size = np.maximum(measure.original_norms_ub(original), 1e-30)
        return np.asarray(measure.residual_magnitude(original, encoded, fmt) / size[..., None])

    return patched((value_notes, "residual_magnitude", relative))


CHECKS = (
    Check("token-codes", "a token's code means at least its norm, and little more", tokens_are_covered),
    Check("operator-norms", "operator norms are at least the exact ones, and little more", operators_are_covered),
)

MUTANTS = (
    Mutant("codes-saturate", "-", "log codes of a fixed range", fixed_range, "token-codes"),
    Mutant("codes-nearest", "-", "log codes rounded to nearest", nearest_code, "token-codes"),
    Mutant("codes-mantissa-floor", "-", "mantissas rounded down", floor_mantissas, "token-codes"),
    Mutant("codes-relative", "A1", "tokens' residuals relative to their values", relative_codes, "token-codes"),
    Mutant("operator-power-iteration", "-", "power iteration for the norm", power_iteration, "operator-norms"),
    Mutant("operator-largest-row", "-", "the largest row norm for the norm", largest_row, "operator-norms"),
    Mutant("operator-frobenius", "-", "the Frobenius norm for the norm", frobenius, "operator-norms"),
    Mutant(
        "operator-over-maximum",
        "-",
        "rows divided by the block's maximum, weighted with their own bounds",
        lambda: rows_over(block_maximum),
        "operator-norms",
    ),
    Mutant(
        "operator-over-norms",
        "-",
        "rows divided by their norms, not by what their codes mean",
        lambda: rows_over(lambda norms, maximum: norms),
        "operator-norms",
    ),
)
