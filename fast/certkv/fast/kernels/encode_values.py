"""Encode values: codes per channel and block or per token and group, and what is measured of them.

With D = fl(minimum + step code), err = |D - (minimum + step code)|, r = fl(V - D), mu the anchor, every token has

    ||(|r| + err)_t||,   ||fl(V_t - mu)||,   ||V_t||,   ||D_t||

whose largest are stored rounded up to bfloat16, the first two for every token too, as log codes; and the mean of the
third, rounded down. Where a channel has one step, also the size ``||(|minimum_c| + levels step_c)_c||``, rounded up to
FP32; otherwise 0. Operator norms are `certkv.fast.kernels.operator_norm`. The twin is
`certkv.fast.encode.encode_values_twin`. One program per block and head, all in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.formats.base import Format
from certkv.fast.formats.packing import plane_rows
from certkv.fast.kernels.affine import quantize, reconstruct, token_of_row
from certkv.fast.kernels.notes import VALUE_SIDE, store_size, store_value_notes, value_operator_norms, value_stores
from certkv.fast.kernels.rounding import narrow, widen
from certkv.fast.numbers import norm_factor, outward
from certkv.fast.pool import Pool


@triton.jit
def encode_values_kernel(
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
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    RH: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BFLOAT: tl.constexpr,
    NORM: tl.constexpr,
    MEAN: tl.constexpr,
):
    """Encode block ``program_id(0)`` of head ``program_id(1)``.

    A tile has R rows: of 4-bit codes two halves of RH rows, so that byte row t is the sum of its rows t and RH + t; of
    8-bit codes RH = R. HALF is the number of byte rows. C channels are a group, or any number where GROUP is 0.
    """
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    place = page * H + head
    row = tl.arange(0, R)
    token, exists = token_of_row(row, HALF, B, RH)
    source = values + block * block_stride + head.to(tl.int64) * head_stride + token.to(tl.int64) * token_stride
    mean = anchor + block * anchor_block_stride + head.to(tl.int64) * anchor_head_stride
    residual_squares = tl.zeros((R,), tl.float64)
    anchored_squares = tl.zeros((R,), tl.float64)
    squares = tl.zeros((R,), tl.float64)
    decoded_squares = tl.zeros((R,), tl.float64)
    size_squares = tl.zeros((C,), tl.float64)
    for first in range(0, D, C):
        place_in_head = first + tl.arange(0, C)
        live = place_in_head < D
        # repeating the last channel changes no extreme of a shorter last group
        channel = tl.minimum(place_in_head, D - 1)
        x = widen(tl.load(source[:, None] + channel[None, :]), BFLOAT)
        mu = tl.load(mean + channel * anchor_channel_stride).to(tl.float64)
        if GROUP == 0:
            code, step, step_bits, minimum = quantize(x, 0, (1 << BITS) - 1, BFLOAT)
        else:
            code, step, step_bits, minimum = quantize(x, 1, (1 << BITS) - 1, BFLOAT)
        decoded, err = reconstruct(code, step, minimum)
        magnitude = tl.where(live[None, :], tl.abs(x - decoded) + err, 0.0)
        residual_squares += tl.sum(magnitude * magnitude, 1)
        decoded = tl.where(live[None, :], decoded, 0.0)
        decoded_squares += tl.sum(decoded * decoded, 1)
        distance = tl.where(live[None, :], x - mu[None, :], 0.0)
        anchored_squares += tl.sum(distance * distance, 1)
        x = tl.where(live[None, :], x, 0.0)
        squares += tl.sum(x * x, 1)
        number = tl.where(exists[:, None], code.to(tl.int32), 0)
        if BITS == 4:
            number = tl.where(row[:, None] < RH, number, number << 4)
            number = tl.sum(tl.reshape(number, (R // RH, RH, C)), 0)
        byte_row = tl.arange(0, RH)
        to = (place * HALF + byte_row[:, None]) * D + channel[None, :]
        tl.store(codes + to, number.to(tl.uint8), mask=(byte_row < HALF)[:, None] & live[None, :])
        # a sum over the axis of length 1 drops it
        if GROUP == 0:
            widest = tl.sum(tl.abs(minimum) + ((1 << BITS) - 1) * step, 0)
            size_squares += tl.where(live, widest * widest, 0.0)
            tl.store(steps + place * D + channel, tl.sum(step_bits.to(tl.int32), 0).to(tl.int16), mask=live)
            tl.store(minima + place * D + channel, narrow(tl.sum(minimum, 0), BFLOAT), mask=live)
        else:
            to_group = (place * B + token) * ((D + GROUP - 1) // GROUP) + first // GROUP
            tl.store(steps + to_group, tl.sum(step_bits.to(tl.int32), 1).to(tl.int16), mask=exists)
            tl.store(minima + to_group, narrow(tl.sum(minimum, 1), BFLOAT), mask=exists)
    store_value_notes(
        notes, residual_codes, anchored_codes, ratios, place, token, exists, residual_squares, anchored_squares,
        squares, decoded_squares, B, NORM, MEAN,
    )  # fmt: skip
    store_size(sizes, place, VALUE_SIDE, tl.sqrt(tl.sum(size_squares, 0)) * NORM)


def encode_values(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    anchor: torch.Tensor,
    fmt: Format,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode.encode_values`, which checks the arguments."""
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    half = plane_rows(block, fmt.bits)
    row_half = max(8 if fmt.bits == 4 else 16, triton.next_power_of_2(half))
    rows = 2 * row_half if fmt.bits == 4 else row_half
    channels = fmt.group or 16
    padded = triton.cdiv(head_dim, channels) * channels
    with torch.cuda.device_of(originals):
        encode_values_kernel[(n, heads)](
            originals.view(torch.int16),
            *originals.stride()[:3],
            pages,
            *value_stores(pool, anchor),
            H=heads,
            B=block,
            D=head_dim,
            BITS=fmt.bits,
            GROUP=fmt.group,
            HALF=half,
            RH=row_half,
            R=rows,
            C=channels,
            BFLOAT=originals.dtype == torch.bfloat16,
            NORM=norm_factor(padded, 1),
            MEAN=outward(padded // 2 + 3 + rows + 2),
            num_warps=max(8 if rows > 64 else 4, min(8, rows * channels // 512)),
            enable_fp_fusion=False,
        )
        value_operator_norms(originals, pages, pool, anchor, fmt, scratch)
