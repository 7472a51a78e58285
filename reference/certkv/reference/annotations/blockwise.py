"""Annotations are arrays over blocks; this gives them indexing and joining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from certkv.reference.errors import ShapeError


class Blockwise:
    """Base of frozen dataclasses whose fields are float32 arrays of one shape, the leading axes of the blocks."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        return tuple(next(iter(self.arrays().values())).shape)

    @classmethod
    def bytes_per_block(cls) -> int:
        """Return the bytes of one block's annotations: 4 per field."""
        return 4 * len(fields(cls))

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
