"""Operator norms of what is left of a block: an upper bound for a matrix H = diag(1/s) W of B rows.

==========  =======================  ==========================
job         rows of W                s
==========  =======================  ==========================
RELATIVE    (k - k_hat) / step       1
RESIDUAL    V - V_hat                stored eta_t
ANCHORED    V - mu                   stored n_t
==========  =======================  ==========================

where keys whose steps belong to groups of tokens have units of K in place of the step. How H is bounded once its rows
are there is `certkv.fast.kernels.rows_norm`. A program takes one item after another.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.formats import Format, OscarKeys, OscarValues
from certkv.fast.formats.packing import plane_rows
from certkv.fast.kernels.affine import reconstruct, token_of_row
from certkv.fast.kernels.rotated import errors, key_affine, meaning, norms_of, spread, tokens_of, value_affine
from certkv.fast.kernels.rounding import up, widen
from certkv.fast.kernels.rows_norm import CHANNELS, PANEL, WARPS, constants, numbers, programs_of, rows_norm
from certkv.fast.log_codes import ratios

RELATIVE, RESIDUAL, ANCHORED = 0, 1, 2


@triton.jit
def _rows(
    x,
    place,
    token,
    exists,
    codes,
    steps,
    minima,
    mean,
    mean_stride,
    w,
    JOB: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    RH: tl.constexpr,
    R: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    BFLOAT: tl.constexpr,
):
    """Write W, float64 [R, DP]; return per row the sums of the squares of W and of err."""
    row = tl.arange(0, R)
    squares = tl.zeros((R,), tl.float64)
    err_squares = tl.zeros((R,), tl.float64)
    for first in range(0, DP, C):
        column = first + tl.arange(0, C)
        there = exists[:, None] & (column < D)[None, :]
        channel = tl.minimum(column, D - 1)
        original = widen(tl.load(x[:, None] + channel[None, :]), BFLOAT)
        if JOB == 2:
            difference = original - tl.load(mean + channel * mean_stride).to(tl.float64)[None, :]
            err = tl.zeros((R, C), tl.float64)
        else:
            # a row of a second half reads the high nibble of the bytes of the first
            byte = tl.load(
                codes + (place * HALF + tl.minimum(row & (RH - 1), HALF - 1)[:, None]) * D + channel[None, :]
            )
            code = byte.to(tl.int32)
            if BITS == 4:
                code = tl.where(row[:, None] < RH, code, code >> 4) & 15
            if GROUP == 0:
                to = place * D + channel[None, :]
            else:
                to = (place * B + token[:, None]) * ((D + GROUP - 1) // GROUP) + channel[None, :] // GROUP
            step = widen(tl.load(steps + to), BFLOAT)
            decoded, err = reconstruct(code.to(tl.float64), step, widen(tl.load(minima + to), BFLOAT))
            difference = original - decoded
            if JOB == 0:
                unit = tl.where(step > 0.0, step, 1.0)
                difference = tl.where(step > 0.0, difference / unit, 0.0)
                err = tl.where(step > 0.0, err / unit, 0.0)
        difference = tl.where(there, difference, 0.0)
        err = tl.where(there, err, 0.0)
        squares += tl.sum(difference * difference, 1)
        err_squares += tl.sum(err * err, 1)
        tl.store(w + row[:, None] * DP + column[None, :], difference)
    return squares, err_squares


@triton.jit
def _turned_rows(
    x,
    token_stride,
    page,
    head,
    place,
    codes,
    steps,
    minima,
    norms,
    w,
    B: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    OF_TOKENS: tl.constexpr,
    NORMS: tl.constexpr,
    ERRORS: tl.constexpr,
    R: tl.constexpr,
    DP: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    BFLOAT: tl.constexpr,
):
    """Write W and return sums as `_rows` does, for formats in the rotated basis; T tokens at a time, row t token t.

    OF_TOKENS: groups are of tokens, as those of keys are, or of channels.
    """
    squares = tl.zeros((R,), tl.float64)
    err_squares = tl.zeros((R,), tl.float64)
    channel = tl.arange(0, W)
    live = (channel < D)[None, :]
    ROWS: tl.constexpr = (B * BITS + 7) // 8
    for first in range(0, R, T):
        row = first + tl.arange(0, T)
        token = tl.minimum(row, B - 1)
        there = (row < B)[:, None] & live
        bits = tl.load(x + token.to(tl.int64)[:, None] * token_stride + channel[None, :], mask=live, other=0)
        byte = tl.load(codes + (place * ROWS + token % ROWS)[:, None] * D + channel[None, :], mask=live, other=0)
        code = (byte.to(tl.int32) >> (token // ROWS * BITS)[:, None]) & ((1 << BITS) - 1)
        if OF_TOKENS:
            step, minimum = key_affine(steps, minima, place, token, channel, (B + GROUP - 1) // GROUP, GROUP, D)
        else:
            step, minimum = value_affine(steps, minima, place, token, channel, B, GROUP, D)
        norm = norms_of(norms, page, head, token, NORMS, B)
        _, decoded, err = meaning(code.to(tl.float64), widen(step, BFLOAT), widen(minimum, BFLOAT), norm, ERRORS, D)
        difference = tl.where(there, widen(bits, BFLOAT) - decoded, 0.0)
        err = tl.where(there, err, 0.0)
        squares = spread(tl.sum(difference * difference, 1), squares, first // T)
        err_squares = spread(tl.sum(err * err, 1), err_squares, first // T)
        tl.store(w + row[:, None] * DP + channel[None, :], difference, mask=(channel < DP)[None, :])
    return squares, err_squares


@triton.jit(do_not_specialize=["items"])  # or how many blocks fill decides what is compiled
def operator_norm_kernel(
    x,
    block_stride,
    head_stride,
    token_stride,
    pages,
    codes,
    steps,
    minima,
    anchor,
    anchor_block_stride,
    anchor_head_stride,
    anchor_channel_stride,
    token_codes,
    ratios,
    notes,
    norms,
    scratch,
    items,
    JOB: tl.constexpr,
    OUT: tl.constexpr,
    LARGEST: tl.constexpr,
    WIDTH: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    RH: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    TURNED: tl.constexpr,
    NORMS: tl.constexpr,
    ERRORS: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    BFLOAT: tl.constexpr,
    GAMMA_D: tl.constexpr,
    GAMMA_R: tl.constexpr,
    UP: tl.constexpr,
    OWN: tl.constexpr,
):
    """Bound one matrix per item (block, head) and write it to scalar OUT of the WIDTH notes of its page."""
    program = tl.program_id(0)
    w = scratch + program.to(tl.int64) * (R * DP + 2 * R * R + R)
    gram = w + R * DP
    second = gram + R * R
    units = second + R * R
    row = tl.arange(0, R)
    token, exists = token_of_row(row, HALF, B, RH)
    for item in range(program, items, tl.num_programs(0)):
        wide = tl.full((), 0, tl.int64) + item
        block = wide // H
        head = wide % H
        page = tl.load(pages + block).to(tl.int64)
        if page >= 0:
            place = page * H + head
            if TURNED:
                squares, err_squares = _turned_rows(
                    x + block * block_stride + head * head_stride,
                    token_stride,
                    page,
                    head,
                    place,
                    codes,
                    steps,
                    minima,
                    norms,
                    w,
                    B,
                    D,
                    BITS,
                    GROUP,
                    JOB == 0,
                    NORMS,
                    ERRORS,
                    R,
                    DP,
                    W,
                    T,
                    BFLOAT,
                )
            else:
                squares, err_squares = _rows(
                    x + block * block_stride + head * head_stride + token.to(tl.int64) * token_stride,
                    place,
                    token,
                    exists,
                    codes,
                    steps,
                    minima,
                    anchor + block * anchor_block_stride + head * anchor_head_stride,
                    anchor_channel_stride,
                    w,
                    JOB,
                    B,
                    D,
                    BITS,
                    GROUP,
                    HALF,
                    RH,
                    R,
                    DP,
                    C,
                    BFLOAT,
                )
            if JOB == 0:
                unit = tl.where(exists, 1.0, 0.0).to(tl.float64)
            else:
                largest = widen(tl.load(notes + place * WIDTH + LARGEST), True)
                code = tl.load(token_codes + place * B + token).to(tl.int32)
                unit = tl.where(exists, tl.load(ratios + code) * largest, 0.0)
            norm = rows_norm(
                w, gram, second, units, unit, squares, err_squares, R, RP, DP, C, GAMMA_D, GAMMA_R, UP, OWN
            )
            tl.store(notes + place * WIDTH + OUT, up(norm, True))


def _tile(block: int, bits: int) -> tuple[int, int, int]:
    """Byte rows, rows of a half of a tile, and rows of a tile."""
    half = plane_rows(block, bits)
    row_half = max(8 if bits == 4 else 16, triton.next_power_of_2(half))
    return half, row_half, 2 * row_half if bits == 4 else row_half


def scratch_size(items: int, block: int, head_dim: int, device: torch.device) -> int:
    """Float64 numbers that any job on so many items (blocks times heads) takes."""
    rows = max(_tile(block, bits)[2] for bits in (4, 8))
    padded = triton.cdiv(head_dim, CHANNELS) * CHANNELS
    return programs_of(items, device) * numbers(rows, padded)


def operator_norms(
    job: int,
    originals: torch.Tensor,
    pages: torch.Tensor,
    stored: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    notes: torch.Tensor,
    out: int,
    fmt: Format,
    token_codes: torch.Tensor | None = None,
    largest: int = 0,
    anchor: torch.Tensor | None = None,
    scratch: torch.Tensor | None = None,
    norms: torch.Tensor | None = None,
) -> None:
    """Launch the kernel: scalar `out` of `notes` for every block and head.

    Parameters
    ----------
    job : int
        RELATIVE, RESIDUAL or ANCHORED.
    originals : float16 or bfloat16 [n, H, B, d]
        Channels next to each other.
    pages : int32 or int64 [n]
    stored : codes, step, minimum of the pool
    notes : bfloat16 [P, H, scalars]
    out : int
    fmt : Format
        What `stored` is.
    token_codes : uint8 [P, H, B], optional
        Log codes of s relative to scalar `largest` of `notes`; not for RELATIVE.
    largest : int
    anchor : float32 [n, H, d], optional
        For ANCHORED.
    scratch : float64 [`scratch_size`] or None
        None to allocate it.
    norms : float32 [P, Hn, B], optional
        Norms of tokens, for RELATIVE of keys that may have them.
    """
    n, heads, block, head_dim = originals.shape
    # distances from the anchor ask for no codes, so that one kernel serves all formats
    bits, group = (8, 0) if job == ANCHORED else (fmt.bits, fmt.group)
    turned = job != ANCHORED and isinstance(fmt, OscarKeys | OscarValues)
    half, row_half, rows = _tile(block, 8 if turned else bits)
    padded = triton.cdiv(head_dim, CHANNELS) * CHANNELS
    items = n * heads
    programs = programs_of(items, originals.device)
    if scratch is None:
        size = scratch_size(items, block, head_dim, originals.device)
        scratch = torch.empty(size, dtype=torch.float64, device=originals.device)
    codes, step, minimum = stored
    operator_norm_kernel[(programs,)](
        originals.view(torch.int16),
        *originals.stride()[:3],
        pages,
        codes,
        step.view(torch.int16),
        minimum.view(torch.int16),
        originals if anchor is None else anchor,
        *((0, 0, 0) if anchor is None else anchor.stride()),
        codes if token_codes is None else token_codes,
        ratios(originals.device),
        notes.view(torch.int16),
        ratios(originals.device) if norms is None else norms,
        scratch,
        items,
        JOB=job,
        OUT=out,
        LARGEST=largest,
        WIDTH=notes.shape[-1],
        H=heads,
        B=block,
        D=head_dim,
        BITS=bits,
        GROUP=group,
        HALF=half,
        RH=row_half,
        R=rows,
        RP=min(rows, PANEL),
        DP=padded,
        C=CHANNELS,
        TURNED=turned,
        NORMS=0 if norms is None else norms.shape[1],
        ERRORS=errors(turned and fmt.rotated),
        W=triton.next_power_of_2(padded),
        T=tokens_of(triton.next_power_of_2(padded)),
        BFLOAT=originals.dtype == torch.bfloat16,
        **constants(rows, padded),
        num_warps=WARPS.get(rows, 8),
        num_stages=2,
        enable_fp_fusion=False,
    )
