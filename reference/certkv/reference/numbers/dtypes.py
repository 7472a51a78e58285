"""The floating-point types of originals, metadata and annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from certkv.reference.errors import DTypeError


@dataclass(frozen=True)
class FloatType:
    """A binary floating-point type with subnormals and round-to-nearest-even.

    Attributes
    ----------
    name : str
        ``"float16"``, ``"bfloat16"`` or ``"float32"``.
    dtype : numpy.dtype
        The NumPy type of that name (bfloat16 comes from ml_dtypes).
    precision : int
        Bits of the significand p, the implicit one included.
    max : float
        Largest finite number.
    smallest_subnormal : float
        Smallest positive number.
    bits_dtype : numpy.dtype
        Unsigned integer of the same width, to look at bit patterns.
    """

    name: str
    dtype: np.dtype[Any]
    precision: int
    max: float
    smallest_subnormal: float
    bits_dtype: np.dtype[Any]

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of one rounding to nearest in the normal range: ``2**-p``."""
        return 2.0**-self.precision

    @property
    def itemsize(self) -> int:
        """Storage of one number in bytes."""
        return int(self.dtype.itemsize)


FLOAT16 = FloatType("float16", np.dtype(np.float16), 11, 65504.0, 2.0**-24, np.dtype(np.uint16))
BFLOAT16 = FloatType(
    "bfloat16", np.dtype(ml_dtypes.bfloat16), 8, (2.0 - 2.0**-7) * 2.0**127, 2.0**-133, np.dtype(np.uint16)
)
FLOAT32 = FloatType("float32", np.dtype(np.float32), 24, (2.0 - 2.0**-23) * 2.0**127, 2.0**-149, np.dtype(np.uint32))

_TYPES = (FLOAT16, BFLOAT16, FLOAT32)


def float_type(dtype: Any) -> FloatType:
    """Return the `FloatType` of a name, a NumPy dtype, a scalar type, or a `FloatType` itself.

    Raises
    ------
    DTypeError
        If it is none of float16, bfloat16, float32.
    """
    if isinstance(dtype, FloatType):
        return dtype
    for candidate in _TYPES:
        if isinstance(dtype, str):
            if dtype == candidate.name:
                return candidate
        elif dtype == candidate.dtype:
            return candidate
    names = ", ".join(candidate.name for candidate in _TYPES)
    raise DTypeError(f"{dtype} is not a supported floating-point type; use one of {names}")
