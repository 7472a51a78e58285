"""Every 8-bit code through every division into planes, and every block size through every width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, CheckFailed, Exhaustive, require_equal
from certkv.reference.formats import planes

DIVISIONS = ((4,), (2, 4), (2, 2), (2, 2, 2), (1, 1, 2, 4), (4, 2), (1,) * 6)
"""Bits of planes; what is left of 8 is the base."""

CODES = np.arange(256, dtype=np.int64)[None, :, None]
"""[1, B, d]: every code, one token each."""

WIDTHS = (1, 2, 4, 8)
BLOCKS = range(1, 131)

Divide = Callable[[Any, Sequence[int]], tuple[Array, tuple[Array, ...]]]


def every_code(divide: Divide = planes.divide) -> None:
    """Check that planes put together are the code, and that what is read first is its upper part."""
    for bits in DIVISIONS:
        base, parts = divide(CODES, bits)
        for level in range(len(bits) + 1):
            found = planes.join(base, parts[:level], bits, CODES.shape[1])
            left = sum(bits[level:])
            require_equal(found, CODES // 2**left, f"planes {bits}, level {level}", code=CODES)


def meanings(real: Callable[[Any, int, int], Array] = planes.real_codes) -> None:
    """Check ``code_l`` in rational arithmetic: the middle of a cell, and cells of a level cut those of the one before.

    With G = 0 base codes are grid points, with G = F_L the finest are.
    """
    codes = CODES.ravel()
    for bits in DIVISIONS:
        for grid in (0, sum(bits)):
            before: list[tuple[Fraction, Fraction]] | None = None
            for level in range(len(bits) + 1):
                finer, left = sum(bits[:level]), sum(bits[level:])
                width = Fraction(1, 2**finer)
                upper = codes >> left
                middle = [Fraction(float(one)) for one in real(upper, finer, grid)]
                low = [int(one) * width - Fraction(1, 2**grid) / 2 for one in upper]
                cells = [(one, one + width) for one in low]
                if any(m != (a + b) / 2 for m, (a, b) in zip(middle, cells, strict=True)):
                    raise CheckFailed(f"planes {bits}, level {level}, grid {grid}: not the middle of its cell")
                if (grid == finer) and middle != [int(one) * width for one in upper]:
                    raise CheckFailed(f"planes {bits}, level {level}: not the grid")
                if before and any(a < c or b > d for (a, b), (c, d) in zip(cells, before, strict=True)):
                    raise CheckFailed(f"planes {bits}, level {level}: a cell leaves the one before")
                before = cells


def every_block(pack: Callable[[Any, int], Array] = planes.pack_plane) -> None:
    """Check B = 1..130 and every width: each token's code comes back, whatever the others are."""
    for bits in WIDTHS:
        for block in BLOCKS:
            token = np.arange(block)
            channel = np.arange(2**bits)
            # token t holds c + t in channel c, so that every code is in every place
            codes = ((token[:, None] + channel) % 2**bits).astype(np.uint8)
            packed = pack(codes, bits)
            cases = {"token": token[:, None], "channel": channel}
            require_equal(planes.unpack_plane(packed, bits, block), codes, f"{bits} bits, B = {block}", **cases)
            rows = packed.shape[-2]
            spare = rows * (8 // bits) - block
            if rows != -(-block * bits // 8) and bits < 8:
                raise CheckFailed(f"{bits} bits, B = {block}: {rows} rows")
            # every bit beyond the tokens is 0
            total = int(sum(int(one).bit_count() for one in packed.ravel()))
            if total != int(sum(int(one).bit_count() for one in codes.ravel())) or spare < 0:
                raise CheckFailed(f"{bits} bits, B = {block}: bits that belong to no token")


def _lowest_first(codes: Any, bits: Sequence[int]) -> tuple[Array, tuple[Array, ...]]:
    """Cut planes from the lowest bits up."""
    parts, left = [], 0
    for b in bits:
        parts.append(planes.pack_plane((codes >> left) & (2**b - 1), b))
        left += b
    return codes >> left, tuple(parts)


def _neighbours(codes: Any, bits: int) -> Array:
    """Pack neighbouring tokens, not distant ones."""
    count = 8 // bits
    rows = planes.plane_rows(codes.shape[-2], bits)
    padded = np.zeros((rows * count, codes.shape[-1]), np.uint8)
    padded[: codes.shape[-2]] = codes
    packed = np.zeros((rows, codes.shape[-1]), np.uint8)
    for i in range(count):
        packed |= padded[i::count] << np.uint8(i * bits)
    return packed


FACTS = (
    Exhaustive(
        "planes.codes",
        "planes",
        "all 8-bit codes, seven ways of cutting them: base and planes joined are the code, and every level its upper "
        "bits",
        every_code,
        partial(every_code, divide=_lowest_first),
    ),
    Exhaustive(
        "planes.meanings",
        "planes",
        "all 8-bit codes, in rational arithmetic: code_l is the middle of its cell, cells lie within cells, and the "
        "level of the grid is the grid",
        meanings,
        partial(meanings, real=lambda codes, finer, grid: codes * 2.0**-finer),
    ),
    Exhaustive(
        "planes.blocks",
        "planes",
        "B = 1..130, planes of 1, 2, 4 and 8 bits, every code in every place: packed and unpacked, no bit to spare",
        every_block,
        partial(every_block, pack=_neighbours),
    ),
)
