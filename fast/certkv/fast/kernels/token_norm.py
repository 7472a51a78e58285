"""Norms of tokens: one program per block and 16 tokens, of all KV heads or of one; the twin is `formats.token_norm`.

n = fl32(sqrt(S))       S: the squares in float64, in halves over the channels, then head after head
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.formats.token_norm import LARGEST
from certkv.fast.kernels.rotated import as_stored, tokens_of
from certkv.fast.pool import Pool

LARGEST_NORM = tl.constexpr(LARGEST)


@triton.jit
def _halved(squares):
    T: tl.constexpr = squares.shape[0]
    W: tl.constexpr = squares.shape[1]
    # a sum of two has one order
    return tl.sum(tl.reshape(squares, (T, 2, W // 2)), 1)


@triton.jit
def sum_of_squares(y):
    """Sum the squares of FP32 numbers over the channels in the written order, [T, W] -> float64 [T]."""
    squares = y.to(tl.float64) * y.to(tl.float64)
    for _ in tl.static_range(8):
        if squares.shape[1] > 1:
            squares = _halved(squares)
    return tl.sum(squares, 1)


@triton.jit
def token_norm_kernel(
    keys,
    block_stride,
    head_stride,
    token_stride,
    pages,
    norms,
    HEADS: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    ROTATED: tl.constexpr,
    BFLOAT: tl.constexpr,
):
    """Norms of part ``program_id(1)`` of block ``program_id(0)`` over HEADS heads, from ``program_id(2)`` HEADS on."""
    block = tl.program_id(0).to(tl.int64)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    row = tl.program_id(1) * T + tl.arange(0, T)
    token = tl.minimum(row, B - 1)
    channel = tl.arange(0, W)
    source = keys + block * block_stride + token.to(tl.int64)[:, None] * token_stride + channel[None, :]
    total = tl.zeros((T,), tl.float64)
    for i in range(HEADS):
        head = (tl.program_id(2) * HEADS + i).to(tl.int64)
        bits = tl.load(source + head * head_stride, mask=(channel < D)[None, :], other=0)
        total += sum_of_squares(as_stored(bits, ROTATED, BFLOAT, D))
    # finite where it is stored, without the factor 2**-8
    norm = tl.minimum(tl.sqrt(total).to(tl.float32), LARGEST_NORM) * 256.0
    tl.store(norms + (page * tl.num_programs(2) + tl.program_id(2)) * B + row, norm, mask=row < B)


def token_norms(originals: torch.Tensor, pages: torch.Tensor, pool: Pool, rotated: bool) -> None:
    """Launch: the norms of blocks [n, H, B, d], whose channels are next to each other, over all heads or over each."""
    n, heads, block, head_dim = originals.shape
    norms = pool.key_norm.shape[1]
    width = triton.next_power_of_2(head_dim)
    tokens = tokens_of(width)
    token_norm_kernel[(n, triton.cdiv(block, tokens), norms)](
        originals.view(torch.int16),
        *originals.stride()[:3],
        pages,
        pool.key_norm,
        HEADS=heads // norms,
        B=block,
        D=head_dim,
        W=width,
        T=tokens,
        ROTATED=rotated,
        BFLOAT=originals.dtype == torch.bfloat16,
        num_warps=4,
        enable_fp_fusion=False,
    )
