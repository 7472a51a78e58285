"""Attacks on the annotations of every format: what was measured against what is exactly so, in rationals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import STORED, Attack, Attained, Box
from certkv.proofs.adversary.balls import lower, precisely, total, upper
from certkv.proofs.adversary.blocks import Rationals, ball, differences, meaning, rational, squared_norms, to_type
from certkv.reference.annotations import keys as key_annotations
from certkv.reference.annotations import values as value_annotations
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers.types import AnyArray, FloatArray

TOKENS, CHANNELS = 3, 4
LOSSLESS = ("relative_max_ub", "residual_norm_ub")
"""Annotations that are 0 where originals are stored: nothing to attack."""

SIZES = {"float16": (-24.0, 13.0), "bfloat16": (-133.0, 124.0)}
"""Binary exponents of the numbers' unit: from the smallest subnormal to a quarter of the largest number and above."""

Exact = Callable[[Rationals, Rationals, Encoded, FloatArray], arb]


def largest_norm(x: Rationals) -> arb:
    """``max_t ||x_t||``."""
    return ball(max(squared_norms(x))).sqrt()


def relative_max(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``max |k - k_hat| / step``, 0/0 = 0."""
    del anchor
    steps = [Fraction(s) for s in encoded.step.astype(np.float64).tolist()]
    rows = differences(original, stored)
    return ball(max(abs(e) / s if s else Fraction(0) for row in rows for e, s in zip(row, steps, strict=True)))


def residual_norm(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``max_t ||x_t - x_hat_t||``."""
    del encoded, anchor
    return largest_norm(differences(original, stored))


def decoded_norm(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``max_t ||x_hat_t||``."""
    del original, encoded, anchor
    return largest_norm(stored)


def original_norm(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``max_t ||x_t||``."""
    del stored, encoded, anchor
    return largest_norm(original)


def anchored_norm(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``max_t ||V_t - mu||``."""
    del stored, encoded
    return largest_norm(differences(original, [[Fraction(m) for m in anchor.tolist()]] * len(original)))


def mean_norm(original: Rationals, stored: Rationals, encoded: Encoded, anchor: FloatArray) -> arb:
    """``1/B sum_t ||V_t||``."""
    del stored, encoded, anchor
    return total(ball(n).sqrt() for n in squared_norms(original)) / len(original)


KEY_FIELDS: dict[str, Exact] = {
    "relative_max_ub": relative_max,
    "residual_norm_ub": residual_norm,
    "decoded_norm_ub": decoded_norm,
    "norm_ub": original_norm,
}
VALUE_FIELDS: dict[str, Exact] = {
    "residual_norm_ub": residual_norm,
    "norm_ub": original_norm,
    "anchored_norm_ub": anchored_norm,
    "decoded_norm_ub": decoded_norm,
    "mean_norm_lb": mean_norm,
}


def measured(side: str, field: str, original: AnyArray, encoded: Encoded, fmt: Format, anchor: FloatArray) -> float:
    """Return the stored annotation."""
    if side == "keys":
        return float(getattr(key_annotations.annotate_keys(original, encoded, fmt), field))
    return float(getattr(value_annotations.annotate_values(original, encoded, fmt, anchor), field))


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
        truth = exact(rational(original), meaning(encoded), encoded, anchor)
        stored = measured(side, field, original, encoded, fmt, anchor)
        # a lower bound is violated where it is above the truth
        return Attained(stored, upper(truth)) if field.endswith("_lb") else Attained(lower(truth), stored)

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
        f"annotations.{side}_{name}_{field.rpartition('_')[0]}",
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
            kept = {f: e for f, e in fields.items() if not (fmt.name == "dense" and f in LOSSLESS)}
            found += [_attack(side, fmt, field, exact) for field, exact in kept.items()]
    return found
