"""Certify coded blocks: one program per sequence, KV head and chunk of blocks; heads of the group one after another.

    a_t = P_t exp2(reference - M) / l,   beta_t = a_t n_t,   h = argmax beta,   r_h = ||V_hat_h - c|| + eta_h
    key  =  min( C(all alike),  a_h (e^Delta - 1) r_h + C(without h),  rho (e^Delta - 1) R )
    value  =  U,   weight  =  D

C, U, D as in `certkv.fast.spectral`; `certkv.fast.certify` has the twin and explains the arguments.
"""

# ruff: noqa: RUF005 (Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from certkv.fast.certify import (
    CHUNK,
    DECODED,
    DECODING,
    FINER_ROUNDING,
    FINER_SIZE,
    LARGEST_RESIDUAL,
    RESIDUAL_OPERATOR,
    TURNING,
    Finer,
    Pass,
    Terms,
    code_ratios,
    group_factor,
)
from certkv.fast.charges import LARGEST_SIZE, Charges
from certkv.fast.coded import Coded
from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    INFINITY,
    expm1_ub,
    inflate,
    known,
    load16,
    not_negative,
    root_of_squares,
)
from certkv.fast.kernels.rotation import rotate
from certkv.fast.kernels.spectral import key_term, mass_lb, share_factor, sums, value_term, weight_lb
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.levels import MOST_PLANES, SHIFT
from certkv.fast.outward_fp32 import above
from certkv.fast.pool import FINER_VALUE_NOTES
from certkv.fast.score_error import ScoreErrors

LARGEST = tl.constexpr(LARGEST_SIZE)
ROUNDED = tl.constexpr(DECODING)
ROTATED = tl.constexpr(TURNING)
FINER_UP = tl.constexpr((1.0 + FINER_SIZE) * (1.0 + 2.0**-20))
NOTES = tl.constexpr(len(FINER_VALUE_NOTES))
AT_LARGEST, AT_DECODED, AT_OPERATOR = (tl.constexpr(x) for x in (LARGEST_RESIDUAL, DECODED, RESIDUAL_OPERATOR))
KEY_SHIFT, VALUE_SHIFT = (tl.constexpr(x) for x in SHIFT)
PLANES = tl.constexpr(MOST_PLANES)


@triton.jit
def distance_ub(x, y, ADDENDS: tl.constexpr):
    """Upper bound of ``||x - y||`` over the last of two axes."""
    return known(inflate(root_of_squares(tl.sum((x - y) * (x - y), 1), ADDENDS)))


@triton.jit
def decode_token(
    codes, steps, minima, place, token, channel, mask, R: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, OFFSET: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """Return ``minimum + step (code + OFFSET)`` of one token of every row, [rows, channels]; 0 where masked."""
    code = tl.load(codes + (place * R + token % R)[:, None] * D + channel[None, :], mask=mask, other=0).to(tl.int32)
    if BITS < 8:
        code = (code >> ((token // R) * BITS)[:, None]) & ((1 << BITS) - 1)
    if GROUP > 0:
        at = (place * B + token)[:, None] * ((D + GROUP - 1) // GROUP) + (channel // GROUP)[None, :]
    else:
        at = place[:, None] * D + channel[None, :]
    return load16(minima + at, mask, BFLOAT) + load16(steps + at, mask, BFLOAT) * (code.to(tl.float32) + OFFSET)


@triton.jit
def certify_kernel(
    weights,
    reference,
    maxima,
    denominators,
    output,
    levels,
    value_codes,
    value_step,
    value_minimum,
    value_notes,
    residual_codes,
    anchored_codes,
    page_table,
    lengths,
    anchor,
    ratios,
    delta,
    omega,
    size,
    active,
    mass_out,
    key_out,
    gain_out,
    value_out,
    weight_out,
    partial,
    finer_delta,
    finer_omega,
    finer_value_notes,
    finer_residual_codes,
    finer_key_out,
    finer_weight_out,
    finer_value_out,
    root_block,
    size_factor,
    max_blocks,
    entries,
    finer_stride,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    BP: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    OFFSET: tl.constexpr,
    TURNED: tl.constexpr,
    FIRST: tl.constexpr,
    N: tl.constexpr,
    BFLOAT: tl.constexpr,
    GP: tl.constexpr,
    KEY_LEVELS: tl.constexpr,
    VALUE_LEVELS: tl.constexpr,
    FINER_SCORE: tl.constexpr,
    charges,
    program=None,
):
    """Bound a chunk of blocks of a KV head of a sequence."""
    chunk, head, sequence = place_of(program)
    coded_relative, coded_constant, original_relative, original_constant, share_up, share_lost, mass_down, mass_lost = (
        charges
    )
    kv = sequence * H + head
    heads = tl.arange(0, GP)
    if tl.max(tl.load(active + kv * G + heads, mask=heads < G, other=0).to(tl.int32), 0) != 0:
        block = chunk * N + tl.arange(0, N)
        inside = block < max_blocks
        valid = inside & (block >= FIRST) & (block < tl.load(lengths + sequence) // B)
        page = tl.load(page_table + sequence * max_blocks + block, mask=valid, other=0).to(tl.int64)
        place = page * H + head
        column = tl.arange(0, BP)[None, :]
        tokens = valid[:, None] & (column < B)
        channel = tl.arange(0, DP)
        live = channel < D
        channels = valid[:, None] & live[None, :]
        residual = not_negative(load16(value_notes + place * 7, valid, True))
        norm = not_negative(load16(value_notes + place * 7 + 1, valid, True))
        anchored = not_negative(load16(value_notes + place * 7 + 2, valid, True))
        decoded = not_negative(load16(value_notes + place * 7 + 3, valid, True))
        residual_operator = not_negative(load16(value_notes + place * 7 + 4, valid, True))
        anchored_operator = not_negative(load16(value_notes + place * 7 + 5, valid, True))
        mean = not_negative(load16(value_notes + place * 7 + 6, valid, True))
        mean = tl.where(mean < INFINITY, mean, 0.0)
        here = place[:, None] * B + column
        eta = tl.load(ratios + tl.load(residual_codes + here, mask=tokens, other=0).to(tl.int32))
        n = tl.load(ratios + tl.load(anchored_codes + here, mask=tokens, other=0).to(tl.int32))
        mu = tl.load(anchor + kv * D + channel, mask=live, other=0.0)[None, :]
        widest_decoded = decoded
        finer_residual = ()
        finer_operator = ()
        finer_eta = ()
        for j in tl.static_range(VALUE_LEVELS):
            of_level = place * VALUE_LEVELS + j
            notes = finer_value_notes + of_level * NOTES
            finer_residual = finer_residual + (not_negative(load16(notes + AT_LARGEST, valid, True)),)
            finer_operator = finer_operator + (not_negative(load16(notes + AT_OPERATOR, valid, True)),)
            widest_decoded = tl.maximum(widest_decoded, not_negative(load16(notes + AT_DECODED, valid, True)))
            code = tl.load(finer_residual_codes + of_level[:, None] * B + column, mask=tokens, other=0)
            finer_eta = finer_eta + (tl.load(ratios + code.to(tl.int32)),)
        if GROUP > 0:
            coded_size = inflate(widest_decoded * size_factor)
        else:
            at = place[:, None] * D + channel[None, :]
            widest = tl.abs(load16(value_minimum + at, channels, BFLOAT))
            widest += load16(value_step + at, channels, BFLOAT) * size_factor
            coded_size = distance_ub(widest, 0.0, D)

        for g in range(G):
            row = (kv * G + g).to(tl.int64)
            if tl.load(active + row) != 0:
                to = row * max_blocks + block
                c = tl.load(output + row * D + channel, mask=live, other=0.0)[None, :]
                gamma = tl.sum(distance_ub(c, mu, D))
                output_norm = tl.sum(distance_ub(c, 0.0, D))
                level = tl.load(levels + to, mask=valid, other=0).to(tl.int32)
                coded_keys, coded_values = (level & 1) == 0, (level & 2) == 0

                executed = (kv.to(tl.int64) * max_blocks + block) * G + g
                shared = tl.load(reference + executed, mask=valid, other=0.0)
                factor = share_factor(shared, tl.load(maxima + row), tl.load(denominators + row))
                p = tl.load(weights + executed[:, None] * B + column, mask=tokens, other=0.0).to(tl.float32)
                a = tl.where(tokens, not_negative(p * factor[:, None]), 0.0)
                mass = tl.sum(a, 1)
                a = tl.where(tokens, a * share_up + share_lost, 0.0)
                least = mass_lb(mass, mass_down, mass_lost)

                beta = a * n
                b1, b2, b_top, b_rest = sums(beta, column, B)
                a1, a2, a_top, a_rest = sums(a, column, B)
                u1, u2, u_top, u_rest = sums(a * eta, column, B)
                h = tl.argmax(beta, 1)
                apart = column == h[:, None]
                a_h = tl.sum(tl.where(apart, a, 0.0), 1)
                eta_h = tl.sum(tl.where(apart, eta, 0.0), 1)
                d1, d2, d_top, d_rest = sums(tl.where(apart, 0.0, beta), column, B)
                e1, e2, e_top, e_rest = sums(tl.where(apart, 0.0, a), column, B)
                value = decode_token(
                    value_codes,
                    value_step,
                    value_minimum,
                    place,
                    h,
                    channel,
                    channels,
                    R,
                    B,
                    D,
                    BITS,
                    GROUP,
                    OFFSET,
                    BFLOAT,
                )
                if TURNED:
                    # distances are the same in both bases
                    distance = distance_ub(value, tl.where(channels, rotate(c, D), 0.0), D) + output_norm * ROTATED
                else:
                    distance = distance_ub(value, tl.where(channels, c, 0.0), D)
                distance = known(inflate(distance + decoded * ROUNDED + residual * eta_h))
                radius = inflate(tl.minimum(norm + output_norm, anchored + gamma))

                sizes = not_negative(tl.load(size + to, mask=valid, other=0.0))
                of_codes = coded_relative * sizes + coded_constant
                of_originals = original_relative * sizes + original_constant
                eps = tl.where(coded_keys, of_codes, of_originals)
                eps = tl.where(sizes <= LARGEST, inflate(eps), INFINITY)
                pure_delta = tl.where(coded_keys, not_negative(tl.load(delta + to, mask=valid, other=0.0)), 0.0)
                pure_omega = tl.where(coded_keys, not_negative(tl.load(omega + to, mask=valid, other=0.0)), 0.0)
                if KEY_LEVELS > 0:
                    of_planes = (original_relative + FINER_SCORE) * FINER_UP * sizes + original_constant
                    of_planes = tl.where(sizes <= LARGEST, inflate(of_planes), INFINITY)
                    planes = (level >> KEY_SHIFT) & PLANES
                    eps = tl.where(coded_keys & (planes != 0), of_planes, eps)
                for j in tl.static_range(KEY_LEVELS):
                    finer_to = to + j * finer_stride
                    near_delta = not_negative(tl.load(finer_delta + finer_to, mask=valid, other=0.0))
                    near_omega = not_negative(tl.load(finer_omega + finer_to, mask=valid, other=0.0))
                    refined_keys = coded_keys & (planes == j + 1)
                    pure_delta = tl.where(refined_keys, near_delta, pure_delta)
                    pure_omega = tl.where(refined_keys, near_omega, pure_omega)
                    foreseen = key_term(
                        a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, e1, e2, e_top, e_rest, d1, d2, d_top, d_rest,
                        anchored, anchored_operator, gamma, a_h, distance, radius, near_delta, near_omega,
                    )  # fmt: skip
                    near_delta = inflate(near_delta + of_planes)
                    near_omega = inflate(near_omega + root_block * of_planes)
                    foreseen_weight = weight_lb(a1, a2, a_top, a_rest, least, near_delta, near_omega)
                    tl.store(finer_key_out + finer_to, tl.where(valid, foreseen, 0.0), mask=inside)
                    tl.store(finer_weight_out + finer_to, tl.where(valid, foreseen_weight, 0.0), mask=inside)
                all_delta, all_omega = inflate(pure_delta + eps), inflate(pure_omega + root_block * eps)

                key = key_term(
                    a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, e1, e2, e_top, e_rest, d1, d2, d_top, d_rest,
                    anchored, anchored_operator, gamma, a_h, distance, radius, all_delta, all_omega,
                )  # fmt: skip
                pure = key_term(
                    a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, e1, e2, e_top, e_rest, d1, d2, d_top, d_rest,
                    anchored, anchored_operator, gamma, a_h, distance, radius, pure_delta, pure_omega,
                )  # fmt: skip
                # what stays of a key term whose keys become original, by theorem `block_bound`
                stays = tl.where(sizes <= LARGEST, inflate(of_originals), INFINITY)
                stays = known(a1 * expm1_ub(stays) * radius)
                gain = tl.where(stays < INFINITY, tl.maximum(pure, key - stays), pure)
                of_values = value_term(u1, u2, u_top, u_rest, residual, residual_operator)
                for j in tl.static_range(VALUE_LEVELS):
                    f1, f2, f_top, f_rest = sums(a * finer_eta[j], column, B)
                    of_finer = value_term(f1, f2, f_top, f_rest, finer_residual[j], finer_operator[j])
                    of_values = tl.where(((level >> VALUE_SHIFT) & PLANES) == j + 1, of_finer, of_values)
                    tl.store(finer_value_out + to + j * finer_stride, tl.where(valid, of_finer, 0.0), mask=inside)
                of_values = tl.where(coded_values, of_values, 0.0)
                weight = weight_lb(a1, a2, a_top, a_rest, least, all_delta, all_omega)
                used = tl.where(coded_values, coded_size, norm)
                key, pure = tl.where(valid, key, 0.0), tl.where(valid, pure, 0.0)
                gain = tl.where(valid, gain, 0.0)
                of_values, weight = tl.where(valid, of_values, 0.0), tl.where(valid, weight, 0.0)
                tl.store(mass_out + to, tl.where(valid, mass, 0.0), mask=inside)
                tl.store(key_out + to, key, mask=inside)
                tl.store(gain_out + to, gain, mask=inside)
                tl.store(value_out + to, of_values, mask=inside)
                tl.store(weight_out + to, weight, mask=inside)
                entry = partial + (row * entries + chunk) * 8
                tl.store(entry, tl.sum(key))
                tl.store(entry + 1, tl.sum(pure))
                tl.store(entry + 2, tl.sum(of_values))
                tl.store(entry + 3, tl.sum(weight))
                tl.store(entry + 4, tl.sum(tl.where(valid, least * mean * DOWN, 0.0)))
                tl.store(entry + 5, tl.sum(tl.where(valid, known(a1 * used), 0.0)))
                tl.store(entry + 6, tl.max(tl.where(valid, used, 0.0)))
                tl.store(entry + 7, tl.max(tl.where(valid, radius, 0.0)))


def work(
    seen: Pass,
    coded: Coded,
    errors: ScoreErrors,
    charges: Charges,
    out: Terms,
    active: torch.Tensor,
    finer: Finer | None = None,
) -> Work:
    """Return what to launch; arguments as those of the twin, contiguous."""
    pool, (batch, heads, head_dim) = coded.pool, seen.output.shape
    kv_heads, max_blocks = coded.anchor.shape[1], coded.page_table.shape[1]
    group = coded.value_group
    levels = (0, 0) if finer is None else coded.finer
    # numbers of all levels are within half a step of the codes, which are below 2^bits
    largest = 2.0**coded.value_bits - (0.0 if coded.finer[1] else 1.0)
    notes = pool.value_notes if finer is None else pool.finer_value_notes
    codes = pool.residual_codes if finer is None else pool.finer_residual_codes
    return Work(
        certify_kernel,
        (triton.cdiv(max_blocks, CHUNK), kv_heads, batch),
        (
            *seen,
            pool.value_codes,
            pool.value_step.view(torch.int16),
            pool.value_minimum.view(torch.int16),
            pool.value_notes.view(torch.int16),
            pool.residual_codes,
            pool.anchored_codes,
            coded.page_table,
            coded.lengths,
            coded.anchor,
            code_ratios(coded.lengths.device),
            *errors,
            active,
            *out,
            *(errors[:2] if finer is None else finer.errors[:2]),
            notes.view(torch.int16),
            codes,
            *(out[:3] if finer is None else finer.foreseen),
            above(math.sqrt(coded.block)),
            group_factor(group) if group else largest,
            max_blocks,
            out.partial.shape[2],
            out.mass.numel(),
        ),
        {
            "H": kv_heads,
            "G": heads // kv_heads,
            "B": coded.block,
            "BP": triton.next_power_of_2(coded.block),
            "R": pool.value_codes.shape[2],
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "BITS": coded.value_bits,
            "GROUP": group,
            "OFFSET": coded.value_offset,
            "TURNED": coded.values_rotated,
            "FIRST": coded.first,
            "N": CHUNK,
            "BFLOAT": pool.value_step.dtype == torch.bfloat16,
            "GP": triton.next_power_of_2(heads // kv_heads),
            "KEY_LEVELS": levels[0],
            "VALUE_LEVELS": levels[1],
            "FINER_SCORE": FINER_ROUNDING + (TURNING if coded.keys_rotated else 0.0),
        },
        {
            "charges": (
                charges.coded.relative,
                charges.coded.constant,
                charges.original.relative,
                charges.original.constant,
                charges.share_up,
                charges.share_lost,
                charges.mass_down,
                charges.mass_lost,
            )
        },
    )


def certify(
    seen: Pass,
    coded: Coded,
    errors: ScoreErrors,
    charges: Charges,
    out: Terms,
    active: torch.Tensor,
    finer: Finer | None = None,
) -> None:
    """Launch; arguments as those of the twin, contiguous."""
    work(seen, coded, errors, charges, out, active, finer).launch(4 if coded.anchor.shape[2] <= 128 else 8)
