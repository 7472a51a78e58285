"""Annotations are arrays over blocks; this gives them indexing, joining and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np

from certkv.reference.errors import ShapeError
from certkv.reference.numbers.types import AnyArray

SCALAR_BYTES = 2
"""A block scalar is a bfloat16 number."""

CODE_BYTES = 1
"""A token's number is a log code."""


class Blockwise:
    """Base of frozen dataclasses of annotations.

    A field whose name ends in ``_codes`` holds log codes, uint8 [..., B]; every other one a scalar per block, bfloat16
    [...]; [...] are the leading axes of the blocks.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def arrays(self) -> dict[str, AnyArray]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        first = fields(self)[0].name
        return tuple(getattr(self, first).shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays().values())

    @classmethod
    def bytes_per_block(cls, block: int, only: Sequence[str] | None = None) -> int:
        """Return the bytes of the annotations of one block of ``block`` tokens, or of some of them."""
        names = [field.name for field in fields(cls)] if only is None else only
        codes = sum(name.endswith("_codes") for name in names)
        return SCALAR_BYTES * (len(names) - codes) + CODE_BYTES * codes * block

    def take(self, index: Any) -> Self:
        """Index the leading axes, as NumPy would."""
        return type(self)(**{name: np.asarray(array[index]) for name, array in self.arrays().items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join along the first leading axis.

        Raises
        ------
        ShapeError
            If there is nothing to join, or the other leading axes differ.
        """
        if not parts:
            raise ShapeError("nothing to concatenate; pass at least one part")
        for i, part in enumerate(parts):
            if not part.leading or part.leading[1:] != parts[0].leading[1:]:
                raise ShapeError(f"leading axes {part.leading} of part {i} do not fit {parts[0].leading} of part 0")
        names = parts[0].arrays()
        return cls(**{name: np.concatenate([part.arrays()[name] for part in parts]) for name in names})
