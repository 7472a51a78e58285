"""What refine reads of encoded blocks: codes, and the numbers they stand for at every level, one rounding each.

    code_l  =  code + sum_{j <= l} plane_j 2^-F_j + offset_l       an exact number of 13 bits at most

is multiplied with a step (11 bits) exactly; see `certkv.fast.formats.planar`. Norms of tokens, and the rotation, are
the caller's.
"""
# ruff: noqa: RUF005 (Triton adds tuples)
# mypy: disable-error-code="assignment"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from certkv.fast.formats.planar import Planar, offset
from certkv.fast.kernels.outward_fp32 import load16


@triton.jit
def stored_codes(codes, place, token, channel, mask, R: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr):
    """Return codes, binary32 [tokens, channels]; byte row t holds tokens t, t + R, ... from the lowest bits up."""
    code = tl.load(codes + (place * R + token % R)[:, None] * D + channel[None, :], mask=mask, other=0).to(tl.int32)
    if BITS < 8:
        code = (code >> ((token // R) * BITS)[:, None]) & ((1 << BITS) - 1)
    return code.to(tl.float32)


@triton.jit
def levels_of(
    codes, planes, step, minimum, place, token, channel, mask, count, R: tl.constexpr, B: tl.constexpr,
    D: tl.constexpr, BITS: tl.constexpr, PLANES: tl.constexpr, CELLS: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """Return ``minimum + step code_l`` of every level, a tuple of [tokens, channels].

    Only the first ``count`` planes are read; levels above are of a plane that is 0.
    """
    code = stored_codes(codes, place, token, channel, mask, R, D, BITS)
    numbers = (minimum + step * (code + OFFSETS[0]),)
    for j in tl.static_range(len(PLANES)):
        read = mask & (count > j)
        found = stored_codes(planes[j], place, token, channel, read, (B * PLANES[j] + 7) // 8, D, PLANES[j])
        code += found * CELLS[j]
        numbers = numbers + (minimum + step * (code + OFFSETS[j + 1]),)
    return numbers


@triton.jit
def key_levels(
    codes, planes, steps, minima, place, token, channel, mask, count, R: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr, PLANES: tl.constexpr, CELLS: tl.constexpr,
    OFFSETS: tl.constexpr,
):  # fmt: skip
    """Return keys of every level, as `levels_of`, in the basis that they are stored in and without norms."""
    if GROUP > 0:
        at = (place * ((B + GROUP - 1) // GROUP) + token // GROUP)[:, None] * D + channel[None, :]
        at_mask = mask
    else:
        at = place * D + channel[None, :]
        at_mask = (channel < D)[None, :]
    step, minimum = load16(steps + at, at_mask, BFLOAT), load16(minima + at, at_mask, BFLOAT)
    return levels_of(
        codes, planes, step, minimum, place, token, channel, mask, count, R, B, D, BITS, PLANES, CELLS, OFFSETS
    )


@triton.jit
def value_levels(
    codes, planes, steps, minima, place, token, channel, mask, count, R: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr, PLANES: tl.constexpr, CELLS: tl.constexpr,
    OFFSETS: tl.constexpr,
):  # fmt: skip
    """Return values of every level, as `key_levels`; groups are of channels."""
    if GROUP > 0:
        at = (place * B + token)[:, None] * ((D + GROUP - 1) // GROUP) + (channel // GROUP)[None, :]
        at_mask = mask
    else:
        at = place * D + channel[None, :]
        at_mask = (channel < D)[None, :]
    step, minimum = load16(steps + at, at_mask, BFLOAT), load16(minima + at, at_mask, BFLOAT)
    return levels_of(
        codes, planes, step, minimum, place, token, channel, mask, count, R, B, D, BITS, PLANES, CELLS, OFFSETS
    )


@triton.jit
def plane_bytes(count, B: tl.constexpr, D: tl.constexpr, PLANES: tl.constexpr):
    """Bytes of the first ``count`` planes of one side of a block, int64."""
    total = tl.full((), 0, tl.int64)
    for j in tl.static_range(len(PLANES)):
        total += tl.where(count > j, (B * PLANES[j] + 7) // 8 * D, 0)
    return total


def level_constants(fmt: Planar | None, side: str, read: bool) -> dict[str, Any]:
    """Return what kernels are compiled with: bits of planes, cells of levels as parts of a step, offsets of codes.

    Parameters
    ----------
    fmt : Planar or None
        None where there are no levels above the base.
    side : str
        What names begin with.
    read : bool
        Whether planes are read.
    """
    bits = () if fmt is None or not read else fmt.plane_bits
    return {
        f"{side}_PLANES": bits,
        f"{side}_CELLS": tuple(2.0 ** -sum(bits[: level + 1]) for level in range(len(bits))),
        f"{side}_OFFSETS": tuple(0.0 if fmt is None else offset(fmt, level) for level in range(len(bits) + 1)),
    }


def or_nothing(planes: tuple[torch.Tensor, ...], nothing: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the planes of a side, or where it has none something that is not read."""
    return planes or (nothing,)
