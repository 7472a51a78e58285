"""Encode the refinement planes of a format, and measure every level that they make; one program per block and head.

A launch is one level l. With u what the format quantizes (the original, or rotated and over the token's norm), u/2,
minimum/2 and step/2 in FP32, one rounding each, and F the bits of all planes::

    place   =  floor(((u/2 - minimum/2) / (step/2) - code + 1/2) 2^F), clamped to 0 .. 2^F - 1
    C_l     =  place >> (F - F_l),   whose lowest bits are the plane
    code_l  =  code + C_l 2^-F_l + offset_l

D = fl(norm (minimum + step code_l)), turned back where that is in the rotated basis, and what is measured of it are as
in `encode_oscar_keys` and `encode_oscar_values`, and the operator norm of what is left as in `operator_norm`, in
float64; residuals of keys are in units of steps where these belong to a block. Planes are written through their
pointer, pinned or not, and not read. The twins are those of `certkv.fast.encode_planes`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from certkv.fast.certify import DECODED, LARGEST_RESIDUAL, RESIDUAL_OPERATOR
from certkv.fast.formats.packing import plane_rows
from certkv.fast.formats.planar import Planar, offset
from certkv.fast.kernels.log_codes import encode as encode_log_codes
from certkv.fast.kernels.operator_norm import scratch_size
from certkv.fast.kernels.rotated import (
    as_stored,
    errors,
    key_affine,
    meaning,
    norms_of,
    scaled_to_type,
    spread,
    to_type,
    tokens_of,
    value_affine,
)
from certkv.fast.kernels.rounding import fp32, up, widen
from certkv.fast.kernels.rows_norm import CHANNELS, PANEL, WARPS, constants, programs_of, rows_norm
from certkv.fast.log_codes import ratios as code_ratios
from certkv.fast.numbers import norm_factor, outward
from certkv.fast.planes import Planes
from certkv.fast.pool import FINER_VALUE_NOTES, KEY_NOTES, Pool

KEY_WIDTH, VALUE_WIDTH = len(KEY_NOTES), len(FINER_VALUE_NOTES)
NORM_TOKENS = {128: 8, 256: 2}
"""Tokens of a tile where norms are bounded, by channels: what does not spill; 16 of narrower ones."""

AT_LARGEST, AT_DECODED = tl.constexpr(LARGEST_RESIDUAL), tl.constexpr(DECODED)


@triton.jit
def refined(
    bits, codes, steps, minima, norms, page, head, place, token, channel, KEYS: tl.constexpr, B: tl.constexpr,
    D: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, ROTATED: tl.constexpr, NORMS: tl.constexpr,
    ERRORS: tl.constexpr, FINER: tl.constexpr, SHIFT: tl.constexpr, OFFSET: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """Refine the base codes of a tile of tokens and all channels, [T, W]; 0 past the last channel.

    Returns the integers C_l, the level's numbers inside the rotation and in the basis of the originals, what the latter
    are off by, and the unit that residuals are measured in: the step, or 1.
    """
    ROWS: tl.constexpr = (B * BITS + 7) // 8
    live = (channel < D)[None, :]
    byte = tl.load(codes + (place * ROWS + token % ROWS)[:, None] * D + channel[None, :], mask=live, other=0)
    code = ((byte.to(tl.int32) >> (token // ROWS * BITS)[:, None]) & ((1 << BITS) - 1)).to(tl.float64)
    if GROUP == 0:
        to = place * D + channel[None, :]
        step, minimum = tl.load(steps + to, mask=live, other=0), tl.load(minima + to, mask=live, other=0)
    elif KEYS:
        step, minimum = key_affine(steps, minima, place, token, channel, (B + GROUP - 1) // GROUP, GROUP, D)
    else:
        step, minimum = value_affine(steps, minima, place, token, channel, B, GROUP, D)
    step, minimum = widen(step, BFLOAT), widen(minimum, BFLOAT)
    norm = norms_of(norms, page, head, token, NORMS, B)
    u = widen(bits, BFLOAT)
    if NORMS > 0:
        u = widen(scaled_to_type(as_stored(bits, ROTATED, BFLOAT, D), norm, BFLOAT), BFLOAT)
    elif ROTATED:
        u = widen(to_type(as_stored(bits, ROTATED, BFLOAT, D), BFLOAT), BFLOAT)
    half_step = 0.5 * step
    quotient = fp32(fp32(0.5 * u - 0.5 * minimum) / tl.where(half_step > 0.0, half_step, 1.0))
    within = fp32(fp32(fp32(quotient - code) + 0.5) * (1 << FINER))
    within = tl.minimum(tl.maximum(tl.floor(within), 0.0), (1 << FINER) - 1.0)
    number = within.to(tl.int32) >> SHIFT
    finer = code + number.to(tl.float64) * (1.0 / (1 << (FINER - SHIFT))) + OFFSET
    inside, decoded, err = meaning(finer, step, minimum, norm, ERRORS, D)
    if GROUP > 0:
        step = tl.where(live, 1.0, tl.zeros_like(step))
    return number, inside, decoded, err, step


@triton.jit
def encode_plane_kernel(
    originals,
    block_stride,
    head_stride,
    token_stride,
    pages,
    codes,
    steps,
    minima,
    norms,
    plane,
    notes,
    residual_codes,
    ratios,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    LEVEL: tl.constexpr,
    PLANE: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    ERRORS: tl.constexpr,
    FINER: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    BFLOAT: tl.constexpr,
    R: tl.constexpr,
    QUOTIENT: tl.constexpr,
    NORM: tl.constexpr,
):
    """Write the plane of block ``program_id(0)`` of head ``program_id(1)``, and all notes but the operator norm.

    Tiles of T tokens, whole byte rows of the plane, and W channels; R tokens in all.
    """
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page < 0:
        return
    place = page * H + head
    channel = tl.arange(0, W)
    live = (channel < D)[None, :]
    source = originals + block * block_stride + head.to(tl.int64) * head_stride + channel[None, :]
    PARTS: tl.constexpr = 8 // PLANE
    ROWS: tl.constexpr = (B + PARTS - 1) // PARTS
    N: tl.constexpr = T // PARTS
    row = tl.arange(0, T)
    part = row // N
    largest = tl.zeros((T,), tl.float64)
    residual_squares = tl.zeros((R,), tl.float64)
    decoded_squares = tl.zeros((T,), tl.float64)
    for first in range(0, ROWS, N):
        byte_row = first + row % N
        token = part * ROWS + byte_row
        exists = (byte_row < ROWS) & (token < B)
        # tokens past the last one repeat it, which changes nothing that is largest
        token = tl.minimum(token, B - 1)
        bits = tl.load(source + token.to(tl.int64)[:, None] * token_stride, mask=live, other=0)
        number, inside, decoded, err, unit = refined(
            bits, codes, steps, minima, norms, page, head, place, token, channel, KEYS, B, D, BITS, GROUP, ROTATED,
            NORMS, ERRORS, FINER, SHIFT, OFFSET, BFLOAT,
        )  # fmt: skip
        magnitude = tl.abs(widen(bits, BFLOAT) - decoded) + err
        if KEYS:
            magnitude = tl.where(unit > 0.0, magnitude / tl.where(unit > 0.0, unit, 1.0) * QUOTIENT, 0.0)
        largest = tl.maximum(largest, tl.max(magnitude, 1))
        residual_squares = spread(tl.sum(magnitude * magnitude, 1), residual_squares, first // N)
        decoded_squares = tl.maximum(decoded_squares, tl.sum(inside * inside, 1))
        number = tl.where(exists[:, None], number & ((1 << PLANE) - 1), 0) << (part * PLANE)[:, None]
        byte = tl.sum(tl.reshape(number, (PARTS, N, W)), 0)
        to_row = first + tl.arange(0, N)
        to = (place * ROWS + to_row[:, None]) * D + channel[None, :]
        tl.store(plane + to, byte.to(tl.uint8), mask=(to_row < ROWS)[:, None] & live)
    to = notes + (place * LEVELS + LEVEL) * WIDTH
    if KEYS:
        tl.store(to, up(tl.max(largest, 0), True))
        tl.store(to + 1, up(tl.sqrt(tl.max(residual_squares, 0)) * NORM, True))
        tl.store(to + 3, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))
    else:
        residual = tl.sqrt(residual_squares) * NORM
        residual_bits = up(tl.max(residual, 0), True)
        tl.store(to + AT_LARGEST, residual_bits)
        tl.store(to + AT_DECODED, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))
        row = tl.arange(0, R)
        byte_row = row // T * N + row % N
        token = row % T // N * ROWS + byte_row
        exists = (byte_row < ROWS) & (token < B)
        found = encode_log_codes(residual, widen(residual_bits, True), ratios)
        tl.store(residual_codes + (place * LEVELS + LEVEL) * B + token, found.to(tl.uint8), mask=exists)


@triton.jit(do_not_specialize=["items"])  # or how many blocks fill decides what is compiled
def level_norm_kernel(
    originals,
    block_stride,
    head_stride,
    token_stride,
    pages,
    codes,
    steps,
    minima,
    norms,
    notes,
    residual_codes,
    ratios,
    scratch,
    items,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    LEVEL: tl.constexpr,
    OUT: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    ERRORS: tl.constexpr,
    FINER: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    BFLOAT: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    GAMMA_D: tl.constexpr,
    GAMMA_R: tl.constexpr,
    UP: tl.constexpr,
    OWN: tl.constexpr,
):
    """Bound the operator norm of what the level leaves, as `operator_norm_kernel` does that of the base."""
    program = tl.program_id(0)
    w = scratch + program.to(tl.int64) * (R * DP + 2 * R * R + R)
    gram = w + R * DP
    second = gram + R * R
    units = second + R * R
    channel = tl.arange(0, W)
    live = (channel < D)[None, :]
    for item in range(program, items, tl.num_programs(0)):
        wide = tl.full((), 0, tl.int64) + item
        block = wide // H
        head = wide % H
        page = tl.load(pages + block).to(tl.int64)
        if page >= 0:
            place = page * H + head
            source = originals + block * block_stride + head * head_stride + channel[None, :]
            squares = tl.zeros((R,), tl.float64)
            err_squares = tl.zeros((R,), tl.float64)
            for first in range(0, R, T):
                row = first + tl.arange(0, T)
                token = tl.minimum(row, B - 1)
                there = (row < B)[:, None] & live
                bits = tl.load(source + token.to(tl.int64)[:, None] * token_stride, mask=live, other=0)
                _, _, decoded, err, unit = refined(
                    bits, codes, steps, minima, norms, page, head, place, token, channel, KEYS, B, D, BITS, GROUP,
                    ROTATED, NORMS, ERRORS, FINER, SHIFT, OFFSET, BFLOAT,
                )  # fmt: skip
                difference = widen(bits, BFLOAT) - decoded
                if KEYS:
                    some = unit > 0.0
                    unit = tl.where(some, unit, 1.0)
                    difference = tl.where(some, difference / unit, 0.0)
                    err = tl.where(some, err / unit, 0.0)
                difference = tl.where(there, difference, 0.0)
                err = tl.where(there, err, 0.0)
                squares = spread(tl.sum(difference * difference, 1), squares, first // T)
                err_squares = spread(tl.sum(err * err, 1), err_squares, first // T)
                tl.store(w + row[:, None] * DP + channel[None, :], difference, mask=(channel < DP)[None, :])
            every = tl.arange(0, R)
            of_level = place * LEVELS + LEVEL
            if KEYS:
                unit = tl.where(every < B, 1.0, 0.0).to(tl.float64)
            else:
                largest = widen(tl.load(notes + of_level * WIDTH + AT_LARGEST), True)
                found = tl.load(residual_codes + of_level * B + every, mask=every < B, other=0).to(tl.int32)
                unit = tl.where(every < B, tl.load(ratios + found) * largest, 0.0)
            norm = rows_norm(
                w, gram, second, units, unit, squares, err_squares, R, RP, DP, C, GAMMA_D, GAMMA_R, UP, OWN
            )
            tl.store(notes + of_level * WIDTH + OUT, up(norm, True))


class _Side(NamedTuple):
    """What is read and written of one side."""

    keys: bool
    stored: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    norms: torch.Tensor
    planes: tuple[torch.Tensor, ...]
    notes: torch.Tensor
    residual_codes: torch.Tensor


def _launch(
    side: _Side, originals: torch.Tensor, pages: torch.Tensor, fmt: Planar, scratch: torch.Tensor | None
) -> None:
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    padded = triton.cdiv(head_dim, CHANNELS) * CHANNELS
    width = triton.next_power_of_2(padded)
    # half as many as where codes are encoded: more is computed of each
    tokens = max(8, tokens_of(width) // 2)
    items = n * heads
    programs = programs_of(items, originals.device)
    if scratch is None:
        size = scratch_size(items, block, head_dim, originals.device)
        scratch = torch.empty(size, dtype=torch.float64, device=originals.device)
    codes, step, minimum = side.stored
    stored = (codes, step.view(torch.int16), minimum.view(torch.int16), side.norms)
    measured = (side.notes.view(torch.int16), side.residual_codes, code_ratios(originals.device))
    norms = side.norms.shape[1] if side.keys else 0
    rows = max(16, triton.next_power_of_2(block))
    for level, (plane, bits) in enumerate(zip(side.planes, fmt.plane_bits, strict=True)):
        shared = {
            "KEYS": side.keys,
            "WIDTH": KEY_WIDTH if side.keys else VALUE_WIDTH,
            "LEVELS": len(fmt.plane_bits),
            "LEVEL": level,
            "H": heads,
            "B": block,
            "D": head_dim,
            "W": width,
            "BITS": fmt.bits,
            "GROUP": fmt.group,
            "ROTATED": fmt.rotated,
            "NORMS": norms,
            "ERRORS": errors(fmt.rotated),
            "FINER": sum(fmt.plane_bits),
            "SHIFT": sum(fmt.plane_bits[level + 1 :]),
            "OFFSET": offset(fmt, level + 1),
            "BFLOAT": originals.dtype == torch.bfloat16,
            "enable_fp_fusion": False,
        }
        tiles = triton.cdiv(plane_rows(block, bits), tokens * bits // 8)
        with torch.cuda.device_of(originals):
            encode_plane_kernel[(n, heads)](
                originals.view(torch.int16),
                *originals.stride()[:3],
                pages,
                *stored,
                plane,
                *measured,
                PLANE=bits,
                T=tokens,
                R=triton.next_power_of_2(tiles) * tokens,
                QUOTIENT=outward(2),
                NORM=norm_factor(width, 1),
                num_warps=8 if width > 128 else 4,
                **shared,
            )
            level_norm_kernel[(programs,)](
                originals.view(torch.int16),
                *originals.stride()[:3],
                pages,
                *stored,
                *measured,
                scratch,
                items,
                OUT=KEY_NOTES.index("relative_operator_ub") if side.keys else RESIDUAL_OPERATOR,
                T=NORM_TOKENS.get(width, 16),
                R=rows,
                RP=min(rows, PANEL),
                DP=padded,
                C=CHANNELS,
                **constants(rows, padded),
                num_warps=WARPS.get(rows, 8),
                num_stages=2,
                **shared,
            )


def takes(fmt: Planar) -> bool:
    """Whether kernels encode the planes of a format: it refines another."""
    return not fmt.divided


def encode_key_planes(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    planes: Planes,
    fmt: Planar,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode_planes.encode_key_planes`."""
    stored = (pool.key_codes, pool.key_step, pool.key_minimum)
    codes = pool.residual_codes  # keys have none; nothing is read or written
    side = _Side(True, stored, pool.key_norm, planes.keys, pool.finer_key_notes, codes)
    _launch(side, originals, pages, fmt, scratch)


def encode_value_planes(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    planes: Planes,
    fmt: Planar,
    scratch: torch.Tensor | None = None,
) -> None:
    """Launch the kernels; see `certkv.fast.encode_planes.encode_value_planes`."""
    stored = (pool.value_codes, pool.value_step, pool.value_minimum)
    side = _Side(False, stored, pool.key_norm, planes.values, pool.finer_value_notes, pool.finer_residual_codes)
    _launch(side, originals, pages, fmt, scratch)
