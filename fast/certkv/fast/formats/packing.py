"""Two 4-bit codes per byte, packed along tokens.

With ``half = ceil(B/2)``, byte row t holds token t in its low nibble and token ``t + half`` in its high nibble (0 if B
is odd and that token does not exist).
"""

from __future__ import annotations

import torch


def packed_rows(block: int) -> int:
    """Return ``ceil(B/2)``, the byte rows of a block."""
    return (block + 1) // 2


def pack4(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes 0..15, uint8 [..., B, d], into bytes [..., ceil(B/2), d]."""
    half = packed_rows(codes.shape[-2])
    packed = codes[..., :half, :].clone()
    high = codes[..., half:, :]
    packed[..., : high.shape[-2], :] |= high << 4
    return packed


def unpack4(packed: torch.Tensor, block: int) -> torch.Tensor:
    """Unpack bytes [..., ceil(B/2), d] into codes [..., B, d]; the inverse of `pack4`."""
    high = packed >> 4
    return torch.cat([packed & 15, high[..., : block - packed_rows(block), :]], dim=-2)
