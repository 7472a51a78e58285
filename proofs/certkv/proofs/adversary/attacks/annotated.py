"""Attacks on the annotations of every format: what was measured against what is exactly so, in rationals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import NOTHING, STORED, Attack, Attained, Box
from certkv.proofs.adversary.balls import lower, precisely, total, upper
from certkv.proofs.adversary.blocks import (
    Rationals,
    ball,
    differences,
    meaning,
    operator_square_lb,
    rational,
    squared_norms,
    to_type,
)
from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
from certkv.reference.annotations import keys as key_annotations
from certkv.reference.annotations import values as value_annotations
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers.types import AnyArray, FloatArray

TOKENS, CHANNELS = 3, 4
LOSSLESS = ("relative_", "residual_")
"""Annotations that are 0 where originals are stored: nothing to attack."""

SIZES = {"float16": (-24.0, 13.0), "bfloat16": (-133.0, 124.0)}
"""Binary exponents of the numbers' unit: from the smallest subnormal to a quarter of the largest number and above."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block: originals, what is stored of them, exactly, and what was measured.

    Attributes
    ----------
    original, residual : rationals [B][d]
        ``x`` and ``x - x_hat``.
    stored : rationals [B][d]
        ``x_hat``.
    from_anchor : rationals [B][d]
        ``x - mu``.
    steps : rationals [d]
        What residuals of keys are measured in.
    notes : KeyAnnotations or ValueAnnotations
    """

    original: Rationals
    stored: Rationals
    residual: Rationals
    from_anchor: Rationals
    steps: list[Fraction]
    notes: KeyAnnotations | ValueAnnotations

    @classmethod
    def of(cls, side: str, x: AnyArray, encoded: Encoded, fmt: Format, anchor: FloatArray) -> Block:
        """Measure a block."""
        original, stored = rational(x), meaning(encoded)
        notes = (
            key_annotations.annotate_keys(x, encoded, fmt)
            if side == "keys"
            else value_annotations.annotate_values(x, encoded, fmt, anchor)
        )
        steps = [Fraction(s) for s in encoded.step.astype(np.float64).ravel().tolist()] or [Fraction(1)] * x.shape[-1]
        from_anchor = differences(original, [[Fraction(m) for m in anchor.tolist()]] * len(original))
        return cls(original, stored, differences(original, stored), from_anchor, steps, notes)

    @property
    def relative(self) -> Rationals:
        """Residuals in units of their steps, 0/0 = 0."""
        return [[e / s if s else Fraction(0) for e, s in zip(row, self.steps, strict=True)] for row in self.residual]

    def values(self) -> ValueAnnotations:
        """Return the notes, of values."""
        if not isinstance(self.notes, ValueAnnotations):
            raise TypeError("these are annotations of keys")
        return self.notes


Exact = Callable[[Block], arb]


def largest_norm(x: Rationals) -> arb:
    """``max_t ||x_t||``."""
    return ball(max(squared_norms(x))).sqrt()


def mean_norm(x: Rationals) -> arb:
    """``1/B sum_t ||x_t||``."""
    return total(ball(n).sqrt() for n in squared_norms(x)) / len(x)


def operator_norm(x: Rationals) -> arb:
    """Lower bound of the operator norm, as close as float64 finds the direction."""
    return ball(operator_square_lb(x)).sqrt()


def per_token(x: Rationals, bounds: FloatArray) -> Rationals:
    """Divide every token by its bound, 0/0 = 0."""
    units = [Fraction(b) for b in bounds.tolist()]
    return [[e / u if u else Fraction(0) for e in row] for row, u in zip(x, units, strict=True)]


def largest_share(x: Rationals, bounds: FloatArray) -> arb:
    """``max_t ||x_t|| / bound_t``, which is at most 1."""
    return largest_norm(per_token(x, bounds))


KEY_FIELDS: dict[str, Exact] = {
    "relative_max_ub": lambda b: ball(max(abs(e) for row in b.relative for e in row)),
    "relative_norm_ub": lambda b: largest_norm(b.relative),
    "relative_operator_ub": lambda b: operator_norm(b.relative),
    "decoded_norm_ub": lambda b: largest_norm(b.stored),
}
VALUE_FIELDS: dict[str, Exact] = {
    "residual_norm_ub": lambda b: largest_norm(b.residual),
    "norm_ub": lambda b: largest_norm(b.original),
    "anchored_norm_ub": lambda b: largest_norm(b.from_anchor),
    "decoded_norm_ub": lambda b: largest_norm(b.stored),
    "residual_operator_ub": lambda b: operator_norm(per_token(b.residual, b.values().token_residuals_ub())),
    "anchored_operator_ub": lambda b: operator_norm(per_token(b.from_anchor, b.values().token_distances_ub())),
    "mean_norm_lb": lambda b: mean_norm(b.original),
    "residual_codes": lambda b: largest_share(b.residual, b.values().token_residuals_ub()),
    "anchored_codes": lambda b: largest_share(b.from_anchor, b.values().token_distances_ub()),
}


def attained(field: str, exact: Exact, block: Block) -> Attained:
    """Compare an annotation with what is true of its block."""
    truth = exact(block)
    if field.endswith("_codes"):
        maximum = float(getattr(block.notes, field.replace("_codes", "_norm_ub")))
        return Attained(lower(truth), 1.0) if np.isfinite(maximum) else NOTHING
    stored = float(getattr(block.notes, field))
    # a lower bound is violated where it is above the truth
    return Attained(stored, upper(truth)) if field.endswith("_lb") else Attained(lower(truth), stored)


def _attack(side: str, fmt: Format, field: str, exact: Exact) -> Attack:
    box = Box().add("block", TOKENS * CHANNELS, -4.0, 4.0).add("anchor", CHANNELS, -4.0, 4.0).add("dtype", 1, 0.0, 1.0)
    box.add("size", 1, 0.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        dtype = "float16" if part["dtype"][0] < 0.5 else "bfloat16"
        smallest, largest = SIZES[dtype]
        unit = 2.0 ** float(np.round(smallest + part["size"][0] * (largest - smallest)))
        original = to_type(unit * part["block"].reshape(TOKENS, CHANNELS), dtype)
        anchor = (unit * part["anchor"]).astype(np.float32).astype(np.float64)
        encoded = fmt.encode(original)
        return attained(field, exact, Block.of(side, original, encoded, fmt, anchor))

    def starts() -> Sequence[FloatArray]:
        half = np.tile([0.0, 2.0, 1.0], (CHANNELS, 1)).T
        return [
            box.point(block=block, anchor=anchor, dtype=dtype, size=size)
            for block in (half, half / 3.0, 1.0)
            for size in (0.0, 0.7, 1.0)
            for anchor in (0.0, 1.0 / 3.0)
            for dtype in (0.0, 1.0)
        ]

    name = fmt.name.replace("-", "_")
    symbols = f"{field}, {side} {fmt.name}"
    return Attack(
        f"annotations.{side}_{name}_{field.removesuffix('_ub').removesuffix('_lb')}",
        "annotations",
        symbols,
        box.low,
        box.high,
        evaluate,
        starts,
        evaluations=200,
        reproduces=STORED,
    )


def attacks() -> list[Attack]:
    """All of this file: every field of every format."""
    found = []
    for side, formats, fields in (("keys", KEY_FORMATS, KEY_FIELDS), ("values", VALUE_FORMATS, VALUE_FIELDS)):
        for fmt in formats.values():
            kept = {f: e for f, e in fields.items() if not (fmt.name == "dense" and f.startswith(LOSSLESS))}
            found += [_attack(side, fmt, field, exact) for field, exact in kept.items()]
    return found
