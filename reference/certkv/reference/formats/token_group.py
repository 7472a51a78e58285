"""`int4-g16`, `int4-g32`, `int8-g64` (values): one step and minimum per token and group of channels, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.formats.affine import quantize, reconstruct, reconstruction_error
from certkv.reference.formats.base import VALUES, check_originals
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.packing import pack4, packed_rows, unpack4
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class PerTokenGroup:
    """Affine codes of `bits` bits per token and `group` channels; see docs/formats/token_group.md.

    A head size that is no multiple of the group ends in a shorter group.  Codes as in `PerChannel`; step and minimum
    are [..., B, ceil(d/group)] in the type of the originals.
    """

    name: str
    bits: int
    group: int
    default_block: int
    kind: frozenset[str] = frozenset({VALUES})

    def groups(self, head_dim: int) -> int:
        """Return ``ceil(d/group)``."""
        return -(-head_dim // self.group)

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        codes, step, minimum = self.grid(x, self.bits, ft)
        stored = pack4(codes) if self.bits == 4 else np.ascontiguousarray(codes)
        return Encoded(self.name, stored, step, minimum, x.shape[-2], x.shape[-1], ft)

    def grid(self, x: AnyArray, bits: int, ft: FloatType) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return codes of so many bits, [..., B, d], not packed, with their step and minimum, [..., B, groups]."""
        head_dim = x.shape[-1]
        groups = self.groups(head_dim)
        # Repeating the last channel fills the last group without changing its extremes.
        padded = x[..., np.minimum(np.arange(groups * self.group), head_dim - 1)]
        grouped = padded.reshape(*x.shape[:-1], groups, self.group)
        codes, step, minimum = quantize(grouped, -1, 2**bits - 1, ft)
        return codes.reshape(padded.shape)[..., :head_dim], step, minimum

    def parts(self, encoded: Encoded) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return codes, not packed, and step and minimum that broadcast against them, [..., B, d]."""
        codes = unpack4(encoded.codes, encoded.block) if self.bits == 4 else encoded.codes
        group_of_channel = np.arange(encoded.head_dim) // self.group
        return codes, encoded.step[..., group_of_channel], encoded.minimum[..., group_of_channel]

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning in float64, [..., B, d]; see `Format.decode`."""
        return reconstruct(*self.parts(encoded))

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return ``|decode - exact|``, [..., B, d]; see `Format.decode_error_ub`."""
        return reconstruction_error(*self.parts(encoded))

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return ``rows d + 4 B ceil(d/group)``: code rows, and 2 bytes each for step and minimum."""
        rows = packed_rows(block) if self.bits == 4 else block
        return rows * head_dim + 2 * 2 * block * self.groups(head_dim)


INT4_G16 = PerTokenGroup("int4-g16", 4, 16, default_block=16)
INT4_G32 = PerTokenGroup("int4-g32", 4, 32, default_block=64)
INT8_G64 = PerTokenGroup("int8-g64", 8, 64, default_block=64)
