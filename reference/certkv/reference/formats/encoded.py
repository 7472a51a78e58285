"""What is stored of encoded blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from certkv.reference.errors import SettingError, ShapeError
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray


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
    planes : tuple of ndarray, [..., rows, d]
        Refinement planes in the order in which they refine, packed; none for a format of one level.
    norm : ndarray of float32, [..., B] or [..., 0], or None
        Norms that multiply decoded tokens, and none of them, where steps belong to groups of tokens; None elsewhere.
    """

    format_name: str
    codes: AnyArray
    step: AnyArray
    minimum: AnyArray
    block: int
    head_dim: int
    dtype: FloatType
    planes: tuple[AnyArray, ...] = ()
    norm: AnyArray | None = None

    @property
    def level(self) -> int:
        """The finest level that these planes give: how many there are."""
        return len(self.planes)

    def at(self, level: int) -> Encoded:
        """Return what is read at a level: the base plane and the first ``level`` refinement planes.

        Raises
        ------
        SettingError
            There is no such level.
        """
        if not 0 <= level <= self.level:
            raise SettingError(f"level {level} of {self.format_name} is not there; give 0 to {self.level}")
        return replace(self, planes=self.planes[:level])

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
        planes = tuple(plane[index] for plane in self.planes)
        norm = None if self.norm is None else self.norm[index]
        return replace(self, codes=codes, step=self.step[index], minimum=self.minimum[index], planes=planes, norm=norm)


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
        same = (part.format_name, part.block, part.head_dim, part.dtype, part.level) == (
            first.format_name,
            first.block,
            first.head_dim,
            first.dtype,
            first.level,
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
        planes=tuple(np.concatenate(same) for same in zip(*(part.planes for part in parts), strict=True)),
        norm=None if first.norm is None else np.concatenate([part.norm for part in parts if part.norm is not None]),
    )


def step_per_channel(encoded: Encoded) -> FloatArray:
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
