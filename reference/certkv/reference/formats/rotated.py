"""What a format means that stores tokens in the rotated basis, where its steps, minima and codes live.

The meaning of what is stored is ``H (norm (minimum + step code))``, a real number per channel even where ``1/sqrt(n)``
is irrational; ``decode_rotated`` returns what stands inside H, rounded once, ``decode`` the whole, rounded a few times.
A score needs no decoded key in the first basis: ``q . (H x) = (H q) . x``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from certkv.reference.formats import rotation
from certkv.reference.formats.affine import reconstruct, reconstruction_error
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.planes import join, plane_rows, real_codes, unpack_plane
from certkv.reference.formats.rotation import EXPONENT
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, Float32Array, FloatArray


@runtime_checkable
class RotatedFormat(Format, Protocol):
    """A format that may store its tokens rotated."""

    rotated: bool

    def decode_rotated(self, encoded: Encoded) -> FloatArray:
        """Return the meaning in the rotated basis in float64, [..., B, d], rounded once."""


def is_rotated(fmt: Format) -> bool:
    """Whether a format stores its tokens in the rotated basis."""
    return isinstance(fmt, RotatedFormat) and fmt.rotated


def extra_roundings(fmt: Format, head_dim: int) -> int:
    """Return r: beside its one rounding, a decoded token (or, for scores, the query) is off by ``gamma_r`` of its norm.

    0 for a format that is not rotated.
    """
    return rotation.roundings(head_dim) if is_rotated(fmt) else 0


def originals_as_stored(x: AnyArray, rotated: bool) -> Float32Array:
    """Return originals times ``2**EXPONENT`` in FP32, rotated or not: what an encoder goes on with; [..., B, d]."""
    return rotation.rotate_originals(x) if rotated else rotation.scaled(x)


def to_type(y: Float32Array, ft: FloatType) -> AnyArray:
    """Take the factor ``2**EXPONENT`` off and round to E, nearest even; what would overflow is the largest number.

    A token that was not rotated comes back as it was.
    """
    largest = np.float32(ft.max * 2.0**EXPONENT)
    return np.asarray((np.clip(y, -largest, largest) * np.float32(2.0**-EXPONENT)).astype(ft.dtype))


class Meaning:
    """Decoding, shared by formats of keys and of values."""

    bits: int
    plane_bits: tuple[int, ...]
    rotated: bool

    def _affine(self, encoded: Encoded) -> tuple[FloatArray, FloatArray]:
        """Return step and minimum of every element, exactly, float64 that broadcasts to [..., B, d]."""
        raise NotImplementedError

    def _codes(self, encoded: Encoded) -> FloatArray:
        """Return code_l of the level that is given (see `planes`), [..., B, d]."""
        base = unpack_plane(encoded.codes, self.bits, encoded.block)
        finer = sum(self.plane_bits[: encoded.level])
        return real_codes(join(base, encoded.planes, self.plane_bits, encoded.block), finer, 0)

    def decode_rotated(self, encoded: Encoded) -> FloatArray:
        """Return ``norm (minimum + step code)`` in float64, [..., B, d], rounded once: the products are exact."""
        step, minimum = self._affine(encoded)
        return reconstruct(self._codes(encoded), step, minimum)

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning in float64, [..., B, d], in the basis of the originals; see `Format.decode`."""
        inside = self.decode_rotated(encoded)
        return rotation.rotate(inside) if self.rotated else inside

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return an upper bound of ``|decode - exact|``, [..., B, d]; exact where nothing is rotated."""
        if self.rotated:
            return rotation.rotate_error_ub(self.decode_rotated(encoded))
        step, minimum = self._affine(encoded)
        return reconstruction_error(self._codes(encoded), step, minimum)

    def plane_bytes(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return ``ceil(B b / 8) d`` for each refinement plane of b bits."""
        return tuple(plane_rows(block, bits) * head_dim for bits in self.plane_bits)
