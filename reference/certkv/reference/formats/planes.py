"""Refinement planes: bits that make stored codes finer, and the number that a code of each level stands for.

A base code c on the grid ``minimum + step * code`` is refined by planes of ``b_1, b_2, ...`` bits r_1, r_2, ... With
``F_l = b_1 + ... + b_l``, level l has the integer ``C_l = (C_{l-1} << b_l) | r_l`` (``C_0 = c``), a cell of width
``step 2**-F_l``, and stands for the real number

    minimum + step * code_l,     code_l = C_l 2**-F_l + (2**-F_l - 2**-G) / 2.

The cells of a level divide those of the level before. G says which level's codes are grid points, the others' are the
centres of their cells: with G = 0 the base (what refines a format that is there), with G = F_L the finest level (what
divides its codes). Derivation: docs/derivations/planes.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from certkv.reference.formats.base import Format
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray


@runtime_checkable
class PlanarFormat(Format, Protocol):
    """A format of several levels.

    ``encode`` returns the base plane and all refinement planes; ``decode`` and ``decode_error_ub`` speak of the level
    whose planes are in what they are given (`Encoded.at`), and ``bytes_per_block`` of the base plane, which is all that
    is always read.
    """

    @property
    def plane_bits(self) -> tuple[int, ...]:
        """Bits per element of each refinement plane, in the order in which they refine."""

    def plane_bytes(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Bytes of each refinement plane of one block."""


def levels_of(fmt: Format) -> int:
    """Return how many coded levels a format has: 1, and one for each refinement plane."""
    return 1 + (len(fmt.plane_bits) if isinstance(fmt, PlanarFormat) else 0)


def plane_bytes(fmt: Format, block: int, head_dim: int) -> tuple[int, ...]:
    """Return the bytes of each refinement plane of one block; nothing for a format of one level."""
    return fmt.plane_bytes(block, head_dim) if isinstance(fmt, PlanarFormat) else ()


def plane_rows(block: int, bits: int) -> int:
    """Return ``ceil(B / (8/bits))``, the byte rows of a plane of 1, 2, 4 or 8 bits."""
    return -(-block // (8 // bits))


def pack_plane(codes: AnyArray, bits: int) -> AnyArray:
    """Pack codes of 1, 2, 4 or 8 bits, [..., B, d], along tokens into bytes [..., rows, d].

    Byte row t holds the tokens ``t, t + rows, t + 2 rows, ...`` from the lowest bits up, 0 where there is no token;
    with 4 bits that is the layout of `packing.pack4`.
    """
    rows = plane_rows(codes.shape[-2], bits)
    packed = np.zeros((*codes.shape[:-2], rows, codes.shape[-1]), np.uint8)
    for i in range(8 // bits):
        part = codes[..., i * rows : (i + 1) * rows, :].astype(np.uint8)
        packed[..., : part.shape[-2], :] |= part << np.uint8(i * bits)
    return packed


def unpack_plane(packed: AnyArray, bits: int, block: int) -> AnyArray:
    """Unpack bytes [..., rows, d] into codes [..., B, d]; the inverse of `pack_plane`."""
    parts = [(packed >> np.uint8(i * bits)) & np.uint8(2**bits - 1) for i in range(8 // bits)]
    return np.asarray(np.concatenate(parts, axis=-2)[..., :block, :])


def divide(codes: IntArray, bits: Sequence[int]) -> tuple[IntArray, tuple[AnyArray, ...]]:
    """Take integers apart into what is left above ``sum(bits)`` bits, and planes from the top bit down, packed.

    Parameters
    ----------
    codes : int64 [..., B, d]
        Nonnegative.
    bits : sequence of int
        Each 1, 2, 4 or 8.
    """
    planes, left = [], sum(bits)
    base = codes >> left
    for b in bits:
        left -= b
        planes.append(pack_plane((codes >> left) & (2**b - 1), b))
    return base, tuple(planes)


def join(base: AnyArray, planes: Sequence[AnyArray], bits: Sequence[int], block: int) -> IntArray:
    """Put base codes [..., B, d] and the first planes together: C_l as int64; the inverse of `divide`."""
    codes = base.astype(np.int64)
    for plane, b in zip(planes, bits, strict=False):
        codes = (codes << b) | unpack_plane(plane, b, block).astype(np.int64)
    return codes


def real_codes(codes: IntArray, finer_bits: int, grid_bits: int) -> FloatArray:
    """Return code_l from C_l, exactly: ``finer_bits`` is F_l, ``grid_bits`` is G; C_l has at most 32 bits.

    code_l then has at most 33 significant bits, one more than C_l: the middle of a cell.
    """
    cell = 2.0**-finer_bits
    return codes.astype(np.float64) * cell + (cell - 2.0**-grid_bits) / 2.0
