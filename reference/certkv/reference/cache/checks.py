"""What a tensor must be before it enters the cache or a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certkv.reference.errors import DTypeError, NonFiniteError, ShapeError
from certkv.reference.numbers.types import AnyArray


def require_shape(name: str, array: AnyArray, expected: Sequence[int | str]) -> None:
    """Check the number of axes and every axis that ``expected`` gives as a number.

    Raises
    ------
    ShapeError
        Naming both shapes.
    """
    fits = array.ndim == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, array.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join(str(axis) for axis in expected)
        raise ShapeError(f"{name} has shape {list(array.shape)}, but [{wanted}] is expected")


def require_dtype(name: str, array: AnyArray, allowed: Sequence[np.dtype[np.generic]]) -> None:
    """Check the element type.

    Raises
    ------
    DTypeError
        Naming the type and those allowed.
    """
    if array.dtype not in allowed:
        names = " or ".join(dtype.name for dtype in allowed)
        raise DTypeError(f"{name} has dtype {array.dtype.name}, but {names} is expected")


def require_finite(name: str, array: AnyArray) -> None:
    """Refuse NaN and infinities, with the position of the first.

    Raises
    ------
    NonFiniteError
    """
    finite = np.isfinite(array)
    if not finite.all():
        position = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NonFiniteError(name, position, float(array[position]))
