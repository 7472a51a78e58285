"""Log codes: one byte per token for a nonnegative number, rounded up, relative to the largest of its block.

The meaning of code c in a block whose stored maximum is M is the real number ``M m[c % 8] / 2**16 / 2**(c // 8)``, with
``m[j] = ceil(2**16 2**(-j/8))``: a step of about 9 %, a range of 2**-31.9 below M. The smallest codes are the largest
numbers, and code 255 stands for everything below its meaning, so that encoding is total and never rounds down.

With a bfloat16 maximum (8 significant bits) the product has at most 24, so it is a number of float64 and, for M of at
least 2**-95, of FP32, and every decoder agrees. Derivation: docs/derivations/log_codes.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers.types import FloatArray

PER_OCTAVE = 8
MANTISSA_BITS = 16
CODES = 256
MANTISSAS = np.array([65536, 60097, 55109, 50536, 46341, 42495, 38968, 35734])
"""``ceil(2**16 2**(-j/8))``, j = 0 to 7."""

RATIOS: FloatArray = np.ldexp(np.tile(MANTISSAS.astype(np.float64), CODES // PER_OCTAVE), -MANTISSA_BITS) * np.ldexp(
    1.0, -(np.arange(CODES) // PER_OCTAVE)
)
"""Meaning of each code for a block maximum of 1; decreasing, exact."""


def encode(x: FloatArray, maximum: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Return the largest code whose meaning is at least x.

    Parameters
    ----------
    x : float64 [..., B]
        Nonnegative; at most the block's maximum.
    maximum : [...]
        As stored.

    Returns
    -------
    uint8 [..., B]
        0 where the maximum is infinite or x is NaN.
    """
    m = maximum.astype(np.float64)[..., None]
    known = np.isfinite(m) & (m > 0)
    ratio = np.where(known, x, 0.0) / np.where(known, m, 1.0)
    # a rounded quotient is never past a ratio that the exact one is not past; whether it fell short is looked at
    code = np.clip(np.searchsorted(-RATIOS, -ratio.ravel(), side="right").reshape(ratio.shape) - 1, 0, CODES - 1)
    code = np.where(RATIOS[code] * m >= x, code, np.maximum(code - 1, 0))
    return np.asarray(np.where(np.isinf(m) | np.isnan(x), 0, code), np.uint8)


def decode(codes: npt.NDArray[np.uint8], maximum: npt.NDArray[np.generic]) -> FloatArray:
    """Return what the codes mean, exactly: ``[..., B]`` from ``[..., B]`` and ``[...]``.

    In a block with an infinite maximum every meaning is infinite; with a maximum of 0, 0.
    """
    return np.asarray(RATIOS[codes] * maximum.astype(np.float64)[..., None])
