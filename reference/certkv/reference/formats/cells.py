"""Where in the cell of its code a number lies, in bits: what refinement planes hold."""

from __future__ import annotations

import numpy as np

from certkv.reference.formats.affine import HALF
from certkv.reference.numbers.types import AnyArray, IntArray


def places(x: AnyArray, codes: AnyArray, step: AnyArray, minimum: AnyArray, bits: int) -> IntArray:
    """Cut the cell of every code into ``2**bits`` parts and return the part of each number.

    In FP32 operations of this order, one rounding each::

        place = floor(((x/2 - minimum/2) / (step/2) - code + 1/2) 2**bits), clamped to 0 .. 2**bits - 1

    Parameters
    ----------
    x : ndarray of float16 or bfloat16
    codes : ndarray of uint8, shape of x
    step, minimum : ndarray of the type of x, broadcast to its shape
    bits : int
    """
    half_step = HALF * step.astype(np.float32)
    divisor = np.where(half_step > 0, half_step, np.float32(1.0))
    within = (HALF * x.astype(np.float32) - HALF * minimum.astype(np.float32)) / divisor - codes.astype(np.float32)
    place = np.clip(np.floor((within + HALF) * np.float32(2**bits)), 0, 2**bits - 1)
    return np.asarray(place, np.int64)
