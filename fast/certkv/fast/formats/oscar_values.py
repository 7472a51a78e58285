"""`oscar` and its kin (values): rotate, then quantize every token over groups of channels.

The rotation is online: ``sum p H x = H sum p x``, so a weighted sum of decoded values is turned back once. The bits are
those of docs/formats/oscar.md; the meaning of what is stored is ``H (minimum + step code)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats.affine import reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane
from certkv.fast.formats.rotated import originals_as_stored, to_type, turned_back
from certkv.fast.formats.token_group import grid, of_channels


@dataclass(frozen=True)
class OscarValues:
    """Codes of `bits` bits per token and `group` channels of values that are rotated, or not.

    A head size that is no multiple of the group ends in a shorter group.
    """

    name: str
    bits: int = 2
    group: int = 32
    rotated: bool = True

    def rows(self, block: int) -> int:
        """Return ``ceil(B bits / 8)``."""
        return plane_rows(block, self.bits)

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps: tokens and groups of channels."""
        return block, -(-head_dim // self.group)

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        codes, step, minimum = grid(self.quantized(x), self.group, self.bits)
        return Encoded(pack_plane(codes, self.bits), step, minimum)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is quantized, of the type of x: x, rotated or not."""
        return to_type(originals_as_stored(x, self.rotated), x.dtype)

    def parts(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes, steps and minima, each [..., B, d]."""
        codes = unpack_plane(encoded.codes, self.bits, block)
        step, minimum = (of_channels(x, self.group, codes.shape[-1]) for x in (encoded.step, encoded.minimum))
        return codes, step, minimum

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``minimum + step code`` rounded once, and what it is off by; see `Format.decode_rotated`."""
        return reconstruct(*self.parts(encoded, block))

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return D in the basis of the originals, and a bound of what it is off by; see `Format.decode`."""
        return turned_back(*self.decode_rotated(encoded, block), self.rotated)
