"""Formats of several levels: a base plane that every pass reads, and planes that refine it; see docs/planes.md.

With planes of ``b_1, b_2, ...`` bits, ``F_l = b_1 + ... + b_l`` and ``C_l`` the base code followed by the bits of the
first l planes, level l stands for

    minimum + step * code_l,     code_l = C_l 2^-F_l + (2^-F_l - 2^-G) / 2

A *refined* format (G = 0) is another one with planes behind it, whose base is that one bit for bit. A *divided* one
(G = F_L) stores the codes of a finer format in planes: its last level is that one. Every code_l has at most 13
significant bits, so that its product with a step (11) is exact in binary32. All bits are those of the reference.

What a refined format rotates and scales, all its levels do: they divide the cells that numbers have there, and norms,
steps and minima are stored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded, Format
from certkv.fast.formats.channel import INT4, INT8, PerChannel
from certkv.fast.formats.oscar import OscarKeys, scaled
from certkv.fast.formats.oscar_family import OSCAR_KEYS, OSCAR_VALUES
from certkv.fast.formats.oscar_values import OscarValues
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane
from certkv.fast.formats.rotated import turned_back
from certkv.fast.formats.token_group import INT4_G32, INT8_G64, PerTokenGroup
from certkv.fast.formats.token_norm import Scope
from certkv.fast.numbers import fp32

Layout = PerChannel | PerTokenGroup | OscarKeys | OscarValues


@dataclass(frozen=True)
class Planar:
    """A format of several levels.

    Attributes
    ----------
    name : str
    layout : PerChannel, PerTokenGroup, OscarKeys or OscarValues
        Stores the base plane.
    plane_bits : tuple of int
        Bits per element of each plane; each 1, 2, 4 or 8.
    divided : bool
        Whether planes are the bits of a finer format's codes; only with a step per channel and block.
    """

    name: str
    layout: Layout
    plane_bits: tuple[int, ...]
    divided: bool = False

    @property
    def bits(self) -> int:
        """Bits of a base code."""
        return self.layout.bits

    @property
    def group(self) -> int:
        """As of the layout."""
        return self.layout.group

    @property
    def rotated(self) -> bool:
        """As of the layout."""
        return self.layout.rotated

    @property
    def scope(self) -> Scope | None:
        """As of the layout; None where it is one of values."""
        return self.layout.scope if isinstance(self.layout, OscarKeys) else None

    @property
    def least_block(self) -> int:
        """As of the layout; 1 where it is one of values."""
        return self.layout.least_block if isinstance(self.layout, OscarKeys) else 1

    @property
    def offset(self) -> float:
        """What a base code stands for beside itself: 0, or the middle of the codes that share it."""
        return offset(self, 0)

    def rows(self, block: int) -> int:
        """Return the byte rows of the base plane."""
        return self.layout.rows(block)

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps, which all levels share."""
        return self.layout.metadata(block, head_dim)

    def norm_heads(self, kv_heads: int) -> int:
        """Return how many norms a token has."""
        return self.layout.norm_heads(kv_heads) if isinstance(self.layout, OscarKeys) else 0

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., B, d] at the base; see `Format.encode`."""
        return self.encode_all(x)[0]

    def encode_all(self, x: torch.Tensor) -> tuple[Encoded, tuple[torch.Tensor, ...]]:
        """Return the base and every plane, uint8 [..., rows, d]."""
        block = x.shape[-2]
        if self.divided:
            codes, step, minimum = quantize(x, -2, 2 ** (self.bits + sum(self.plane_bits)) - 1)
            whole = codes.to(torch.int32)
            high = (whole >> sum(self.plane_bits)).to(torch.uint8)
            # a product by a power of two, below the largest number of the type
            coarse = (step.to(torch.float64) * 2.0 ** sum(self.plane_bits)).to(step.dtype)
            return Encoded(pack_plane(high, self.bits), coarse, minimum), self._planes(whole)
        encoded = self.layout.encode(x)
        parts = self.layout.parts(encoded, block)
        return encoded, self._planes(places(self.layout.quantized(x), *parts, sum(self.plane_bits)))

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning of the base; see `Format.decode`."""
        return self.decode_level(encoded, (), block)

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands inside the rotation at the base; see `Format.decode_rotated`."""
        return self.decode_level_rotated(encoded, (), block)

    def decode_level(
        self, encoded: Encoded, planes: tuple[torch.Tensor, ...], block: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the meaning of the level whose planes are given, and what it is off by, as `Format.decode` does."""
        return turned_back(*self.decode_level_rotated(encoded, planes, block), self.rotated)

    def decode_level_rotated(
        self, encoded: Encoded, planes: tuple[torch.Tensor, ...], block: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands inside the rotation at a level, and the error of its one rounding."""
        base, step, minimum = self.layout.parts(encoded, block)
        codes = base.to(torch.int32)
        for plane, bits in zip(planes, self.plane_bits, strict=False):
            codes = (codes << bits) | unpack_plane(plane, bits, block).to(torch.int32)
        finer = sum(self.plane_bits[: len(planes)])
        numbers = codes.to(torch.float64) * 2.0**-finer + offset(self, len(planes))
        return reconstruct(numbers, *scaled(step, minimum, encoded.norm))

    def _planes(self, whole: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take the planes from the lowest bits of integers, the highest first."""
        left, planes = sum(self.plane_bits), []
        for bits in self.plane_bits:
            left -= bits
            planes.append(pack_plane(((whole >> left) & (2**bits - 1)).to(torch.uint8), bits))
        return tuple(planes)


def places(x: torch.Tensor, codes: torch.Tensor, step: torch.Tensor, minimum: torch.Tensor, bits: int) -> torch.Tensor:
    """Cut the cell of every code into ``2**bits`` parts and return the part of each number, int32.

    Every written operator is one FP32 operation::

        place = floor(((x/2 - minimum/2) / (step/2) - code + 1/2) 2**bits), clamped to 0 .. 2**bits - 1
    """
    x64, low = x.to(torch.float64), minimum.to(torch.float64)
    half_step = 0.5 * step.to(torch.float64)
    quotient = fp32(fp32(0.5 * x64 - 0.5 * low) / torch.where(half_step > 0, half_step, 1.0))
    within = fp32(quotient - codes.to(torch.float64))
    place = torch.floor(fp32(fp32(within + 0.5) * 2.0**bits))
    return place.clamp(0, 2**bits - 1).to(torch.int32)


def offset(fmt: Planar, level: int) -> float:
    """Return ``(2^-F_l - 2^-G) / 2``."""
    grid = sum(fmt.plane_bits) if fmt.divided else 0
    return (2.0 ** -sum(fmt.plane_bits[:level]) - 2.0**-grid) / 2.0


def planes_of(fmt: Format) -> tuple[int, ...]:
    """Return the bits of each plane of a format; nothing where it has one level."""
    return fmt.plane_bits if isinstance(fmt, Planar) else ()


def plane_bytes(fmt: Format, block: int, head_dim: int) -> tuple[int, ...]:
    """Return the bytes of each plane of a block."""
    return tuple(plane_rows(block, bits) * head_dim for bits in planes_of(fmt))


F = TypeVar("F", bound=Format)


def base_of(fmt: F) -> F:
    """Return what a pass reads: the format that is refined, or the base plane of one that is divided."""
    return cast(F, fmt.layout) if isinstance(fmt, Planar) and not fmt.divided else fmt


INT4_INT4 = Planar("int4+4", INT4, (4,), divided=True)
INT8_4 = Planar("int8+4", INT8, (4,))
INT4_G32_4 = Planar("int4-g32+4", INT4_G32, (4,))
INT8_G64_4 = Planar("int8-g64+4", INT8_G64, (4,))
OSCAR_KEYS_2_4 = Planar("oscar+2+4", OSCAR_KEYS[0], (2, 4))
OSCAR_VALUES_2_4 = Planar("oscar+2+4", OSCAR_VALUES[0], (2, 4))
