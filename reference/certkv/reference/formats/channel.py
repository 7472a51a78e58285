"""`int8` (keys and values) and `int4` (values): one step and minimum per channel and block, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from certkv.reference.formats.affine import quantize, reconstruct, reconstruction_error
from certkv.reference.formats.base import KEYS, VALUES, check_originals
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.packing import pack4, packed_rows, unpack4
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class PerChannel:
    """Affine codes of `bits` bits per channel and block; see docs/formats/channel.md for the exact meaning.

    Codes are uint8 [..., B, d], or two per byte [..., ceil(B/2), d] with 4 bits; step and minimum are [..., d] in the
    type of the originals.
    """

    name: str
    bits: int
    kind: frozenset[str]
    default_block: int = 64

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        codes, step, minimum = self.grid(x, self.bits, ft)
        stored = pack4(codes) if self.bits == 4 else codes
        return Encoded(self.name, stored, step, minimum, x.shape[-2], x.shape[-1], ft)

    def grid(self, x: AnyArray, bits: int, ft: FloatType) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return codes of so many bits, [..., B, d], not packed, with their step and minimum, [..., d]."""
        return quantize(x, -2, 2**bits - 1, ft)

    def parts(self, encoded: Encoded) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return codes, not packed, and step and minimum that broadcast against them, [..., B, d]."""
        codes = unpack4(encoded.codes, encoded.block) if self.bits == 4 else encoded.codes
        return codes, encoded.step[..., None, :], encoded.minimum[..., None, :]

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning in float64, [..., B, d]; see `Format.decode`."""
        return reconstruct(*self.parts(encoded))

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return ``|decode - exact|``, [..., B, d]; see `Format.decode_error_ub`."""
        return reconstruction_error(*self.parts(encoded))

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return ``(rows + 4) d``: code rows, and 2 bytes each for step and minimum."""
        rows = packed_rows(block) if self.bits == 4 else block
        return (rows + 2 * 2) * head_dim


INT8 = PerChannel("int8", 8, frozenset({KEYS, VALUES}))
INT4 = PerChannel("int4", 4, frozenset({VALUES}))
