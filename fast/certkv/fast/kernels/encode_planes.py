"""Encode the plane of a refined format, and measure the level that it makes; one program per block and head.

With x/2, minimum/2 and step/2 in FP32, one rounding each::

    place  =  floor(((x/2 - minimum/2) / (step/2) - code + 1/2) 2^b), clamped to 0 .. 2^b - 1
    code_1 =  code + place 2^-b + (2^-b - 1) / 2

D = fl(minimum + step code_1) and what is measured of it are as in `encode_keys` and `encode_values`, and the operator
norm of what is left as in `operator_norm`, in float64. Planes are written through their pointer, pinned or not. The
twins are those of `certkv.fast.encode_planes`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certify import DECODED, LARGEST_RESIDUAL, RESIDUAL_OPERATOR
from certkv.fast.formats.packing import plane_rows
from certkv.fast.formats.planar import Planar
from certkv.fast.kernels.affine import reconstruct, token_of_row
from certkv.fast.kernels.log_codes import encode as encode_log_codes
from certkv.fast.kernels.operator_norm import CHANNELS, PANEL, WARPS, _product, _programs, scratch_size
from certkv.fast.kernels.rounding import fp32, up, widen
from certkv.fast.log_codes import ratios as code_ratios
from certkv.fast.numbers import U, gamma, norm_factor, outward
from certkv.fast.planes import Planes
from certkv.fast.pool import FINER_VALUE_NOTES, KEY_NOTES, Pool

KEY_WIDTH, VALUE_WIDTH = tl.constexpr(len(KEY_NOTES)), tl.constexpr(len(FINER_VALUE_NOTES))
AT_LARGEST, AT_DECODED = tl.constexpr(LARGEST_RESIDUAL), tl.constexpr(DECODED)


@triton.jit
def affine_of(
    codes, steps, minima, place, token, channel, B: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr,
    GROUP: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """Return base codes, steps and minima of a tile in float64; the last two broadcast against it."""
    ROWS: tl.constexpr = (B * BITS + 7) // 8
    byte = tl.load(codes + (place * ROWS + token % ROWS)[:, None] * D + channel[None, :]).to(tl.int32)
    code = (byte >> (token // ROWS * BITS)[:, None]) & ((1 << BITS) - 1)
    if GROUP == 0:
        at = place * D + channel[None, :]
    else:
        at = (place * B + token[:, None]) * ((D + GROUP - 1) // GROUP) + channel[None, :] // GROUP
    return code.to(tl.float64), widen(tl.load(steps + at), BFLOAT), widen(tl.load(minima + at), BFLOAT)


@triton.jit
def refined(x, code, step, minimum, PLANE: tl.constexpr):
    """Return the part of its cell that each number lies in, and the level's number with what it is off by."""
    half_step = 0.5 * step
    quotient = fp32(fp32(0.5 * x - 0.5 * minimum) / tl.where(half_step > 0.0, half_step, 1.0))
    within = fp32(fp32(fp32(quotient - code) + 0.5) * (1 << PLANE))
    place = tl.minimum(tl.maximum(tl.floor(within), 0.0), (1 << PLANE) - 1.0)
    finer = code + place * (1.0 / (1 << PLANE)) + (1.0 / (1 << PLANE) - 1.0) * 0.5
    decoded, err = reconstruct(finer, step, minimum)
    return place, decoded, err


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
    plane,
    notes,
    residual_codes,
    ratios,
    KEYS: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PLANE: tl.constexpr,
    HALF: tl.constexpr,
    RH: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BFLOAT: tl.constexpr,
    QUOTIENT: tl.constexpr,
    NORM: tl.constexpr,
):
    """Write the plane of block ``program_id(0)`` of head ``program_id(1)``, and all notes but the operator norm.

    A tile has two halves of RH rows, so that byte row t of a plane of 4 bits is the sum of its rows t and RH + t.
    """
    block = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(pages + block).to(tl.int64)
    if page >= 0:
        place = page * H + head
        row = tl.arange(0, R)
        token, exists = token_of_row(row, HALF, B, RH)
        source = originals + block * block_stride + head.to(tl.int64) * head_stride + token.to(tl.int64) * token_stride
        largest = tl.zeros((R,), tl.float64)
        squares = tl.zeros((R,), tl.float64)
        decoded_squares = tl.zeros((R,), tl.float64)
        for first in range(0, D, C):
            # channels past the last one repeat it; they are not stored and not summed
            place_in_head = first + tl.arange(0, C)
            live = place_in_head < D
            channel = tl.minimum(place_in_head, D - 1)
            x = widen(tl.load(source[:, None] + channel[None, :]), BFLOAT)
            code, step, minimum = affine_of(codes, steps, minima, place, token, channel, B, D, BITS, GROUP, BFLOAT)
            part, decoded, err = refined(x, code, step, minimum, PLANE)
            magnitude = tl.abs(x - decoded) + err
            if KEYS:
                magnitude = magnitude / tl.where(step > 0.0, step, 1.0) * QUOTIENT
                magnitude = tl.where(step > 0.0, magnitude, 0.0)
            magnitude = tl.where(live[None, :], magnitude, 0.0)
            largest = tl.maximum(largest, tl.max(magnitude, 1))
            squares += tl.sum(magnitude * magnitude, 1)
            decoded = tl.where(live[None, :], decoded, 0.0)
            decoded_squares += tl.sum(decoded * decoded, 1)
            number = tl.where(exists[:, None], part.to(tl.int32), 0)
            number = tl.where(row[:, None] < RH, number, number << PLANE)
            number = tl.sum(tl.reshape(number, (R // RH, RH, C)), 0)
            byte_row = tl.arange(0, RH)
            to = (place * HALF + byte_row[:, None]) * D + channel[None, :]
            tl.store(plane + to, number.to(tl.uint8), mask=(byte_row < HALF)[:, None] & live[None, :])
        if KEYS:
            to = notes + place * KEY_WIDTH
            tl.store(to, up(tl.max(largest, 0), True))
            tl.store(to + 1, up(tl.sqrt(tl.max(squares, 0)) * NORM, True))
            tl.store(to + 3, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))
        else:
            to = notes + place * VALUE_WIDTH
            residual = tl.sqrt(squares) * NORM
            residual_bits = up(tl.max(residual, 0), True)
            tl.store(to + AT_LARGEST, residual_bits)
            tl.store(to + AT_DECODED, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))
            found = encode_log_codes(residual, widen(residual_bits, True), ratios)
            tl.store(residual_codes + place * B + token, found.to(tl.uint8), mask=exists)


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
    notes,
    residual_codes,
    ratios,
    scratch,
    items,
    KEYS: tl.constexpr,
    OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PLANE: tl.constexpr,
    HALF: tl.constexpr,
    RH: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    BFLOAT: tl.constexpr,
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
    row = tl.arange(0, R)
    token, exists = token_of_row(row, HALF, B, RH)
    for item in range(program, items, tl.num_programs(0)):
        wide = tl.full((), 0, tl.int64) + item
        block = wide // H
        head = wide % H
        page = tl.load(pages + block).to(tl.int64)
        if page >= 0:
            place = page * H + head
            source = originals + block * block_stride + head * head_stride + token.to(tl.int64) * token_stride
            squares = tl.zeros((R,), tl.float64)
            err_squares = tl.zeros((R,), tl.float64)
            for first in range(0, DP, C):
                column = first + tl.arange(0, C)
                there = exists[:, None] & (column < D)[None, :]
                channel = tl.minimum(column, D - 1)
                x = widen(tl.load(source[:, None] + channel[None, :]), BFLOAT)
                code, step, minimum = affine_of(codes, steps, minima, place, token, channel, B, D, BITS, GROUP, BFLOAT)
                _, decoded, err = refined(x, code, step, minimum, PLANE)
                difference = x - decoded
                if KEYS:
                    unit = tl.where(step > 0.0, step, 1.0)
                    difference = tl.where(step > 0.0, difference / unit, 0.0)
                    err = tl.where(step > 0.0, err / unit, 0.0)
                difference = tl.where(there, difference, 0.0)
                err = tl.where(there, err, 0.0)
                squares += tl.sum(difference * difference, 1)
                err_squares += tl.sum(err * err, 1)
                tl.store(w + row[:, None] * DP + column[None, :], difference)
            if KEYS:
                unit = tl.where(exists, 1.0, 0.0).to(tl.float64)
            else:
                largest = widen(tl.load(notes + place * WIDTH + AT_LARGEST), True)
                found = tl.load(residual_codes + place * B + token).to(tl.int32)
                unit = tl.where(exists, tl.load(ratios + found) * largest, 0.0)
            over = tl.where(unit > 0.0, unit * unit, 1.0)
            frobenius = tl.sum(tl.where(unit > 0.0, squares / over, 0.0), 0)
            off = tl.sum(tl.where(unit > 0.0, err_squares / over, 0.0), 0)
            exponent = (frobenius.to(tl.int64, bitcast=True) >> 52) - 1023
            half = tl.where(frobenius > 0.0, exponent, 0) >> 1
            root = ((1023 + half) << 52).to(tl.float64, bitcast=True)
            trace = frobenius * ((1023 - 2 * half) << 52).to(tl.float64, bitcast=True)
            tl.store(units + row, unit * root)
            tl.debug_barrier()
            gram_squares = _product(w, DP, units, gram, True, True, R, RP, C)
            tl.debug_barrier()
            second_squares = _product(gram, R, units, second, False, True, R, RP, C)
            tl.debug_barrier()
            fourth_squares = _product(second, R, units, second, False, False, R, RP, C)
            norm = tl.sqrt(fourth_squares) * UP
            norm = tl.sqrt(norm + GAMMA_R * second_squares * UP) * UP
            norm = tl.sqrt(norm + GAMMA_R * gram_squares * UP) * UP
            norm = tl.sqrt(tl.minimum(norm + GAMMA_D * trace * UP, trace * UP)) * UP * root
            norm = (norm + (tl.sqrt(off) + OWN * tl.sqrt(frobenius)) * UP) * UP
            tl.store(notes + place * WIDTH + OUT, up(norm, True))


def _launch(
    keys: bool,
    originals: torch.Tensor,
    pages: torch.Tensor,
    stored: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    plane: torch.Tensor,
    notes: torch.Tensor,
    residual_codes: torch.Tensor,
    fmt: Planar,
    scratch: torch.Tensor | None,
) -> None:
    if originals.stride(-1) != 1:
        originals = originals.contiguous()
    n, heads, block, head_dim = originals.shape
    if n == 0:
        return
    half = plane_rows(block, 4)
    row_half = max(8, triton.next_power_of_2(half))
    rows = 2 * row_half
    channels = fmt.group or CHANNELS
    padded = triton.cdiv(head_dim, channels) * channels
    wide = triton.cdiv(head_dim, CHANNELS) * CHANNELS
    items = n * heads
    programs = _programs(items, originals.device)
    if scratch is None:
        size = scratch_size(items, block, head_dim, originals.device)
        scratch = torch.empty(size, dtype=torch.float64, device=originals.device)
    codes, step, minimum = stored
    shared = (originals.view(torch.int16), *originals.stride()[:3], pages, codes)
    affine = (step.view(torch.int16), minimum.view(torch.int16))
    measured = (notes.view(torch.int16), residual_codes, code_ratios(originals.device))
    constants = {
        "KEYS": keys,
        "H": heads,
        "B": block,
        "D": head_dim,
        "BITS": fmt.bits,
        "GROUP": fmt.group,
        "PLANE": fmt.plane_bits[0],
        "HALF": half,
        "RH": row_half,
        "R": rows,
        "BFLOAT": originals.dtype == torch.bfloat16,
        "enable_fp_fusion": False,
    }
    with torch.cuda.device_of(originals):
        encode_plane_kernel[(n, heads)](
            *shared,
            *affine,
            plane,
            *measured,
            C=channels,
            QUOTIENT=outward(2),
            NORM=norm_factor(padded, 1),
            num_warps=max(4, min(8, rows * channels // 512)),
            **constants,
        )
        level_norm_kernel[(programs,)](
            *shared,
            *affine,
            *measured,
            scratch,
            items,
            OUT=KEY_NOTES.index("relative_operator_ub") if keys else RESIDUAL_OPERATOR,
            WIDTH=notes.shape[-1],
            RP=min(rows, PANEL),
            DP=wide,
            C=CHANNELS,
            GAMMA_D=gamma(wide + 3),
            GAMMA_R=gamma(rows + 2),
            UP=outward(max(rows * rows, wide + rows) + 8),
            OWN=4.0 * U,
            num_warps=WARPS.get(rows, 8),
            num_stages=2,
            **constants,
        )


def takes(fmt: Planar) -> bool:
    """Whether kernels encode the planes of a format: it has one, of 4 bits, and refines another."""
    return not fmt.divided and fmt.plane_bits == (4,)


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
    _launch(True, originals, pages, stored, planes.keys[0], pool.finer_key_notes, codes, fmt, scratch)


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
    notes, codes = pool.finer_value_notes, pool.finer_residual_codes
    _launch(False, originals, pages, stored, planes.values[0], notes, codes, fmt, scratch)
