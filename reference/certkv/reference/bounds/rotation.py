"""How far a computed rotation is from the exact one, in norm.

Statement. With ``L = log2 n`` for the largest block of a head size d, H computed by butterflies in a precision of unit
roundoff u, and the last product losing at most l per element to underflow,

    ||fl(H x) - H x|| <= gamma_{L+2} ||x|| + sqrt(d) l,        gamma_r = r u / (1 - r u),

and rotating the result once more is off from x by at most ``(2 gamma + gamma^2) ||x|| + (2 + gamma) sqrt(d) l``. In
float64 (queries, decoded tokens) nothing underflows; in binary32, times ``2**EXPONENT``, l is ``2^-142`` in the units
of the originals. Derivation: docs/derivations/rotation.md.
"""

from __future__ import annotations

import math

import numpy as np

from certkv.reference.formats.rotation import EXPONENT, roundings
from certkv.reference.numbers import gamma, outward
from certkv.reference.numbers.types import FloatArray

V = 2.0**-24
"""Unit roundoff of binary32."""

LOST = 2.0**-150 * 2.0**-EXPONENT
"""What a product of binary32 loses at most where it underflows, in the units of the originals."""


def float64_error_ub(norm_ub: FloatArray, head_dim: int) -> FloatArray:
    """Return ``gamma_{L+2} ||x||`` for rotations in float64.

    Parameters
    ----------
    norm_ub : float64, any shape
        Upper bounds of ``||x||``.
    head_dim : int
    """
    return np.asarray(norm_ub * gamma(roundings(head_dim)) * outward(1))


def float32_error_ub(norm_ub: FloatArray, head_dim: int) -> FloatArray:
    """Return ``gamma_{L+2} ||x|| + sqrt(d) 2^-142`` for rotations of originals in binary32; parameters as above."""
    relative, lost = _float32(head_dim)
    return np.asarray((norm_ub * relative + lost) * outward(3))


def float32_twice_error_ub(norm_ub: FloatArray, head_dim: int) -> FloatArray:
    """Return the distance of a token from its rotation's rotation, both in binary32; parameters as above."""
    relative, lost = _float32(head_dim)
    return np.asarray((norm_ub * (2.0 * relative + relative**2) + (2.0 + relative) * lost) * outward(5))


def _float32(head_dim: int) -> tuple[float, float]:
    """Return gamma of binary32, and what all channels lose."""
    nu = roundings(head_dim) * V
    return nu / (1.0 - nu) * outward(2), math.sqrt(head_dim) * LOST * outward(1)
