"""Bytes per token and head, as exact fractions, and their share of 16-bit storage."""

from __future__ import annotations

from fractions import Fraction

from certkv.reference.errors import SettingError
from certkv.reference.formats.base import Format


def bytes_per_token(fmt: Format, block: int, head_dim: int) -> Fraction:
    """Return the bytes of codes and metadata per token of one KV head, keys or values.

    Raises
    ------
    SettingError
        If the block or the head size is less than 1.
    """
    if block < 1 or head_dim < 1:
        raise SettingError(f"block {block} and head size {head_dim} must be at least 1")
    return Fraction(fmt.bytes_per_block(block, head_dim), block)


def dense_bytes_per_token(head_dim: int) -> int:
    """Return ``4 d``: one 16-bit key and one 16-bit value."""
    return 4 * head_dim


def share_of_dense(keys: Format, values: Format, block: int, head_dim: int) -> Fraction:
    """Return the bytes of encoded keys and values over those of 16-bit ones (arXiv 2605.20868, Section 2.3)."""
    total = bytes_per_token(keys, block, head_dim) + bytes_per_token(values, block, head_dim)
    return total / dense_bytes_per_token(head_dim)
