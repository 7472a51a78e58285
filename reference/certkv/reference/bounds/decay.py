"""``e^-delta`` and ``1 - e^-delta`` of score errors: the sharp bounds are written in them, since neither overflows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.numbers.types import FloatArray

DECAY_ROUNDINGS = 9
"""Roundings that each result is worth: ``exp`` and ``expm1`` are taken to be within 4 ulp (checked by test), 8 u."""


def decay(delta: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return ``F = e^-delta`` and ``1 - F`` for delta >= 0.

    Beyond 700, and for NaN, they are 0 and 1: the limit of complete ignorance, which every bound here treats as its
    worst case.
    """
    known = np.asarray(delta, dtype=np.float64) <= 700.0
    capped = np.where(known, delta, 0.0)
    return np.where(known, np.exp(-capped), 0.0), np.where(known, -np.expm1(-capped), 1.0)
