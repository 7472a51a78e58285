"""Encode keys of OScaR's kin: rotate, scale, quantize per channel and group of tokens, and measure.

Norms of tokens come first (`certkv.fast.kernels.token_norm`), since those that heads share are of all heads. Then one
program per block and head, in two turns over its tokens: extremes of every group, from which its step and minimum
follow, then codes and what is measured of them. Both turns form u = rne(y / n) anew, whose bits are the same.

With D the decoded number, err a bound of what it is off by, and X = |k - D| + err::

    relative_max = max_tc X_tc      relative_norm = max_t ||X_t||      decoded_norm = max_t norm_t ||min + step code||
    size = max_t norm_t ||(|min_c| + 2^bits (step_c + LEAST_STEP))_c||

rounded up; the operator norm is `certkv.fast.kernels.operator_norm`. The twin is
`certkv.fast.encode.encode_keys_twin`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.charges import LEAST_STEP
from certkv.fast.formats.oscar import OscarKeys
from certkv.fast.kernels.affine import codes_of, exact_minimum
from certkv.fast.kernels.notes import KEY_SIDE, key_operator_norms, key_stores, store_key_notes, store_size
from certkv.fast.kernels.rotated import (
    as_stored,
    errors,
    key_affine,
    meaning,
    norms_of,
    scaled_to_type,
    to_type,
    tokens_of,
)
from certkv.fast.kernels.rounding import narrow, widen
from certkv.fast.kernels.token_norm import token_norms
from certkv.fast.kernels.zero_point import zero_point
from certkv.fast.numbers import norm_factor, outward
from certkv.fast.pool import Pool

MORE = tl.constexpr(LEAST_STEP)


@triton.jit
def _quantized(bits, norm, ROTATED: tl.constexpr, NORMS: tl.constexpr, BFLOAT: tl.constexpr, D: tl.constexpr):
    """Return u, float64 [T, W]."""
    y = as_stored(bits, ROTATED, BFLOAT, D)
    u = to_type(y, BFLOAT) if NORMS == 0 else scaled_to_type(y, norm, BFLOAT)
    return widen(u, BFLOAT)


@triton.jit
def encode_oscar_keys_kernel(
    keys,
    block_stride,
    head_stride,
    token_stride,
    pages,
    norms,
    codes,
    steps,
    minima,
    notes,
    sizes,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    ERRORS: tl.constexpr,
    BFLOAT: tl.constexpr,
    QUOTIENT: tl.constexpr,
    NORM: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Encode block ``program_id(0)`` of head ``program_id(1)``; tiles of T tokens and W channels."""
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    place = page * H + head
    channel = tl.arange(0, W)
    live = (channel < D)[None, :]
    source = keys + block * block_stride + head.to(tl.int64) * head_stride + channel[None, :]
    LEVELS: tl.constexpr = (1 << BITS) - 1
    GROUPS: tl.constexpr = (B + GROUP - 1) // GROUP
    for group in range(GROUPS):
        start = group * GROUP
        last = tl.minimum(start + GROUP, B) - 1
        lo = tl.full((W,), float("inf"), tl.float64)
        hi = tl.full((W,), float("-inf"), tl.float64)
        for first in range(start, last + 1, T):
            # repeating the last token changes no extreme
            token = tl.minimum(first + tl.arange(0, T), last)
            bits = tl.load(source + token.to(tl.int64)[:, None] * token_stride, mask=live, other=0)
            u = _quantized(bits, norms_of(norms, page, head, token, NORMS, B), ROTATED, NORMS, BFLOAT, D)
            lo = tl.minimum(lo, tl.min(u, 0))
            hi = tl.maximum(hi, tl.max(u, 0))
        if ZERO_POINT:
            step_bits, minimum = zero_point(lo, hi, LEVELS, BFLOAT)
        else:
            step_bits, minimum = exact_minimum(lo, hi, LEVELS, BFLOAT)
        to = (place * GROUPS + group) * D + channel
        tl.store(steps + to, step_bits, mask=channel < D)
        tl.store(minima + to, narrow(minimum, BFLOAT), mask=channel < D)
    tl.debug_barrier()  # what other threads have stored is loaded
    PARTS: tl.constexpr = 8 // BITS
    ROWS: tl.constexpr = (B + PARTS - 1) // PARTS
    N: tl.constexpr = T // PARTS
    row = tl.arange(0, T)
    part = row // N
    relative_max = tl.zeros((T,), tl.float64)
    relative_squares = tl.zeros((T,), tl.float64)
    decoded_squares = tl.zeros((T,), tl.float64)
    size = tl.zeros((T,), tl.float64)
    for first in range(0, ROWS, N):
        byte_row = first + row % N
        token = part * ROWS + byte_row
        exists = (byte_row < ROWS) & (token < B)
        token = tl.minimum(token, B - 1)
        bits = tl.load(source + token.to(tl.int64)[:, None] * token_stride, mask=live, other=0)
        norm = norms_of(norms, page, head, token, NORMS, B)
        u = _quantized(bits, norm, ROTATED, NORMS, BFLOAT, D)
        step, minimum = key_affine(steps, minima, place, token, channel, GROUPS, GROUP, D)
        step = widen(step, BFLOAT)
        minimum = widen(minimum, BFLOAT)
        code = codes_of(u, step, minimum, LEVELS)
        number = tl.where(exists[:, None], code.to(tl.int32), 0) << (part * BITS)[:, None]
        byte = tl.sum(tl.reshape(number, (PARTS, N, W)), 0)
        to_row = first + tl.arange(0, N)
        to = (place * ROWS + to_row[:, None]) * D + channel[None, :]
        tl.store(codes + to, byte.to(tl.uint8), mask=(to_row < ROWS)[:, None] & live)
        inside, decoded, err = meaning(code, step, minimum, norm, ERRORS, D)
        relative = (tl.abs(widen(bits, BFLOAT) - decoded) + err) * QUOTIENT
        relative_max = tl.maximum(relative_max, tl.max(relative, 1))
        relative_squares = tl.maximum(relative_squares, tl.sum(relative * relative, 1))
        decoded_squares = tl.maximum(decoded_squares, tl.sum(inside * inside, 1))
        widest = tl.where(live, tl.abs(minimum) + (1 << BITS) * (step + MORE), 0.0)
        size = tl.maximum(size, tl.sqrt(tl.sum(widest * widest, 1)) * norm)
    store_key_notes(notes, place, relative_max, relative_squares, decoded_squares, NORM)
    store_size(sizes, place, KEY_SIDE, tl.max(size, 0) * SIZE)


def encode_oscar_keys(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    fmt: OscarKeys,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode.encode_keys`, which checks the arguments."""
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    width = triton.next_power_of_2(head_dim)
    with torch.cuda.device_of(originals):
        if fmt.scope is not None:
            token_norms(originals, pages, pool, fmt.rotated)
        encode_oscar_keys_kernel[(n, heads)](
            originals.view(torch.int16),
            *originals.stride()[:3],
            pages,
            pool.key_norm,
            *key_stores(pool),
            H=heads,
            B=block,
            D=head_dim,
            W=width,
            T=tokens_of(width),
            BITS=fmt.bits,
            GROUP=fmt.group,
            ROTATED=fmt.rotated,
            NORMS=pool.key_norm.shape[1],
            ZERO_POINT=fmt.zero_point,
            ERRORS=errors(fmt.rotated),
            BFLOAT=originals.dtype == torch.bfloat16,
            QUOTIENT=outward(2),
            NORM=norm_factor(width, 1),
            SIZE=norm_factor(width, 3),
            num_warps=8 if width > 128 else 4,
            enable_fp_fusion=False,
        )
        key_operator_norms(originals, pages, pool, fmt, scratch, pool.key_norm)
