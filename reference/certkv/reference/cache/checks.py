"""What a tensor must be before it enters the cache or a step."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import numpy as np

from certkv.reference.errors import DTypeError, NonFiniteError, SettingError, ShapeError
from certkv.reference.numbers.types import AnyArray


def require_plain(name: str, array: object) -> None:
    """Refuse what is no NumPy array, and a masked one, whose hidden elements no check would see.

    Raises
    ------
    DTypeError
    """
    if type(array) not in (np.ndarray, np.memmap):
        raise DTypeError(f"{name} is a {type(array).__name__}; give a plain NumPy array (numpy.asarray, filled)")


def real_number(name: str, value: object) -> float:
    """Return a Python float, which is computed with as a float64.

    Raises
    ------
    SettingError
        Not a number: a string, a complex number, a truth value, None, or an integer beyond float64.
    """
    try:
        if isinstance(value, SupportsFloat | SupportsIndex) and not isinstance(value, bool | np.bool_ | np.ndarray):
            return float(value)
    except OverflowError as error:
        raise SettingError(f"{name} is too large; give a number within the range of float64") from error
    raise SettingError(f"{name} is {value!r}; give a number")


def whole_number(name: str, value: object) -> int:
    """Return a Python int, which never wraps around.

    Raises
    ------
    SettingError
        Not an integer.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool | np.bool_ | np.ndarray):
        return operator.index(value)
    raise SettingError(f"{name} is {value!r}; give a whole number")


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
