"""What a format is: encode, an exact meaning, a byte count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from certkv.reference.errors import DTypeError, NonFiniteError, SettingError, ShapeError
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, float_type

AnyArray = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

KEYS = "keys"
VALUES = "values"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded blocks: what is stored, and nothing else.

    Attributes
    ----------
    format_name : str
    codes : ndarray, [..., rows, d]
        Stored codes; `rows` is B, or ceil(B/2) where two 4-bit codes share a byte.
    step, minimum : ndarray, [..., metadata axes]
        Stored metadata in their storage types: [..., d] per channel, [..., B, groups] per token and group,
        [..., 0] where there is none.
    block : int
        Tokens per block, B.
    head_dim : int
        Channels, d.
    dtype : FloatType
        Type of the originals.
    """

    format_name: str
    codes: AnyArray
    step: AnyArray
    minimum: AnyArray
    block: int
    head_dim: int
    dtype: FloatType

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        return tuple(self.codes.shape[:-2])

    def take(self, index: Any) -> Encoded:
        """Index the leading axes, as NumPy would; ``encoded.take(3)`` or ``encoded.take((slice(None), [0, 2]))``.

        Raises
        ------
        ShapeError
            If the index reaches past the leading axes.
        """
        codes = self.codes[index] if self.leading else None
        if codes is None or codes.shape[-2:] != self.codes.shape[-2:] or codes.ndim < 2:
            raise ShapeError(f"index {index!r} does not fit the leading axes {self.leading} of the encoded blocks")
        return replace(self, codes=codes, step=self.step[index], minimum=self.minimum[index])


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Join encoded blocks of the same format, block, head size and type along the first leading axis.

    Raises
    ------
    ShapeError
        If there is nothing to join, or the parts differ in any of these or in their other leading axes.
    """
    if not parts:
        raise ShapeError("nothing to concatenate; pass at least one encoded part")
    first = parts[0]
    for i, part in enumerate(parts):
        same = (part.format_name, part.block, part.head_dim, part.dtype) == (
            first.format_name,
            first.block,
            first.head_dim,
            first.dtype,
        )
        if not same or not part.leading or part.leading[1:] != first.leading[1:]:
            raise ShapeError(
                f"part {i} ({part.format_name}, block {part.block}, head size {part.head_dim}, {part.dtype.name}, "
                f"leading axes {part.leading}) does not fit part 0 ({first.format_name}, block {first.block}, "
                f"head size {first.head_dim}, {first.dtype.name}, leading axes {first.leading})"
            )
    return replace(
        first,
        codes=np.concatenate([part.codes for part in parts]),
        step=np.concatenate([part.step for part in parts]),
        minimum=np.concatenate([part.minimum for part in parts]),
    )


class Format(Protocol):
    """A quantizer with a fixed floating-point meaning.

    ``encode`` is a total function of finite float16 or bfloat16 blocks.  What the stored bits *mean* is the real number
    ``minimum + step * code``, exactly; every annotation and every certificate refers to that number.
    """

    @property
    def name(self) -> str:
        """Name in settings and reports."""

    @property
    def kind(self) -> frozenset[str]:
        """What it can store: a subset of ``{"keys", "values"}``."""

    @property
    def default_block(self) -> int:
        """Tokens per block unless told otherwise."""

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks of originals.

        Parameters
        ----------
        x : ndarray of float16 or bfloat16, [..., B, d]

        Raises
        ------
        DTypeError, ShapeError, NonFiniteError
        """

    def decode(self, encoded: Encoded) -> Float64Array:
        """Return the meaning in float64, [..., B, d]: exact, or rounded once, ``|decode - exact| <= u |decode|``.

        u = 2**-53; since rounding to nearest is meant, ``<= u |exact|`` holds as well.
        """

    def decode_error_ub(self, encoded: Encoded) -> Float64Array:
        """Upper bound of ``|decode - exact|`` per element, [..., B, d]; ``U * abs(decode(encoded))`` always is one."""

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Bytes of codes and metadata of one block of 16-bit originals, annotations not included."""


def check_originals(x: AnyArray, kind: frozenset[str]) -> FloatType:
    """Check blocks of originals and return their type.

    Raises
    ------
    DTypeError
        If x is neither float16 nor bfloat16.
    ShapeError
        If x has no token or no channel axis, or no token or channel.
    NonFiniteError
        With the position of the first NaN or infinity; it names the tensor ``k``, ``v``, or ``x`` when the format
        takes both.
    """
    ft = float_type(x.dtype)
    if ft not in (FLOAT16, BFLOAT16):
        raise DTypeError(f"originals are {ft.name}, but a cache stores float16 or bfloat16; round them first")
    if x.ndim < 2 or x.shape[-1] < 1 or x.shape[-2] < 1:
        raise ShapeError(f"originals have shape {x.shape}, but blocks are [..., B, d] with B >= 1 and d >= 1")
    with np.errstate(invalid="ignore"):  # looking at a signalling NaN
        finite = np.isfinite(x)
    if not finite.all():
        position = tuple(int(i) for i in np.argwhere(~finite)[0])
        tensor = {frozenset({KEYS}): "k", frozenset({VALUES}): "v"}.get(kind, "x")
        raise NonFiniteError(tensor, position, float(x[position]))
    return ft


def step_per_channel(encoded: Encoded) -> Float64Array:
    """Return the step of every channel, [..., d] in float64; zeros where the format stores originals.

    Raises
    ------
    SettingError
        If the format's step is not per channel and block.
    """
    if encoded.step.ndim == len(encoded.leading) + 1:
        if encoded.step.shape[-1] == encoded.head_dim:
            return encoded.step.astype(np.float64)
        if encoded.step.shape[-1] == 0:
            return np.zeros((*encoded.leading, encoded.head_dim))
    raise SettingError(f"format {encoded.format_name} has no step per channel; use it for values only")
