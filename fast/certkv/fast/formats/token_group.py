"""`int4-g32` and `int8-g64` (values): one step and minimum per token and group of channels, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane


@dataclass(frozen=True)
class PerTokenGroup:
    """Affine codes of `bits` bits per token and `group` channels; see docs/formats/token_group.md.

    A head size that is no multiple of the group ends in a shorter group.
    """

    name: str
    bits: int
    group: int
    rotated: ClassVar[bool] = False

    def rows(self, block: int) -> int:
        """Return ``ceil(B bits / 8)``."""
        return plane_rows(block, self.bits)

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps: tokens and groups of channels."""
        return block, -(-head_dim // self.group)

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        codes, step, minimum = grid(x, self.group, self.bits)
        return Encoded(pack_plane(codes, self.bits), step, minimum)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is quantized, of the type of x: x itself."""
        return x

    def parts(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes, steps and minima, each [..., B, d]."""
        codes = unpack_plane(encoded.codes, self.bits, block)
        step, minimum = (of_channels(x, self.group, codes.shape[-1]) for x in (encoded.step, encoded.minimum))
        return codes, step, minimum

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning and the error of its one rounding; see `Format.decode`."""
        return reconstruct(*self.parts(encoded, block))

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same: nothing is rotated."""
        return self.decode(encoded, block)


def grid(x: torch.Tensor, group: int, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes of so many bits, [..., B, d], not packed, with their step and minimum, [..., B, groups]."""
    head_dim = x.shape[-1]
    groups = -(-head_dim // group)
    # repeating the last channel fills the last group without changing its extremes
    channel = torch.arange(groups * group, device=x.device).clamp(max=head_dim - 1)
    grouped = x[..., channel].reshape(*x.shape[:-1], groups, group)
    codes, step, minimum = quantize(grouped, -1, 2**bits - 1)
    return codes.flatten(-2)[..., :head_dim], step, minimum


def of_channels(x: torch.Tensor, group: int, head_dim: int) -> torch.Tensor:
    """Repeat what belongs to a group for each of its channels, [..., groups] -> [..., d]."""
    return x[..., torch.arange(head_dim, device=x.device) // group]


INT4_G32 = PerTokenGroup("int4-g32", 4, 32)
INT8_G64 = PerTokenGroup("int8-g64", 8, 64)
