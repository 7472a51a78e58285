"""`oscar` (values): rotated, then quantized per token and group of channels, with an exact minimum.

Rotating values needs no change of the model: the rotation is its own inverse, so the weighted sum of decoded values is
turned back once per query, ``sum p H x = H sum p x``. See docs/formats/oscar.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.formats.base import VALUES, check_originals
from certkv.reference.formats.cells import places
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.planes import divide as planes_of
from certkv.reference.formats.planes import pack_plane, plane_rows
from certkv.reference.formats.rotated import Meaning, originals_as_stored, to_type
from certkv.reference.formats.settings import require_codes
from certkv.reference.formats.token_group import PerTokenGroup
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class OscarValues(Meaning):
    """Codes of `bits` bits per token and `group` channels of values that are rotated, or not.

    Codes are packed along tokens (`planes.pack_plane`); step and minimum are [..., B, ceil(d/group)] in the type of
    the originals. Attributes as in `OscarKeys`.
    """

    name: str
    bits: int = 2
    group: int = 32
    rotated: bool = True
    plane_bits: tuple[int, ...] = ()
    default_block: int = 64
    kind: frozenset[str] = frozenset({VALUES})

    def __post_init__(self) -> None:
        require_codes(self.name, self.bits, self.group, self.plane_bits)

    def _layout(self) -> PerTokenGroup:
        return PerTokenGroup(self.name, self.bits, self.group, self.default_block)

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        block, head_dim = x.shape[-2:]
        u = to_type(originals_as_stored(x, self.rotated), ft)
        codes, step, minimum = self._layout().grid(u, self.bits, ft)
        of_channel = self._of_channels(step, head_dim), self._of_channels(minimum, head_dim)
        place = places(u, codes, *of_channel, sum(self.plane_bits))
        planes = planes_of(place, self.plane_bits)[1]
        return Encoded(self.name, pack_plane(codes, self.bits), step, minimum, block, head_dim, ft, planes)

    def _of_channels(self, x: AnyArray, head_dim: int) -> AnyArray:
        """Repeat what belongs to a group for each of its channels, [..., B, groups] -> [..., B, d]."""
        return x[..., np.arange(head_dim) // self.group]

    def _affine(self, encoded: Encoded) -> tuple[FloatArray, FloatArray]:
        """Return step and minimum, exactly."""
        step = self._of_channels(encoded.step, encoded.head_dim).astype(np.float64)
        return step, self._of_channels(encoded.minimum, encoded.head_dim).astype(np.float64)

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return the bytes of codes, steps and minima."""
        return plane_rows(block, self.bits) * head_dim + 2 * 2 * block * self._layout().groups(head_dim)
