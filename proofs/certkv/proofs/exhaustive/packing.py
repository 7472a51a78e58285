"""Bytes of two codes, and codes in significands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.exhaustive.model import Array, Exhaustive, require_equal
from certkv.reference.formats.packing import pack4, packed_rows, unpack4

BYTES = np.arange(256, dtype=np.uint8)
NIBBLES = np.arange(16, dtype=np.uint8)
BLOCKS = range(1, 131)


def every_byte(pack: Callable[[Any], Array] = pack4, unpack: Callable[[Any, int], Array] = unpack4) -> None:
    """Check all bytes: two tokens, 256 channels; low nibble is token 0, high nibble token 1."""
    codes = unpack(BYTES[None, :], 2)
    require_equal(codes, np.stack([BYTES % 16, BYTES // 16]), "nibbles of a byte", byte=BYTES)
    require_equal(pack(codes), BYTES[None, :], "byte packed again", byte=BYTES)


def every_block(pack: Callable[[Any], Array] = pack4, unpack: Callable[[Any, int], Array] = unpack4) -> None:
    """Check B = 1..130: each token's code goes to its row and nibble and comes back, whatever the others are."""
    for block in BLOCKS:
        half = packed_rows(block)
        # token t holds c + t mod 16 in channel c: every code in every place
        codes = ((np.arange(block)[:, None] + NIBBLES) % 16).astype(np.uint8)
        packed = pack(codes)
        token = np.arange(block)
        row, high = np.where(token < half, token, token - half), token >= half
        nibble = np.where(high[:, None], packed[row] // 16, packed[row] % 16)
        require_equal(nibble, codes, f"place of a token, B = {block}", token=token[:, None], channel=NIBBLES)
        require_equal(unpack(packed, block), codes, f"unpacked, B = {block}", token=token[:, None], channel=NIBBLES)
        if block % 2:
            require_equal(packed[-1] // 16, np.zeros(16, np.uint8), f"spare nibbles, B = {block}", channel=NIBBLES)


def _along_channels(codes: Any) -> Array:
    """Pack neighbouring tokens, not distant ones."""
    padded = np.concatenate([codes, np.zeros((codes.shape[0] % 2, codes.shape[1]), np.uint8)])
    return np.asarray(padded[0::2] | padded[1::2] << np.uint8(4))


def _half(pattern: Any) -> Array:
    return np.asarray(pattern, np.uint16).view(np.float16)


def _brain(pattern: Any) -> Array:
    return np.asarray(pattern, np.uint16).view(ml_dtypes.bfloat16)


def mantissas(byte_pattern: int = 0x6400) -> None:
    """Check the patterns that put codes into significands, for every code, in the kernel's own arithmetic."""
    byte, nibble = BYTES.astype(np.uint16), NIBBLES.astype(np.uint16)
    number, small = byte.astype(np.float64), nibble.astype(np.float64)
    lifted = _half(byte | byte_pattern)
    require_equal(lifted.astype(np.float64), 1024 + number, "byte | 0x6400", byte=byte)
    require_equal((lifted - np.float16(1024)).astype(np.float64), number, "minus 1024 in float16", byte=byte)
    sixteenths = _half((nibble << 6) | 0x3C00)
    require_equal(sixteenths.astype(np.float64), 1 + small / 16, "(nibble << 6) | 0x3C00", nibble=nibble)
    flipped = _half((byte ^ 0x80) | 0x6400) - np.float16(1152)
    require_equal(flipped.astype(np.int64), BYTES.view(np.int8).astype(np.int64), "signed byte", byte=byte)
    # 1/16 is a power of two, so one rounding in all, as in a fused operation
    high = _half((byte & 0xF0) | 0x6400).astype(np.float64) / 16 - 64
    require_equal(high, (byte >> 4).astype(np.float64), "high nibble in place", byte=byte)
    require_equal(_brain(nibble | 0x4300).astype(np.float64), 128 + small, "nibble | 0x4300", nibble=nibble)
    require_equal(_brain((nibble << 3) | 0x3F80).astype(np.float64), 1 + small / 16, "<< 3 | 0x3F80", nibble=nibble)
    single = (BYTES.astype(np.uint32) | np.uint32(0x4B000000)).view(np.float32) - np.float32(2.0**23)
    require_equal(single.astype(np.float64), number, "byte | 0x4B000000", byte=byte)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for codes in (BYTES, BYTES.view(np.int8)):
            wide = codes.astype(np.float64)
            require_equal(codes.astype(dtype).astype(np.float64), wide, f"code as {np.dtype(dtype).name}", code=wide)


FACTS = (
    Exhaustive(
        "packing.bytes",
        "packing",
        "all 256 bytes: unpack4 gives low and high nibble, pack4 gives back the byte",
        every_byte,
        partial(every_byte, unpack=lambda packed, block: unpack4(packed, block)[::-1]),
    ),
    Exhaustive(
        "packing.blocks",
        "packing",
        "B = 1..130, every code in every place: token t is in row t, low, or row t - half, high; unpack4 inverts pack4",
        every_block,
        partial(every_block, pack=_along_channels),
    ),
    Exhaustive(
        "packing.mantissas",
        "packing",
        "all bytes and nibbles: 0x6400, 0x3C00, 0x4300, 0x3F80, 0x4B000000 and signed variants give the code",
        mantissas,
        partial(mantissas, byte_pattern=0x6800),
    ),
)
