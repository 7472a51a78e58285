"""What settings and tensors must be before they enter the cache or a step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import ParamSpec, SupportsFloat, SupportsIndex, TypeVar

import numpy as np
import torch

from certkv.fast.errors import DTypeError, InputError, NonFiniteError, SettingError, ShapeError

P = ParamSpec("P")
T = TypeVar("T")

ORIGINALS = (torch.float16, torch.bfloat16)
"""Types of originals."""

_NO_NUMBERS = bool | np.bool_ | np.ndarray | torch.Tensor


def real_number(name: str, value: object) -> float:
    """Return a Python float, which is computed with as a float64.

    Raises
    ------
    SettingError
        Not a number: a string, a complex number, a truth value, None, an array, or an integer beyond float64.
    """
    try:
        if isinstance(value, SupportsFloat | SupportsIndex) and not isinstance(value, _NO_NUMBERS):
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
    if isinstance(value, SupportsIndex) and not isinstance(value, _NO_NUMBERS):
        return operator.index(value)
    raise SettingError(f"{name} is {value!r}; give a whole number")


def size(name: str, value: object, least: int = 1) -> int:
    """Return a whole number that is at least so much.

    Raises
    ------
    SettingError
    """
    number = whole_number(name, value)
    if number < least:
        raise SettingError(f"{name} is {number}; give at least {least}")
    return number


def known_device(device: torch.device | str) -> torch.device:
    """Return the device as tensors name it: "cuda" is the current one.

    Raises
    ------
    SettingError
    """
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingError(f"device is {device!r}; give one that torch knows") from error
    if known.type == "cuda":
        if not torch.cuda.is_available():
            raise SettingError(f"device is {device!r}, but torch sees no GPU here")
        return known if known.index is not None else torch.device("cuda", torch.cuda.current_device())
    return known


class Reasons:
    """Collects everything that is wrong with the arguments of one call, to say it all at once."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    def add(self, error: InputError) -> None:
        """Add one reason."""
        self._errors.append(error)

    def catch(self, check: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T | None:
        """Return what a check returns; None where it raised an InputError, which is added."""
        try:
            return check(*arguments, **named)
        except InputError as error:
            self.add(error)
            return None

    def raise_all(self) -> None:
        """Raise what was collected: one error as it is, several as one of their type, or InputError if they differ.

        Raises
        ------
        InputError
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            kinds = {type(error) for error in self._errors}
            kind = kinds.pop() if len(kinds) == 1 else InputError
            raise kind("\n".join(["several things are wrong:", *(f"- {error}" for error in self._errors)]))


def require_tensor(name: str, tensor: object) -> None:
    """Refuse what is no tensor, before an operator of torch does in words of its own.

    Raises
    ------
    DTypeError
    """
    if not isinstance(tensor, torch.Tensor):
        raise DTypeError(f"{name} is a {type(tensor).__name__}; give a torch tensor")


def check_tensor(
    reasons: Reasons,
    name: str,
    tensor: object,
    expected: Sequence[int | str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Add what is wrong with a tensor's kind, shape (a string stands for any length), type or device."""
    if not isinstance(tensor, torch.Tensor):
        reasons.add(DTypeError(f"{name} is a {type(tensor).__name__}; give a torch tensor"))
        return
    shape = tuple(tensor.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, shape, strict=False)
    )
    if not fits:
        wanted = ", ".join(str(axis) for axis in expected)
        reasons.add(ShapeError(f"{name} has shape {list(shape)}, but [{wanted}] is expected"))
    if tensor.dtype != dtype:
        reasons.add(DTypeError(f"{name} has dtype {type_name(tensor.dtype)}, but {type_name(dtype)} is expected"))
    if tensor.device != device:
        reasons.add(DTypeError(f"{name} is on {tensor.device}, but the cache is on {device}"))


def type_name(dtype: torch.dtype) -> str:
    """Name of a type without its module: ``float16``."""
    return str(dtype).removeprefix("torch.")


def finite(tensor: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Return which elements are finite or padding, bool [batch, tokens, heads, head_dim].

    Parameters
    ----------
    tensor : [batch, tokens, heads, head_dim]
    valid : bool [batch, tokens] or None
        Elsewhere there is padding, which may hold anything; None where there is none.
    """
    good = torch.isfinite(tensor)
    return good if valid is None else good | ~valid[:, :, None, None]


def require_finite(valid: torch.Tensor | None, **tensors: torch.Tensor) -> None:
    """Refuse NaN and infinities in tensors [batch, tokens, heads, head_dim], padding aside; synchronises once.

    Raises
    ------
    NonFiniteError
        With the name of the first tensor that holds one, and the position of the first in it.
    """
    if bool(torch.stack([finite(tensor, valid).all() for tensor in tensors.values()]).all()):
        return
    for name, tensor in tensors.items():
        bad = ~finite(tensor, valid)
        if bool(bad.any()):
            raise NonFiniteError(name, tuple(int(i) for i in bad.nonzero()[0]))
