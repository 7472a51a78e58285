"""How far a number is from what its code means at a level, from stored metadata alone.

Statement. With D the stored step, L the largest base code and F the refinement bits that were read,

    |x - (minimum + D code_l)| <= D (2^-F / 2 + 2 (L + 1) 2^-24):

half a cell, and what binary32 loses of the place in it. No certificate rests on this: every level's residuals are
measured against its own meaning. It says that a level more is worth a factor 2^b until the rounding is reached: to the
bound, not to every block's error. Base codes are grid points, refined ones centres of cells, so a number that lies on
the grid is exact at the base and up to half a refined cell off above it. Rotated one-hot keys do: under ``oscar+2+4``
their largest token error is 0.0007 at the base, 0.082 with two bits more and 0.0051 with all six.
Derivation: docs/derivations/planes.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def cell_ub(step: FloatArray, finer_bits: int, levels: int) -> FloatArray:
    """Return the bound.

    Parameters
    ----------
    step : float64, any shape
        Stored steps of the base plane.
    finer_bits : int
        F, at most 32.
    levels : int
        Largest base code.

    Returns
    -------
    float64, shape of step
    """
    return np.asarray(step * (2.0**-finer_bits / 2.0 + 2.0 * (levels + 1) * 2.0**-24) * outward(2))
