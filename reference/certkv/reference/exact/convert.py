"""Lossless conversion of inputs to float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from certkv.reference.errors import DTypeError, NonFiniteError
from certkv.reference.numbers.types import AnyArray, FloatArray

_EXACT = frozenset(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))


def to_float64(name: str, x: AnyArray) -> FloatArray:
    """Convert an array to float64 without loss.

    Raises
    ------
    DTypeError
        Any type but float16, bfloat16, float32, float64: its numbers might change.
    """
    if x.dtype not in _EXACT:
        raise DTypeError(f"{name} is {x.dtype}; it must be float16, bfloat16, float32 or float64")
    return np.asarray(x, dtype=np.float64)


def finite_float64(name: str, x: AnyArray) -> FloatArray:
    """Convert as `to_float64` does and refuse NaN and infinities.

    Raises
    ------
    DTypeError, NonFiniteError
    """
    converted = to_float64(name, x)
    finite = np.isfinite(converted)
    if not finite.all():
        position = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NonFiniteError(name, position, float(converted[position]))
    return converted
