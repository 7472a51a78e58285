"""Bytes per token and head, as exact fractions, and their share of 16-bit storage."""

from __future__ import annotations

from fractions import Fraction

from certkv.reference.errors import SettingError
from certkv.reference.formats.base import Format
from certkv.reference.formats.oscar import OscarKeys


def bytes_per_token(fmt: Format, block: int, head_dim: int, kv_heads: int = 1) -> Fraction:
    """Return the bytes of codes and metadata per token of one KV head, keys or values.

    Parameters
    ----------
    fmt : Format
    block, head_dim : int
    kv_heads : int
        Heads among which what they hold in common (`OscarKeys.shared_bytes_per_block`) is divided.

    Raises
    ------
    SettingError
        If the block, the head size or the number of heads is less than 1.
    """
    if block < 1 or head_dim < 1 or kv_heads < 1:
        raise SettingError(f"block {block}, head size {head_dim} and KV heads {kv_heads} must be at least 1")
    shared = fmt.shared_bytes_per_block(block) if isinstance(fmt, OscarKeys) else 0
    return Fraction(fmt.bytes_per_block(block, head_dim) - shared, block) + Fraction(shared, block * kv_heads)


def dense_bytes_per_token(head_dim: int) -> int:
    """Return ``4 d``: one 16-bit key and one 16-bit value."""
    return 4 * head_dim


def share_of_dense(keys: Format, values: Format, block: int, head_dim: int) -> Fraction:
    """Return the bytes of encoded keys and values over those of 16-bit ones (arXiv 2605.20868, Section 2.3)."""
    total = bytes_per_token(keys, block, head_dim) + bytes_per_token(values, block, head_dim)
    return total / dense_bytes_per_token(head_dim)


def bytes_with_residual(
    keys: Format, values: Format, block: int, head_dim: int, *, kv_heads: int, tokens: int, residual: int
) -> Fraction:
    """Return the bytes of one KV head's keys and values: whole residual windows are encoded, the rest is 16 bits wide.

    Raises
    ------
    SettingError
        If the residual window is no positive multiple of the block, or there is less than no token.
    """
    if residual < 1 or residual % block or tokens < 0:
        raise SettingError(f"residual {residual} must be a multiple of block {block}, and tokens {tokens} at least 0")
    coded = tokens - tokens % residual
    of_token = sum((bytes_per_token(fmt, block, head_dim, kv_heads) for fmt in (keys, values)), Fraction(0))
    return coded * of_token + (tokens - coded) * dense_bytes_per_token(head_dim)
