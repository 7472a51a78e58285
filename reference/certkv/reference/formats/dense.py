"""`dense` (keys and values): the originals themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.formats.base import KEYS, VALUES, check_originals
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class Dense:
    """Codes are the originals; there is no metadata, and nothing is lost."""

    name: str = "dense"
    kind: frozenset[str] = frozenset({KEYS, VALUES})
    default_block: int = 64

    def encode(self, x: AnyArray) -> Encoded:
        """Store blocks [..., B, d] as they are; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        nothing = np.zeros((*x.shape[:-2], 0), dtype=ft.dtype)
        return Encoded(self.name, x.copy(), nothing, nothing, x.shape[-2], x.shape[-1], ft)

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the originals in float64, exactly, [..., B, d]."""
        return encoded.codes.astype(np.float64)

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return zeros, [..., B, d]."""
        return np.zeros(encoded.codes.shape)

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return ``2 B d``."""
        return 2 * block * head_dim


DENSE = Dense()
