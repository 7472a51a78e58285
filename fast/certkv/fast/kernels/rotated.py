"""What kernels of formats in the rotated basis share, on tiles of some tokens and all channels, [T, W].

W is a power of two, and what lies past the last channel is 0. The twins are `certkv.fast.formats.rotated`, `token_norm`
and `oscar`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.formats.rotation import EXPONENT, error_factor
from certkv.fast.kernels.affine import reconstruct
from certkv.fast.kernels.rotation import block_sizes, rotate
from certkv.fast.kernels.rounding import LARGEST_BFLOAT16, LARGEST_FLOAT16, nearest, widen

SCALE, UNSCALE = tl.constexpr(2.0**EXPONENT), tl.constexpr(2.0**-EXPONENT)


@triton.jit
def as_stored(bits, ROTATED: tl.constexpr, BFLOAT: tl.constexpr, D: tl.constexpr):
    """Return originals times 2**-8 in FP32, rotated or not, from their int16 patterns."""
    y = (widen(bits, BFLOAT) * SCALE).to(tl.float32)
    if ROTATED:
        y = rotate(y, D)
    return y


@triton.jit
def to_type(y, BFLOAT: tl.constexpr):
    """Take the factor 2**-8 off, and round to 16 bits; what overflows is the largest number. Patterns, int16."""
    LARGEST: tl.constexpr = (LARGEST_BFLOAT16 if BFLOAT else LARGEST_FLOAT16) * SCALE
    return nearest(tl.minimum(tl.maximum(y, -LARGEST), LARGEST) * UNSCALE, BFLOAT)


@triton.jit
def scaled_to_type(y, norm, BFLOAT: tl.constexpr):
    """Divide by stored norms (float64 [T], which have no factor), and round to 16 bits; 0 where the norm is 0."""
    n = (norm * SCALE)[:, None]
    u = (y.to(tl.float64) / tl.where(n > 0.0, n, 1.0)).to(tl.float32)
    return nearest(tl.where(n > 0.0, u, 0.0), BFLOAT)


@triton.jit
def _block_error(err, inside, size, BIT: tl.constexpr, ERROR: tl.constexpr, D: tl.constexpr):
    if (D >> BIT) & 1:
        mine = (size == 1 << BIT)[None, :]
        total = tl.sum(tl.where(mine, tl.abs(inside), 0.0), 1) * ERROR
        err = tl.where(mine, total[:, None], err)
    return err


@triton.jit
def turned_back(inside, err, ERRORS: tl.constexpr, D: tl.constexpr):
    """Return ``H inside`` and a bound of what it is off by, float64; ERRORS are `rotation.error_factor` of 2**i.

    Where nothing is rotated ERRORS is empty, and both come back.
    """
    if len(ERRORS) > 0:
        channel = tl.arange(0, inside.shape[1])
        size = block_sizes(channel, D)
        err = tl.zeros_like(inside)
        for bit in tl.static_range(9):
            err = _block_error(err, inside, size, bit, ERRORS[bit], D)
        err = tl.where((channel < D)[None, :], err, 0.0)
        inside = rotate(inside, D)
    return inside, err


@triton.jit
def spread(one, every, tile):
    """Put a tile's numbers [T] where they belong among those of all tiles [R]."""
    T: tl.constexpr = one.shape[0]
    R: tl.constexpr = every.shape[0]
    row = tl.arange(0, R)
    repeated = tl.reshape(tl.broadcast_to(one[None, :], (R // T, T)), (R,))
    return tl.where(row // T == tile, repeated, every)


@triton.jit
def key_affine(steps, minima, place, token, channel, GROUPS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr):
    """Load patterns of steps and minima of tokens' groups, int16 [T, W]."""
    at = (place * GROUPS + token // GROUP)[:, None] * D + channel[None, :]
    live = (channel < D)[None, :]
    return tl.load(steps + at, mask=live, other=0), tl.load(minima + at, mask=live, other=0)


@triton.jit
def value_affine(steps, minima, place, token, channel, B: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr):
    """Load patterns of steps and minima of channels' groups, int16 [T, W]."""
    at = (place * B + token)[:, None] * ((D + GROUP - 1) // GROUP) + (channel // GROUP)[None, :]
    live = (channel < D)[None, :]
    return tl.load(steps + at, mask=live, other=0), tl.load(minima + at, mask=live, other=0)


@triton.jit
def norms_of(norms, page, head, token, NORMS: tl.constexpr, B: tl.constexpr):
    """Load the norms of tokens, float64 [T]: of all KV heads, or of one; 1 where there is none."""
    if NORMS == 0:
        norm = tl.full(token.shape, 1.0, tl.float64)
    else:
        row = page * NORMS + (head if NORMS > 1 else 0)
        norm = tl.load(norms + row * B + token).to(tl.float64)
    return norm


@triton.jit
def meaning(code, step, minimum, norm, ERRORS: tl.constexpr, D: tl.constexpr):
    """Return ``norm (minimum + step code)`` rounded once, the same in the first basis, and what that is off by.

    The products are exact: 24 bits of a norm, 11 of a step, 4 of a code.
    """
    inside, err = reconstruct(code, norm[:, None] * step, norm[:, None] * minimum)
    decoded, err = turned_back(inside, err, ERRORS, D)
    return inside, decoded, err


def tokens_of(width: int) -> int:
    """Return how many tokens a tile of so many channels has: its numbers stay in registers."""
    return 8 if width > 128 else 16


def errors(rotated: bool) -> tuple[float, ...]:
    """Return `rotation.error_factor` of the sizes 1 to 256, and nothing where nothing is rotated."""
    return tuple(error_factor(1 << bit) for bit in range(9)) if rotated else ()
