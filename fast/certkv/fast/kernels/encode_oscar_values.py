"""Encode values of OScaR's kin: rotate, quantize every token over groups of channels, and measure.

With D the decoded number, err a bound of what it is off by, and mu the anchor, every token has

    ||(|V - D| + err)_t||,   ||fl(V_t - mu)||,   ||V_t||,   ||(minimum + step code)_t||

which are stored as `certkv.fast.kernels.encode_values` stores its own. The twin is
`certkv.fast.encode.encode_values_twin`. One program per block and head, all in float64 but for the rotation of
originals, which is of FP32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.formats.oscar_values import OscarValues
from certkv.fast.kernels.affine import codes_of, exact_minimum
from certkv.fast.kernels.notes import VALUE_SIDE, store_value_notes, value_operator_norms, value_stores
from certkv.fast.kernels.rotated import as_stored, errors, meaning, spread, to_type, tokens_of
from certkv.fast.kernels.rounding import narrow, widen
from certkv.fast.numbers import norm_factor, outward
from certkv.fast.pool import Pool


@triton.jit
def encode_oscar_values_kernel(
    values,
    block_stride,
    head_stride,
    token_stride,
    pages,
    anchor,
    anchor_block_stride,
    anchor_head_stride,
    anchor_channel_stride,
    codes,
    steps,
    minima,
    notes,
    residual_codes,
    anchored_codes,
    ratios,
    sizes,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    C: tl.constexpr,
    ROTATED: tl.constexpr,
    ERRORS: tl.constexpr,
    BFLOAT: tl.constexpr,
    NORM: tl.constexpr,
    MEAN: tl.constexpr,
):
    """Encode block ``program_id(0)`` of head ``program_id(1)``; tiles of T tokens and W channels, R tokens in all.

    C is the smaller of GROUP and W: channels of a group that a tile may hold.
    """
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    place = page * H + head
    channel = tl.arange(0, W)
    live = (channel < D)[None, :]
    source = values + block * block_stride + head.to(tl.int64) * head_stride + channel[None, :]
    mean = anchor + block * anchor_block_stride + head.to(tl.int64) * anchor_head_stride
    mu = tl.load(mean + channel * anchor_channel_stride, mask=channel < D, other=0.0).to(tl.float64)
    LEVELS: tl.constexpr = (1 << BITS) - 1
    PARTS: tl.constexpr = 8 // BITS
    ROWS: tl.constexpr = (B + PARTS - 1) // PARTS
    N: tl.constexpr = T // PARTS
    GROUPS: tl.constexpr = (D + GROUP - 1) // GROUP
    row = tl.arange(0, T)
    part = row // N
    group = tl.arange(0, W // C)
    in_group = tl.reshape(tl.broadcast_to(live, (T, W)), (T, W // C, C))
    residual_squares = tl.zeros((R,), tl.float64)
    anchored_squares = tl.zeros((R,), tl.float64)
    squares = tl.zeros((R,), tl.float64)
    decoded_squares = tl.zeros((T,), tl.float64)
    for first in range(0, ROWS, N):
        byte_row = first + row % N
        token = part * ROWS + byte_row
        exists = (byte_row < ROWS) & (token < B)
        token = tl.minimum(token, B - 1)
        bits = tl.load(source + token.to(tl.int64)[:, None] * token_stride, mask=live, other=0)
        u = widen(to_type(as_stored(bits, ROTATED, BFLOAT, D), BFLOAT), BFLOAT)
        grouped = tl.reshape(u, (T, W // C, C))
        lo = tl.min(tl.where(in_group, grouped, float("inf")), 2)
        hi = tl.max(tl.where(in_group, grouped, float("-inf")), 2)
        # groups without a channel
        lo = tl.where((group < GROUPS)[None, :], lo, 0.0)
        hi = tl.where((group < GROUPS)[None, :], hi, 0.0)
        step_bits, minimum = exact_minimum(lo, hi, LEVELS, BFLOAT)
        to_group = (place * B + token)[:, None] * GROUPS + group[None, :]
        stored = exists[:, None] & (group < GROUPS)[None, :]
        tl.store(steps + to_group, step_bits, mask=stored)
        tl.store(minima + to_group, narrow(minimum, BFLOAT), mask=stored)
        step = tl.reshape(tl.broadcast_to(widen(step_bits, BFLOAT)[:, :, None], (T, W // C, C)), (T, W))
        minimum = tl.reshape(tl.broadcast_to(minimum[:, :, None], (T, W // C, C)), (T, W))
        # past the last channel nothing is stored, and nothing measured
        step = tl.where(live, step, 0.0)
        minimum = tl.where(live, minimum, 0.0)
        code = codes_of(u, step, minimum, LEVELS)
        number = tl.where(exists[:, None], code.to(tl.int32), 0) << (part * BITS)[:, None]
        byte = tl.sum(tl.reshape(number, (PARTS, N, W)), 0)
        to_row = first + tl.arange(0, N)
        to = (place * ROWS + to_row[:, None]) * D + channel[None, :]
        tl.store(codes + to, byte.to(tl.uint8), mask=(to_row < ROWS)[:, None] & live)
        inside, decoded, err = meaning(code, step, minimum, tl.full((T,), 1.0, tl.float64), ERRORS, D)
        x = widen(bits, BFLOAT)
        magnitude = tl.abs(x - decoded) + err
        distance = tl.where(live, x - mu[None, :], 0.0)
        tile = first // N
        residual_squares = spread(tl.sum(magnitude * magnitude, 1), residual_squares, tile)
        anchored_squares = spread(tl.sum(distance * distance, 1), anchored_squares, tile)
        squares = spread(tl.sum(x * x, 1), squares, tile)
        decoded_squares = tl.maximum(decoded_squares, tl.sum(inside * inside, 1))
    row = tl.arange(0, R)
    byte_row = row // T * N + row % N
    token = row % T // N * ROWS + byte_row
    exists = (byte_row < ROWS) & (token < B)
    store_value_notes(
        notes, residual_codes, anchored_codes, ratios, place, token, exists, residual_squares, anchored_squares,
        squares, decoded_squares, B, NORM, MEAN,
    )  # fmt: skip
    # groups have no size; theirs is the note on decoded norms
    tl.store(sizes + place * 2 + VALUE_SIDE, 0.0)


def encode_oscar_values(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    anchor: torch.Tensor,
    fmt: OscarValues,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode.encode_values`, which checks the arguments."""
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    width = triton.next_power_of_2(head_dim)
    tokens = tokens_of(width)
    # tiles of whole byte rows
    tiles = triton.cdiv(fmt.rows(block), tokens * fmt.bits // 8)
    rows = triton.next_power_of_2(tiles) * tokens
    with torch.cuda.device_of(originals):
        encode_oscar_values_kernel[(n, heads)](
            originals.view(torch.int16),
            *originals.stride()[:3],
            pages,
            *value_stores(pool, anchor),
            H=heads,
            B=block,
            D=head_dim,
            W=width,
            T=tokens,
            R=rows,
            BITS=fmt.bits,
            GROUP=fmt.group,
            C=min(fmt.group, width),
            ROTATED=fmt.rotated,
            ERRORS=errors(fmt.rotated),
            BFLOAT=originals.dtype == torch.bfloat16,
            NORM=norm_factor(width, 1),
            MEAN=outward(width // 2 + 3 + rows + 2),
            num_warps=8 if width > 64 else 4,
            enable_fp_fusion=False,
        )
        value_operator_norms(originals, pages, pool, anchor, fmt, scratch)
