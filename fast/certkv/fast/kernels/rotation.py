"""The rotation on a tile of tokens, in whatever type the tile has; the twin is `certkv.fast.formats.rotation`.

For h = 1, 2, 4, ... every pair (i, i + h) of a block of more than h channels becomes (a + b, a - b), each rounded once;
at the end one product with the rounded ``1/sqrt(size)`` of the block. Blocks are the binary expansion of the head size,
the largest first. A kernel that uses this is compiled without fusion: then the bits are the twin's.
"""

from __future__ import annotations

import triton
import triton.language as tl

HALF_ROOT = tl.constexpr(0.5**0.5)


@triton.jit
def _size_here(size, channel, BIT: tl.constexpr, D: tl.constexpr):
    if (D >> BIT) & 1:
        # channels of the blocks before this one: the bits above
        size = tl.where(channel >= (D >> (BIT + 1) << (BIT + 1)), 1 << BIT, size)
    return size


@triton.jit
def block_sizes(channel, D: tl.constexpr):
    """Sizes of the blocks that channels belong to, int32 of their shape; for a head size of at most 256."""
    size = tl.zeros_like(channel)
    for i in tl.static_range(9):
        size = _size_here(size, channel, 8 - i, D)
    return size


@triton.jit
def _factor_here(factor, size, BIT: tl.constexpr, D: tl.constexpr):
    if (D >> BIT) & 1:
        ROOT: tl.constexpr = HALF_ROOT if BIT % 2 else 1.0
        factor = tl.where(size == 1 << BIT, tl.full(factor.shape, ROOT / (1 << (BIT // 2)), factor.dtype), factor)
    return factor


@triton.jit
def factors(channel, D: tl.constexpr, TYPE: tl.constexpr):
    """Return ``1/sqrt(size)`` of the channels' blocks, correctly rounded to a type, of the shape of the channels."""
    size = block_sizes(channel, D)
    factor = tl.full(channel.shape, 0.0, TYPE)
    for bit in tl.static_range(9):
        factor = _factor_here(factor, size, bit, D)
    return factor


@triton.jit
def _butterfly(x, size, H: tl.constexpr, D: tl.constexpr):
    if 2 * H <= D:
        R: tl.constexpr = x.shape[0]
        W: tl.constexpr = x.shape[1]
        a, b = tl.split(tl.permute(tl.reshape(x, (R, W // (2 * H), 2, H)), (0, 1, 3, 2)))
        turned = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2)), (R, W))
        # channels of blocks that are not larger are done; there are none where all sizes are multiples of 2 H
        x = turned if D % (2 * H) == 0 else tl.where((size > H)[None, :], turned, x)
    return x


@triton.jit
def rotate(x, D: tl.constexpr):
    """Rotate the rows of a tile [R, W], FP32 or FP64; W is a power of two, and channels from D on are 0."""
    channel = tl.arange(0, x.shape[1])
    size = block_sizes(channel, D)
    for i in tl.static_range(8):
        x = _butterfly(x, size, 1 << i, D)
    return x * factors(channel, D, x.dtype)[None, :]
