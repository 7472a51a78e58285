"""Two 4-bit codes per byte, packed along tokens.

With ``half = ceil(B/2)``, byte row t holds token t in its low nibble and token ``t + half`` in its high nibble (0 if B
is odd and that token does not exist).  Unpacking is then two contiguous halves, with no interleaving.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]


def packed_rows(block: int) -> int:
    """Return ``ceil(B/2)``, the byte rows of a block."""
    return (block + 1) // 2


def pack4(codes: UInt8Array) -> UInt8Array:
    """Pack codes 0..15, [..., B, d], into bytes [..., ceil(B/2), d]."""
    half = packed_rows(codes.shape[-2])
    packed = codes[..., :half, :].copy()
    high = codes[..., half:, :]
    packed[..., : high.shape[-2], :] |= high << np.uint8(4)
    return packed


def unpack4(packed: npt.NDArray[Any], block: int) -> UInt8Array:
    """Unpack bytes [..., ceil(B/2), d] into codes [..., B, d]; the inverse of `pack4`."""
    low = packed & np.uint8(15)
    high = packed >> np.uint8(4)
    return np.concatenate([low, high[..., : block - packed_rows(block), :]], axis=-2)
