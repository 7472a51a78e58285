"""Encode keys: codes per channel and block, and what is measured of them; one program per block and head.

With D = fl(minimum + step code), err = |D - (minimum + step code)|, r = fl(k - D), X = (|r| + err) / step, 0/0 = 0::

    relative_max = max_tc X_tc       relative_norm = max_t ||X_t||       decoded_norm = max_t ||D_t||

rounded up to bfloat16; and ``||(|minimum_c| + 256 step_c)_c||``, rounded up to FP32. The operator norm is
`certkv.fast.kernels.operator_norm`. The twin is `certkv.fast.encode.encode_keys_twin`. All in float64: a block is
encoded once, so this is not where time goes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.formats import INT8, KeyFormat
from certkv.fast.kernels.affine import quantize, reconstruct
from certkv.fast.kernels.notes import KEY_SIDE, key_operator_norms, key_stores, store_key_notes, store_size
from certkv.fast.kernels.rounding import narrow, widen
from certkv.fast.numbers import norm_factor, outward
from certkv.fast.pool import Pool

CHANNELS = 16
"""Channels of a tile."""


@triton.jit
def encode_keys_kernel(
    keys,
    block_stride,
    head_stride,
    token_stride,
    pages,
    codes,
    steps,
    minima,
    notes,
    sizes,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BFLOAT: tl.constexpr,
    QUOTIENT: tl.constexpr,
    NORM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Encode block ``program_id(0)`` of head ``program_id(1)``; R rows hold its B tokens."""
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    place = page * H + head
    row = tl.arange(0, R)
    token = tl.minimum(row, B - 1)
    source = keys + block * block_stride + head.to(tl.int64) * head_stride + token.to(tl.int64) * token_stride
    relative_max = tl.zeros((R,), tl.float64)
    relative_squares = tl.zeros((R,), tl.float64)
    decoded_squares = tl.zeros((R,), tl.float64)
    size_squares = tl.zeros((C,), tl.float64)
    for first in range(0, D, C):
        # channels past the last one repeat it; they are not stored and not summed
        place_in_head = first + tl.arange(0, C)
        live = place_in_head < D
        channel = tl.minimum(place_in_head, D - 1)
        x = widen(tl.load(source[:, None] + channel[None, :]), BFLOAT)
        code, step, step_bits, minimum = quantize(x, 0, 255, BFLOAT)
        decoded, err = reconstruct(code, step, minimum)
        # the step is 0 only in a constant channel, where the residual is 0
        unit = tl.where(step > 0.0, step, 1.0)
        relative = (tl.abs(x - decoded) + err) / unit * QUOTIENT
        relative = tl.where((step > 0.0) & live[None, :], relative, 0.0)
        decoded = tl.where(live[None, :], decoded, 0.0)
        relative_max = tl.maximum(relative_max, tl.max(relative, 1))
        relative_squares += tl.sum(relative * relative, 1)
        decoded_squares += tl.sum(decoded * decoded, 1)
        widest = tl.sum(tl.abs(minimum) + LEVELS * step, 0)
        size_squares += tl.where(live, widest * widest, 0.0)
        to = (place * B + token[:, None]) * D + channel[None, :]
        tl.store(codes + to, code.to(tl.int32).to(tl.uint8), mask=(row < B)[:, None] & live[None, :])
        # both are [1, C]; a sum over the one row makes them [C]
        tl.store(steps + place * D + channel, tl.sum(step_bits.to(tl.int32), 0).to(tl.int16), mask=live)
        tl.store(minima + place * D + channel, narrow(tl.sum(minimum, 0), BFLOAT), mask=live)
    store_key_notes(notes, place, relative_max, relative_squares, decoded_squares, NORM)
    store_size(sizes, place, KEY_SIDE, tl.sqrt(tl.sum(size_squares, 0)) * NORM)


def encode_keys(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    fmt: KeyFormat = INT8,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode.encode_keys`, which checks the arguments."""
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    rows = max(16, triton.next_power_of_2(block))
    padded = triton.cdiv(head_dim, CHANNELS) * CHANNELS
    with torch.cuda.device_of(originals):
        encode_keys_kernel[(n, heads)](
            originals.view(torch.int16),
            *originals.stride()[:3],
            pages,
            *key_stores(pool),
            H=heads,
            B=block,
            D=head_dim,
            R=rows,
            C=CHANNELS,
            BFLOAT=originals.dtype == torch.bfloat16,
            QUOTIENT=outward(2),
            NORM=norm_factor(padded, 1),
            LEVELS=2.0**fmt.bits,
            num_warps=8 if rows > 64 else 4,
            enable_fp_fusion=False,
        )
        key_operator_norms(originals, pages, pool, fmt, scratch)
