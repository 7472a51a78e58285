"""`int8` (keys and values) and `int4` (values): one step and minimum per channel and block, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane
from certkv.fast.formats.token_norm import Scope


@dataclass(frozen=True)
class PerChannel:
    """Affine codes of `bits` bits per channel and block; docs/formats/channel.md has the exact meaning."""

    name: str
    bits: int
    group: ClassVar[int] = 0
    rotated: ClassVar[bool] = False
    scope: ClassVar[Scope | None] = None
    least_block: ClassVar[int] = 1

    def rows(self, block: int) -> int:
        """Return ``ceil(B bits / 8)``."""
        return plane_rows(block, self.bits)

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps: channels."""
        return (head_dim,)

    def norm_heads(self, kv_heads: int) -> int:
        """Return 0: there are no norms."""
        return 0

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        codes, step, minimum = quantize(x, -2, 2**self.bits - 1)
        return Encoded(pack_plane(codes, self.bits), step, minimum)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is quantized, of the type of x: x itself."""
        return x

    def parts(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes [..., B, d], and step and minimum that broadcast against them."""
        codes = unpack_plane(encoded.codes, self.bits, block)
        return codes, encoded.step.unsqueeze(-2), encoded.minimum.unsqueeze(-2)

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning and the error of its one rounding; see `Format.decode`."""
        return reconstruct(*self.parts(encoded, block))

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same: nothing is rotated."""
        return self.decode(encoded, block)


INT8 = PerChannel("int8", 8)
INT4 = PerChannel("int4", 4)
