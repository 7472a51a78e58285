"""Levels of precision in kernels: what a head has read of a block, and is to read; see `certkv.fast.levels`."""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.levels import KEY_CHANGE, MOST_PLANES, SHIFT, VALUE_CHANGE

KEY_SHIFT, VALUE_SHIFT = (tl.constexpr(x) for x in SHIFT)
PLANES = tl.constexpr(MOST_PLANES)
KEYS_MOVE, VALUES_MOVE = tl.constexpr(KEY_CHANGE), tl.constexpr(VALUE_CHANGE)


@triton.jit
def needed(mine, level):
    """Whether original keys are read, and original values; twin: `certkv.fast.refine.needed`."""
    values = (((mine & 2) != 0) & ((level & 2) == 0)) | (((mine & KEYS_MOVE) != 0) & ((level & 2) != 0))
    return (mine & 5) != 0, values


@triton.jit
def planes_in(byte, AT: tl.constexpr):
    """Return a number of planes; twin: `certkv.fast.levels.planes`."""
    return (byte >> AT) & PLANES


@triton.jit
def level_of(byte, BIT: tl.constexpr, AT: tl.constexpr, COUNT: tl.constexpr):
    """Level that is used: 0 for the base, up to COUNT for planes, one more for the original."""
    return tl.where((byte & BIT) != 0, COUNT + 1, planes_in(byte, AT))


@triton.jit
def joined_levels(level, mine):
    """Levels after a choice was read; twin: `certkv.fast.levels.raised`."""
    keys = tl.maximum(planes_in(level, KEY_SHIFT), planes_in(mine, KEY_SHIFT))
    values = tl.maximum(planes_in(level, VALUE_SHIFT), planes_in(mine, VALUE_SHIFT))
    return ((level | mine) & 3) | (keys << KEY_SHIFT) | (values << VALUE_SHIFT)


@triton.jit
def needed_planes(mine, level):
    """How many planes of keys are read, and of values; twin: `certkv.fast.refine.needed_planes`."""
    after = joined_levels(level, mine)
    keys = tl.where(((mine & KEYS_MOVE) != 0) & ((after & 1) == 0), planes_in(after, KEY_SHIFT), 0)
    before = tl.where((level & 2) == 0, planes_in(level, VALUE_SHIFT), 0)
    then = tl.where((after & 2) == 0, planes_in(after, VALUE_SHIFT), 0)
    return keys, tl.where((mine & (KEYS_MOVE | VALUES_MOVE)) != 0, tl.maximum(before, then), 0)
