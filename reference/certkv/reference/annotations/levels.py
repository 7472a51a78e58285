"""Annotations of the levels above the base plane: each is measured against its own meaning."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from certkv.reference.annotations.keys import KeyAnnotations, annotate_keys
from certkv.reference.annotations.values import ValueAnnotations, annotate_level
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded

OF_VALUE_RESIDUALS = ("residual_norm_ub", "decoded_norm_ub", "residual_operator_ub", "residual_codes")
"""What a level of values has of its own; the others are about the originals, and kept once."""


def finer_keys(original: npt.NDArray[Any], encoded: Encoded, fmt: Format) -> tuple[KeyAnnotations, ...]:
    """Measure keys at every refined level; parameters as in `annotate_keys`, ``encoded`` with all its planes.

    The unit of the residuals is the same at every level, that of the base.
    """
    return tuple(annotate_keys(original, encoded.at(level), fmt) for level in range(1, encoded.level + 1))


def finer_values(
    base: ValueAnnotations, original: npt.NDArray[Any], encoded: Encoded, fmt: Format
) -> tuple[ValueAnnotations, ...]:
    """Measure values at every refined level; parameters as in `annotate_level`, ``encoded`` with all its planes."""
    return tuple(annotate_level(base, original, encoded.at(level), fmt) for level in range(1, encoded.level + 1))


def level_bytes_per_block(block: int) -> tuple[int, int]:
    """Return the bytes of the annotations of one more level of a block of ``block`` tokens: of keys, of values."""
    return KeyAnnotations.bytes_per_block(block), ValueAnnotations.bytes_per_block(block, OF_VALUE_RESIDUALS)
