"""Formats of several levels, made of the integer formats: `Refined` ones and `Divided` ones.

`Refined` keeps the bits of a format as they are and adds planes that say where in its cell each number lies: the base
*is* that format. `Divided` keeps the codes of a finer format and stores them in planes: the last level *is* that one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from certkv.reference.formats.affine import reconstruct, reconstruction_error
from certkv.reference.formats.base import KEYS, VALUES, check_originals
from certkv.reference.formats.cells import places
from certkv.reference.formats.channel import INT4, INT8, PerChannel
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.packing import pack4
from certkv.reference.formats.planes import divide, join, plane_rows, real_codes
from certkv.reference.formats.settings import require_planes
from certkv.reference.formats.token_group import INT4_G32, INT8_G64, PerTokenGroup
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class _Planes:
    """What both kinds share: the layout of the base plane, and the meaning of every level.

    Attributes
    ----------
    name : str
    layout : PerChannel or PerTokenGroup
        Stores the base plane.
    plane_bits : tuple of int
    kind : frozenset of str
    """

    name: str
    layout: PerChannel | PerTokenGroup
    plane_bits: tuple[int, ...]
    kind: frozenset[str]

    def __post_init__(self) -> None:
        require_planes(self.name, self.plane_bits)

    @property
    def default_block(self) -> int:
        """Tokens per block unless told otherwise."""
        return self.layout.default_block

    @property
    def grid_bits(self) -> int:
        """Finer bits of the level whose codes are grid points."""
        raise NotImplementedError

    def _parts(self, encoded: Encoded) -> tuple[FloatArray, AnyArray, AnyArray]:
        base, step, minimum = self.layout.parts(encoded)
        finer = sum(self.plane_bits[: encoded.level])
        codes = join(base, encoded.planes, self.plane_bits, encoded.block)
        return real_codes(codes, finer, self.grid_bits), step, minimum

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning of the level in float64, [..., B, d]; see `Format.decode`."""
        return reconstruct(*self._parts(encoded))

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return ``|decode - exact|``, [..., B, d]; see `Format.decode_error_ub`."""
        return reconstruction_error(*self._parts(encoded))

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return the bytes of the base plane and the metadata."""
        return self.layout.bytes_per_block(block, head_dim)

    def plane_bytes(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return ``ceil(B b / 8) d`` for each refinement plane (b divides 8)."""
        return tuple(plane_rows(block, bits) * head_dim for bits in self.plane_bits)


@dataclass(frozen=True)
class Refined(_Planes):
    """A format and planes that refine it: from the top, the bits of where in its code's cell a number lies."""

    @property
    def grid_bits(self) -> int:
        """Base codes are grid points."""
        return 0

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        check_originals(x, self.kind)
        encoded = replace(self.layout.encode(x), format_name=self.name)
        codes, step, minimum = self.layout.parts(encoded)
        place = places(x, codes, step, minimum, sum(self.plane_bits))
        return replace(encoded, planes=divide(place, self.plane_bits)[1])


@dataclass(frozen=True)
class Divided(_Planes):
    """A format of 8 bits whose codes are stored in planes, the four highest bits first.

    The step that is stored is that of the base plane, 16 times the finest; it is finite, since the finest is at most
    ``2 max / 255`` before it is rounded up.
    """

    @property
    def grid_bits(self) -> int:
        """The finest codes are grid points."""
        return sum(self.plane_bits)

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        finer = sum(self.plane_bits)
        codes, step, minimum = self.layout.grid(x, self.layout.bits + finer, ft)
        base, planes = divide(codes.astype(np.int64), self.plane_bits)
        coarse = (step.astype(np.float64) * 2.0**finer).astype(ft.dtype)
        return Encoded(self.name, pack4(base.astype(np.uint8)), coarse, minimum, x.shape[-2], x.shape[-1], ft, planes)


INT4_INT4 = Divided("int4+4", INT4, (4,), frozenset({KEYS, VALUES}))
INT8_4 = Refined("int8+4", INT8, (4,), frozenset({KEYS, VALUES}))
INT4_G32_4 = Refined("int4-g32+4", INT4_G32, (4,), frozenset({VALUES}))
INT8_G64_4 = Refined("int8-g64+4", INT8_G64, (4,), frozenset({VALUES}))
