"""From a user's class with ``encode`` and ``decode`` to a format that a cache can hold."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from numbers import Integral
from typing import Any, Protocol

import numpy as np

from certkv.reference.errors import DTypeError, SettingError, ShapeError
from certkv.reference.formats import KEYS, VALUES, Encoded, check_originals, step_per_channel
from certkv.reference.formats.registry import register, unregister
from certkv.reference.numbers import U
from certkv.reference.numbers.types import AnyArray, FloatArray

SMALLEST_STEP = 2.0**-300
"""Steps are 0 or at least this, so that no product of a bound underflows."""


class Quantizer(Protocol):
    """What a user writes. docs/verify_your_format.md lists what may be added."""

    def encode(self, x: AnyArray) -> Any:
        """Encode one block of one KV head, finite float16 or bfloat16 [B, d]; return anything."""

    def decode(self, stored: Any) -> FloatArray:
        """Return what is stored, float64 [B, d]."""


class Adapted:
    """A user's quantizer as a :class:`certkv.reference.formats.Format`.

    What is stored of a block is whatever its ``encode`` returned, and that alone is passed to ``decode``.

    What the stored data *mean* is what ``exact(stored)`` says, if the class has it: rational numbers, [B, d]. Then
    ``decode`` may differ from it by one rounding to float64, or by ``decode_error_ub(stored)`` where that is smaller.
    Without ``exact`` the float64 numbers that ``decode`` returns are the meaning, and its error is 0 by definition.

    Parameters
    ----------
    inner : Quantizer
    name : str or None
        None for its attribute ``name``, or the name of its class.

    Raises
    ------
    SettingError
        ``encode`` or ``decode`` is missing, ``kind`` is not one or both of "keys" and "values", or ``default_block`` is
        no positive integer.
    """

    def __init__(self, inner: Quantizer, name: str | None = None) -> None:
        for method in ("encode", "decode"):
            if not callable(getattr(inner, method, None)):
                raise SettingError(f"{type(inner).__name__} has no method {method}; a format has encode and decode")
        self.inner: Any = inner
        self.name: str = name or str(getattr(inner, "name", type(inner).__name__))
        self.kind: frozenset[str] = frozenset(getattr(inner, "kind", (KEYS, VALUES)))
        self.default_block = _positive(self.name, getattr(inner, "default_block", 64))
        if not self.kind or not self.kind <= {KEYS, VALUES}:
            raise SettingError(f"{self.name}.kind is {set(self.kind)}; give one or both of {KEYS!r} and {VALUES!r}")

    @property
    def has_exact(self) -> bool:
        """Whether the class states its meaning apart from ``decode``."""
        return callable(getattr(self.inner, "exact", None))

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d], one by one.

        Raises
        ------
        DTypeError, ShapeError, NonFiniteError
            The blocks are not what a cache stores: the user's ``encode`` sees finite 16-bit numbers only.
        """
        ft = check_originals(x, self.kind)
        leading = x.shape[:-2]
        codes = np.empty((*leading, 1, 1), object)
        steps: list[FloatArray] = []
        for index in itertools.product(*(range(n) for n in leading)):
            stored = self.inner.encode(np.array(x[index]))
            codes[(*index, 0, 0)] = stored
            steps.append(self._step(stored, x.shape[-1]))
        step = np.array(steps).reshape(*leading, -1) if steps else np.empty((*leading, 0))
        return Encoded(self.name, codes, step, np.empty((*leading, 0)), x.shape[-2], x.shape[-1], ft)

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return what is stored, float64 [..., B, d].

        Raises
        ------
        DTypeError, ShapeError
            The user's ``decode`` returned something else.
        """
        return self._each(encoded, self._decode_one)

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Upper bound of ``|decode - meaning|``, [..., B, d]."""
        if callable(getattr(self.inner, "decode_error_ub", None)):
            return self._each(encoded, lambda one: np.asarray(self.inner.decode_error_ub(_stored(one)), np.float64))
        decoded = self.decode(encoded)
        return U * np.abs(decoded) if self.has_exact else np.zeros_like(decoded)

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return what the class says, or what it holds of a block of zeros."""
        if callable(getattr(self.inner, "bytes_per_block", None)):
            return int(self.inner.bytes_per_block(block, head_dim))
        return held_bytes(self.inner.encode(np.zeros((block, head_dim), np.float16)))

    def _decode_one(self, one: Encoded) -> FloatArray:
        decoded = self.inner.decode(_stored(one))
        if not isinstance(decoded, np.ndarray) or decoded.dtype != np.float64:
            kind = decoded.dtype if isinstance(decoded, np.ndarray) else type(decoded).__name__
            raise DTypeError(f"{self.name}.decode returned {kind}; return a float64 array, which holds every number")
        if decoded.shape != (one.block, one.head_dim):
            raise ShapeError(f"{self.name}.decode returned {decoded.shape} for a block {(one.block, one.head_dim)}")
        return decoded

    def _each(self, encoded: Encoded, call: Any) -> FloatArray:
        if not encoded.leading:
            return np.array(call(encoded))
        out = np.empty((*encoded.leading, encoded.block, encoded.head_dim))
        for index in itertools.product(*(range(n) for n in encoded.leading)):
            out[index] = call(encoded.take(index))
        return out

    def _step(self, stored: Any, head_dim: int) -> FloatArray:
        """Return the step of every channel, [d]; nothing where the format has none."""
        if callable(getattr(self.inner, "step", None)):
            step = np.asarray(self.inner.step(stored), np.float64)
        elif isinstance(stored, Encoded) and stored.step.shape == (head_dim,):
            step = step_per_channel(stored)
        else:
            return np.empty(0)
        good = step.shape == (head_dim,) and bool(((step == 0) | ((step >= SMALLEST_STEP) & (step < np.inf))).all())
        if not good:
            raise ShapeError(f"{self.name}.step must be [{head_dim}], each 0 or from 2**-300 up, but is {step!r:.80}")
        return step


def _positive(name: str, block: Any) -> int:
    """Return the tokens per block.

    Raises
    ------
    SettingError
        Not a positive integer.
    """
    if not isinstance(block, Integral) or block < 1:
        raise SettingError(f"{name}.default_block is {block!r:.40}; give a positive integer")
    return int(block)


def _stored(one: Encoded) -> Any:
    return one.codes[0, 0]


def held_bytes(stored: Any) -> int:
    """Bytes of everything that is stored: arrays and bytes as they are, containers by their contents."""
    if isinstance(stored, np.ndarray) and stored.dtype != object:
        return int(stored.nbytes)
    if isinstance(stored, bytes | bytearray | memoryview):
        return len(stored)
    if isinstance(stored, np.generic):
        return int(stored.nbytes)
    if isinstance(stored, Mapping):
        return sum(held_bytes(x) for x in stored.values())
    if isinstance(stored, tuple | list):
        return sum(held_bytes(x) for x in stored)
    if isinstance(stored, Encoded):
        return held_bytes((stored.codes, stored.step, stored.minimum))
    if is_dataclass(stored):
        return sum(held_bytes(getattr(stored, field.name)) for field in fields(stored))
    if isinstance(stored, bool | int | float | str | type(None)):
        return 8 if isinstance(stored, int | float) else len(stored or "")
    return len(pickle.dumps(stored))


@contextmanager
def registered(fmt: Adapted) -> Iterator[str]:
    """Register a format while the context lasts; gives its name."""
    register(fmt)
    try:
        yield fmt.name
    finally:
        unregister(fmt.name)
