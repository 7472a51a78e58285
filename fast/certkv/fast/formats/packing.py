"""Codes of 2, 4 or 8 bits in bytes, packed along tokens.

With ``rows = ceil(B bits / 8)``, byte row t holds tokens t, t + rows, t + 2 rows, ... from the lowest bits up, 0 where
there is no such token.
"""

from __future__ import annotations

import torch


def plane_rows(block: int, bits: int) -> int:
    """Return ``ceil(B bits / 8)``, the byte rows of a block of codes of 1, 2, 4 or 8 bits."""
    return -(-block // (8 // bits))


def pack_plane(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes of 1, 2, 4 or 8 bits, uint8 [..., B, d], into bytes [..., rows, d]."""
    rows = plane_rows(codes.shape[-2], bits)
    packed = codes[..., :rows, :].clone()
    for i in range(1, 8 // bits):
        part = codes[..., i * rows : (i + 1) * rows, :]
        packed[..., : part.shape[-2], :] |= part << (i * bits)
    return packed


def unpack_plane(packed: torch.Tensor, bits: int, block: int) -> torch.Tensor:
    """Unpack bytes [..., rows, d] into codes [..., B, d]; the inverse of `pack_plane`."""
    parts = [(packed >> (i * bits)) & (2**bits - 1) for i in range(8 // bits)]
    return torch.cat(parts, dim=-2)[..., :block, :]
