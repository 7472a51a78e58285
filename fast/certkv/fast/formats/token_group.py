"""`int4-g32` and `int8-g64` (values): one step and minimum per token and group of channels, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack4, unpack4


@dataclass(frozen=True)
class PerTokenGroup:
    """Affine codes of `bits` bits per token and `group` channels; see docs/formats/token_group.md.

    A head size that is no multiple of the group ends in a shorter group.
    """

    name: str
    bits: int
    group: int

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        head_dim = x.shape[-1]
        groups = -(-head_dim // self.group)
        # repeating the last channel fills the last group without changing its extremes
        channel = torch.arange(groups * self.group, device=x.device).clamp(max=head_dim - 1)
        grouped = x[..., channel].reshape(*x.shape[:-1], groups, self.group)
        codes, step, minimum = quantize(grouped, -1, 2**self.bits - 1)
        codes = codes.flatten(-2)[..., :head_dim]
        return Encoded(pack4(codes) if self.bits == 4 else codes.contiguous(), step, minimum)

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning and the error of its one rounding; see `Format.decode`."""
        codes = unpack4(encoded.codes, block) if self.bits == 4 else encoded.codes
        group_of_channel = torch.arange(codes.shape[-1], device=codes.device) // self.group
        return reconstruct(codes, encoded.step[..., group_of_channel], encoded.minimum[..., group_of_channel])


INT4_G32 = PerTokenGroup("int4-g32", 4, 32)
INT8_G64 = PerTokenGroup("int8-g64", 8, 64)
