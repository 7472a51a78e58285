"""Bytes per token and head of everything that a cache keeps on the device: codes, metadata and annotations."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from certkv.reference.annotations.keys import KeyAnnotations
from certkv.reference.annotations.levels import level_bytes_per_block
from certkv.reference.annotations.values import ValueAnnotations
from certkv.reference.errors import SettingError
from certkv.reference.formats.base import Format
from certkv.reference.formats.planes import levels_of, plane_bytes
from certkv.reference.formats.storage import bytes_per_token


def annotation_bytes_per_token(block: int) -> Fraction:
    """Return the bytes of annotations per token of one KV head, of keys and of values; whatever the head size.

    Raises
    ------
    SettingError
        If the block is less than 1.
    """
    if block < 1:
        raise SettingError(f"block {block} must be at least 1")
    return Fraction(KeyAnnotations.bytes_per_block(block) + ValueAnnotations.bytes_per_block(block), block)


def device_bytes_per_token(
    keys: Format, values: Format, block: int, head_dim: int, planes: Literal["device", "host"] = "host"
) -> Fraction:
    """Return the bytes of an encoded token of one KV head, key and value, annotations of every level included.

    Refinement planes count where they lie on the device.

    Raises
    ------
    SettingError
        If the block or the head size is less than 1.
    """
    coded = bytes_per_token(keys, block, head_dim) + bytes_per_token(values, block, head_dim)
    notes = annotation_bytes_per_token(block)
    for fmt, level_bytes in zip((keys, values), level_bytes_per_block(block), strict=True):
        held = sum(plane_bytes(fmt, block, head_dim)) if planes == "device" else 0
        notes += Fraction((levels_of(fmt) - 1) * level_bytes + held, block)
    return coded + notes
