"""Originals in, what is stored of them out, in rational numbers."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
from flint import arb, fmpq

from certkv.reference.formats import Encoded
from certkv.reference.formats.packing import unpack4
from certkv.reference.numbers.types import AnyArray, FloatArray

Rationals = list[list[Fraction]]

TYPES: dict[str, np.dtype[np.generic]] = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def rational(x: AnyArray) -> Rationals:
    """[B, d] numbers as fractions."""
    return [[Fraction(value) for value in row] for row in x.astype(np.float64).tolist()]


def meaning(encoded: Encoded) -> Rationals:
    """``minimum + step * code`` of one encoded block, exactly, [B][d].

    Written from the words in the documentation of the formats, not from their `decode`.
    """
    codes = encoded.codes
    if encoded.format_name == "dense":
        return rational(codes)
    if "int4" in encoded.format_name:
        codes = unpack4(codes, encoded.block)
    block, d = encoded.block, encoded.head_dim
    steps, minima = encoded.step.astype(np.float64), encoded.minimum.astype(np.float64)
    if steps.ndim == 1:  # per channel
        steps, minima = np.broadcast_to(steps, (block, d)), np.broadcast_to(minima, (block, d))
    else:  # per token and group of channels
        width = int(encoded.format_name.partition("-g")[2])
        of_channel = np.arange(d) // width
        steps, minima = steps[:, of_channel], minima[:, of_channel]
    return [
        [Fraction(float(minima[t, c])) + Fraction(float(steps[t, c])) * Fraction(int(codes[t, c])) for c in range(d)]
        for t in range(block)
    ]


def differences(x: Rationals, y: Rationals) -> Rationals:
    """Element by element."""
    return [[a - b for a, b in zip(r, s, strict=True)] for r, s in zip(x, y, strict=True)]


def squared_norms(x: Rationals) -> list[Fraction]:
    """Of every token, [B]."""
    return [sum((c * c for c in row), Fraction(0)) for row in x]


def operator_square_lb(x: Rationals) -> Fraction:
    """Lower bound of the squared operator norm: ``||X^T y||^2 / ||y||^2`` at the best y that float64 finds.

    Any y gives a lower bound, exactly; the float64 eigenvector makes it close.
    """
    largest = max(abs(e) for row in x for e in row)
    if largest == 0:
        return Fraction(0)
    scaled = np.array([[float(e / largest) for e in row] for row in x])
    weights = [Fraction(w) for w in np.linalg.svd(scaled)[0][:, 0].tolist()]
    columns = [
        sum((w * e for w, e in zip(weights, column, strict=True)), Fraction(0)) for column in zip(*x, strict=True)
    ]
    square = sum((w * w for w in weights), Fraction(0))
    return sum((c * c for c in columns), Fraction(0)) / square


def ball(x: Fraction) -> arb:
    """Enclose a fraction."""
    return arb(fmpq(x.numerator, x.denominator))


def to_type(x: FloatArray, name: str) -> AnyArray:
    """Round to a 16-bit type; the boxes stay far inside its range."""
    return np.asarray(x.astype(TYPES[name]))
