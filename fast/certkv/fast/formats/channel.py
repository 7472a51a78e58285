"""`int8` (keys and values) and `int4` (values): one step and minimum per channel and block, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack4, unpack4


@dataclass(frozen=True)
class PerChannel:
    """Affine codes of `bits` bits per channel and block; docs/formats/channel.md has the exact meaning."""

    name: str
    bits: int
    group: int = 0

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        codes, step, minimum = quantize(x, -2, 2**self.bits - 1)
        return Encoded(pack4(codes) if self.bits == 4 else codes, step, minimum)

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning and the error of its one rounding; see `Format.decode`."""
        codes = unpack4(encoded.codes, block) if self.bits == 4 else encoded.codes
        return reconstruct(codes, encoded.step.unsqueeze(-2), encoded.minimum.unsqueeze(-2))


INT8 = PerChannel("int8", 8)
INT4 = PerChannel("int4", 4)
