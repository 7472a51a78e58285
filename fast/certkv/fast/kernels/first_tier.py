"""Merge a pass and certify every head by its blocks' sums: one program per head.

    f_s = 2^(m_s - M)      l = sum f_s l_s      o = sum f_s o_s      c = o / l

    sum A + gamma sum G,  sum U,  e^-sum G      A, G, U of `block_terms`, one block per lane

`certkv.fast.first_tier` has the twin, the whole formula and the reasons.
"""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from certkv.fast.certificate import Status
from certkv.fast.certify import group_factor
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded
from certkv.fast.finish import NOWHERE, Result
from certkv.fast.first_tier import PRODUCT, PRODUCT_LOST, Opened, operator_root, squares_up
from certkv.fast.kernels.choose import head_totals
from certkv.fast.kernels.early import early
from certkv.fast.kernels.finish import store_output
from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    INFINITY,
    LOWERED,
    exp_minus_lb,
    exp_ub,
    expm1_ub,
    inflate,
    known,
    load16,
    lowered,
    not_negative,
    root_of_squares,
)
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.spectral import block_terms, mass_lb
from certkv.fast.outward_fp32 import above
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.totals import UNITS, Totals, Unit
from certkv.fast.workspace import Workspace

WARPS = 8
"""Warps of a program, which is a head; a lane looks at one block at a time."""

STATES = 32
"""States whose outputs are read at once."""

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
ACCEPTED = tl.constexpr(ACCEPT)
OPEN = tl.constexpr(REFINE)
LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
OK = tl.constexpr(int(Status.OK))
NONE = tl.constexpr(NOWHERE)
PRODUCT_UP = tl.constexpr(PRODUCT)


@triton.jit
def load_notes(
    page, valid, head, key_notes, value_notes, sizes, slope, offset, relative_charge, constant_charge, size_factor,
    H: tl.constexpr, GROUP: tl.constexpr, NOTES: tl.constexpr,
):  # fmt: skip
    """Read what is stored of blocks, and bound what rounding does to their scores and what their values' sizes are."""
    place = page.to(tl.int64) * H + head
    relative = not_negative(load16(key_notes + place * 4 + 1, valid, True))
    operator = not_negative(load16(key_notes + place * 4 + 2, valid, True))
    residual = not_negative(load16(value_notes + place * NOTES, valid, True))
    anchored = not_negative(load16(value_notes + place * NOTES + 2, valid, True))
    residual_operator = not_negative(load16(value_notes + place * NOTES + 4, valid, True))
    anchored_operator = not_negative(load16(value_notes + place * NOTES + 5, valid, True))
    mean = load16(value_notes + place * NOTES + 6, valid, True)
    mean = tl.where((mean >= 0.0) & (mean < INFINITY), mean, 0.0)
    operand = tl.load(sizes + place * 2, mask=valid, other=0.0)
    if GROUP > 0:
        used = inflate(not_negative(load16(value_notes + place * NOTES + 3, valid, True)) * size_factor)
    else:
        used = not_negative(tl.load(sizes + place * 2 + 1, mask=valid, other=0.0))
    size = slope * tl.where(operand <= OPERAND, operand, INFINITY) + offset
    eps = tl.where(size <= LARGEST, relative_charge * size + constant_charge, INFINITY)
    return relative, operator, residual, anchored, residual_operator, anchored_operator, mean, eps, used


@triton.jit
def load_seen(block, valid, statistics, reference):
    """Read what a pass wrote of blocks: the sum, sum of squares and largest of P, ``||s q'||^2``, the reference."""
    total = tl.load(statistics + block * 4, mask=valid, other=0.0)
    squares = tl.load(statistics + block * 4 + 1, mask=valid, other=0.0)
    top = tl.load(statistics + block * 4 + 2, mask=valid, other=0.0)
    steps = tl.load(statistics + block * 4 + 3, mask=valid, other=0.0)
    return total, squares, top, steps, tl.load(reference + block, mask=valid, other=float("-inf"))


@triton.jit
def sums_and_maxima(a, b, c, d, e, f, g, h, i, a2, b2, c2, d2, e2, f2, g2, h2, i2):
    """Join what lanes hold: five sums, four maxima."""
    return (
        a + a2, b + b2, c + c2, d + d2, e + e2,
        tl.maximum(f, f2), tl.maximum(g, g2), tl.maximum(h, h2), tl.maximum(i, i2),
    )  # fmt: skip


@triton.jit
def sum_and_maximum(a, b, a2, b2):
    """Join a sum and a maximum."""
    return a + a2, tl.maximum(b, b2)


@triton.jit
def two_sums(a, b, a2, b2):
    """Join two sums."""
    return a + a2, b + b2


@triton.jit(do_not_specialize=["states", "max_blocks"])
def first_tier_kernel(
    q,
    part_m,
    part_l,
    part_o,
    reference,
    resident_reference,
    statistics,
    key_notes,
    value_notes,
    value_sizes,
    page_table,
    lengths,
    anchor,
    resident_norms,
    m_out,
    l_out,
    o_out,
    output,
    lse,
    bound_out,
    key_out,
    value_out,
    arithmetic_out,
    tolerance_out,
    need_out,
    action,
    opened,
    refused,
    output_out,
    lse_out,
    result_bound,
    result_key,
    result_value,
    result_arithmetic,
    result_tolerance,
    rung_out,
    status_out,
    promoted_out,
    bytes_out,
    position_out,
    moved_out,
    scale,
    floor,
    query_lost,
    product_lost,
    coded_relative,
    coded_constant,
    resident_relative,
    resident_constant,
    share_up,
    share_lost,
    mass_down,
    mass_lost,
    of_mean,
    of_largest,
    of_output,
    absolute,
    cast_relative,
    cast_absolute,
    share,
    root_block,
    size_factor,
    states,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    GROUP: tl.constexpr,
    NOTES: tl.constexpr,
    FIRST: tl.constexpr,
    BFLOAT: tl.constexpr,
    SQUARES_UP: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_BFLOAT: tl.constexpr,
    SC: tl.constexpr,
    CHUNKS: tl.constexpr,
    N: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Head ``program_id(0)`` of all sequences' heads."""
    row = tl.program_id(0).to(tl.int64)
    kv = row // G
    sequence, head = kv // H, kv % H
    # everything is read before anything is waited for: three loads that need each other, and the rest beside them
    blocks = tl.load(lengths + sequence) // B
    table = page_table + sequence * max_blocks
    block = tl.arange(0, N)
    page = tl.load(table + block, mask=block < max_blocks, other=0)
    page_after = tl.load(table + N + block, mask=N + block < max_blocks, other=0)
    # a tile of one warp: the others hold the same, and nobody waits for anybody
    lane = tl.arange(0, 32)[:, None] * (DP // 32) + tl.arange(0, DP // 32)[None, :]
    bits = tl.load(q + row * D + lane, mask=lane < D, other=0)
    slot = tl.arange(0, 2)
    slot_used = tl.load(resident_norms + kv * 2 + slot)
    verdict = tl.load(refused + sequence)
    channel = tl.arange(0, DP)
    inside = channel < D
    mu = tl.load(anchor + kv * D + channel, mask=inside, other=0.0)
    if BFLOAT:
        x = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = bits.to(tl.float16, bitcast=True).to(tl.float32)
    norm_q, largest_q = tl.reduce(tl.reduce((x * x, tl.abs(x)), 1, sum_and_maximum), 0, sum_and_maximum)
    norm_q = known(inflate(root_of_squares(norm_q, D)))
    # a number that is not finite shows in the norm; in bfloat16 one whose square is not counts as such
    finite_query = norm_q < INFINITY
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor
    unit = scale * power_of_two(-query_shift(largest_q, BFLOAT))
    slope = inflate(scale * norm_q)
    offset = inflate(scale * (norm_q * floor + query_lost * largest_q))
    valid = (block >= FIRST) & (block < blocks)
    notes = load_notes(
        page, valid, head, key_notes, value_notes, value_sizes, slope, offset, coded_relative, coded_constant,
        size_factor, H, GROUP, NOTES,
    )  # fmt: skip
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    to_slot = statistics + (row * (max_blocks + 2) + max_blocks + slot) * 4
    slot_shared = tl.load(resident_reference + row * 2 + slot)
    slot_total = tl.load(to_slot)
    slot_keys = tl.load(to_slot + 1)
    slot_mean = tl.load(to_slot + 2)
    part = tl.arange(0, SC)
    maxima = ()
    sums = ()
    outputs = ()
    for chunk in tl.static_range(CHUNKS):
        at = chunk * SC + part
        maxima = maxima + (tl.load(part_m + row * states + at, mask=at < states, other=float("-inf")),)
        sums = sums + (tl.load(part_l + row * states + at, mask=at < states, other=0.0),)
        mask = (at < states)[:, None] & inside[None, :]
        outputs = outputs + (
            tl.load(part_o + (row * states + at)[:, None] * D + channel[None, :], mask=mask, other=0.0),
        )
    seen = statistics + row * (max_blocks + 2) * 4
    references = reference + row * max_blocks
    found = load_seen(block, valid, seen, references)

    maximum = tl.full([SC], float("-inf"), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        maximum = tl.maximum(maximum, maxima[chunk])
    maximum = tl.max(maximum, 0)
    l = tl.zeros([SC], tl.float32)
    o = tl.zeros([SC, DP], tl.float32)
    for chunk in tl.static_range(CHUNKS):
        # without any token all maxima are -inf
        factor = tl.where(maxima[chunk] > float("-inf"), tl.exp2(maxima[chunk] - maximum), 0.0)
        l = tl.fma(factor, sums[chunk], l)
        o = tl.fma(tl.broadcast_to(factor[:, None], [SC, DP]), outputs[chunk], o)
    l = tl.sum(l, 0)

    about = tl.zeros([N], tl.float32)
    of = tl.zeros([N], tl.float32)
    values = tl.zeros([N], tl.float32)
    scales = tl.zeros([N], tl.float32)
    size = tl.zeros([N], tl.float32)
    worst = tl.zeros([N], tl.float32)
    largest = tl.zeros([N], tl.float32)
    farthest = tl.zeros([N], tl.float32)
    lossy = tl.zeros([N], tl.float32)
    for start in range(0, blocks, N):
        relative, operator, residual, anchored, residual_operator, anchored_operator, mean, eps, used = notes
        total, squares, top, steps, shared = found
        block = start + tl.arange(0, N)
        valid = (block >= FIRST) & (block < blocks)
        after = block + N
        more = after < blocks
        notes = load_notes(
            page_after, more, head, key_notes, value_notes, value_sizes, slope, offset, coded_relative, coded_constant,
            size_factor, H, GROUP, NOTES,
        )  # fmt: skip
        found = load_seen(after, more, seen, references)
        page_after = tl.load(table + after + N, mask=after + N < blocks, other=0)
        weight = tl.exp2(shared - maximum)
        error = unit * (root_of_squares(steps, D) * PRODUCT_UP + product_lost)
        delta = inflate(error * relative + eps)
        omega = inflate(error * operator + root_block * eps)
        one, other, third = block_terms(
            total, squares, top, delta, omega, anchored, anchored_operator, residual, residual_operator, B, SQUARES_UP
        )
        about = tl.fma(weight, one, about)
        of = tl.fma(weight, other, of)
        values = tl.fma(weight, third, values)
        total = weight * total
        scales = tl.fma(total, mean, scales)
        size = tl.fma(total, used, size)
        worst = tl.maximum(worst, tl.where(valid, known(delta), 0.0))
        largest = tl.maximum(largest, used)
        farthest = tl.maximum(farthest, anchored)
        lossy = tl.maximum(lossy, residual)
    about, of, values, scales, size, worst, largest, farthest, lossy = tl.reduce(
        (about, of, values, scales, size, worst, largest, farthest, lossy), 0, sums_and_maxima
    )

    o = tl.sum(o, 0)
    c = tl.div_rn(o, tl.broadcast_to(l, [DP]))
    tl.store(o_out + row * D + channel, o, mask=inside)
    tl.store(output + row * D + channel, c, mask=inside)
    store_output(output_out + row * D + channel, c, inside, OUT_BFLOAT)
    c = tl.where(inside, c, 0.0)
    apart = c - mu
    norm, gamma = tl.reduce((c * c, apart * apart), 0, two_sums)
    norm = known(inflate(root_of_squares(norm, D)))
    gamma = known(inflate(root_of_squares(gamma, D)))

    there = slot_shared > -INFINITY
    usable = (l > 0.0) & (l < INFINITY)
    inverse = tl.where(usable, tl.div_rn(1.0, tl.where(usable, l, 1.0)), INFINITY)
    mass = not_negative(slot_total * tl.exp2(slot_shared - maximum) * inverse)
    held = inflate(mass * share_up + B * share_lost)
    operand = inflate(root_of_squares(slot_keys, D))
    operand = tl.where(operand <= OPERAND, operand, INFINITY)
    sizes = inflate(known(scale * (norm_q * (operand + floor))))
    eps = tl.where(sizes <= LARGEST, inflate(resident_relative * sizes + resident_constant), INFINITY)
    slot_used = not_negative(slot_used)
    moved = known(expm1_ub(eps) * held)
    slot_mean = lowered(tl.where(slot_mean < INFINITY, slot_mean, 0.0))  # squares may have overflowed
    slot_scale = tl.sum(tl.where(there, mass_lb(mass, mass_down, mass_lost) * slot_mean * DOWN, 0.0), 0)
    slot_about = tl.sum(tl.where(there, known(moved * (slot_used + norm)), 0.0), 0)
    slot_of = tl.sum(tl.where(there, moved, 0.0), 0)
    slot_size = tl.sum(tl.where(there, known(held * slot_used), 0.0), 0)
    slot_largest = tl.max(tl.where(there, slot_used, 0.0), 0)

    factor = inverse * share_up
    count = tl.maximum(blocks - FIRST, 0).to(tl.float32)
    lost = share_lost * (B * count)
    drift = lost * (worst * exp_ub(worst))
    about = about * factor
    of = of * factor
    coded = known(inflate(about) + gamma * inflate(of))
    keys = known(inflate(coded + drift * (farthest + gamma) + slot_about))
    # what is left of the terms where rounding is switched off
    spared = tl.where(worst > 0.0, 1.0 - tl.div_rn(coded_constant, tl.where(worst > 0.0, worst, 1.0)), 0.0)
    pure = tl.where(coded == 0.0, 0.0, known(coded * inflate(spared)))
    values = inflate(values * factor + lost * lossy)
    below = exp_minus_lb(known(inflate(of + drift + slot_of)))
    scales = scales * inverse * (mass_down * LOWERED) - count * mass_lost * (largest + lossy)
    scales = tl.where(scales > 0.0, scales, 0.0) * LOWERED + slot_scale
    size = known(size * factor + lost * largest) + slot_size
    far = inflate(tl.where(blocks > FIRST, farthest + gamma, 0.0))
    far = tl.maximum(far, inflate(slot_largest + norm))
    largest = tl.maximum(largest, slot_largest)
    natural = LN2 * (maximum + tl.log2(l))
    bound, key_part, value_part, arithmetic, limit, need, accepted = head_totals(
        keys,
        pure,
        known(values),
        below,
        scales,
        size,
        largest,
        far,
        norm,
        of_mean, of_largest, of_output, absolute, cast_relative, cast_absolute, share, UNIT,
    )  # fmt: skip
    done = accepted & finite_query & (norm < INFINITY) & (verdict == OK)
    tl.store(action + row, tl.where(done, ACCEPTED, OPEN).to(tl.uint8))
    if not done:
        tl.store(opened, 1)
    tl.store(m_out + row, maximum)
    tl.store(l_out + row, l)
    tl.store(lse + row, natural)
    tl.store(lse_out + row, natural)
    tl.store(bound_out + row, bound)
    tl.store(key_out + row, key_part)
    tl.store(value_out + row, value_part)
    tl.store(arithmetic_out + row, arithmetic)
    tl.store(tolerance_out + row, limit)
    tl.store(need_out + row, need)
    tl.store(result_bound + row, bound)
    tl.store(result_key + row, key_part)
    tl.store(result_value + row, value_part)
    tl.store(result_arithmetic + row, arithmetic)
    tl.store(result_tolerance + row, limit)
    tl.store(rung_out + row, 0)
    tl.store(status_out + row, OK)
    tl.store(promoted_out + row * 2 + slot, tl.zeros([2], tl.int32))
    tl.store(bytes_out + row, tl.zeros((), tl.int64))
    if row % (H * G) == 0:
        tl.store(position_out + sequence, tl.full((), NONE, tl.int64))
        tl.store(moved_out + sequence, tl.zeros((), tl.int64))


def first_tier(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    scale: float,
    rounding: Rounding,
    unit: Unit,
    tolerance: float,
    ws: Workspace,
    found: Totals,
    opened: Opened,
    refused: torch.Tensor,
    moved: torch.Tensor,
    out: Result,
) -> None:
    """Launch; arguments as those of the twin, contiguous."""
    (batch, heads, head_dim), pool, charges = q.shape, coded.pool, rounding.first
    kv_heads, max_blocks, group = coded.anchor.shape[1], coded.page_table.shape[1], coded.value_group
    states = ws.part_m.shape[-1]
    bfloat16, out_bfloat16 = (x.dtype == torch.bfloat16 for x in (q, out.output))
    made = out.certificate
    first_tier_kernel[(batch * heads,)](
        q.view(torch.int16),
        ws.part_m,
        ws.part_l,
        ws.part_o,
        ws.reference,
        ws.resident_reference,
        ws.statistics,
        pool.key_notes.view(torch.int16),
        pool.value_notes.view(torch.int16),
        pool.sizes,
        coded.page_table,
        coded.lengths,
        coded.anchor,
        resident.norms,
        ws.m,
        ws.l,
        ws.o,
        ws.output,
        ws.lse,
        *found,
        opened.action,
        opened.some,
        refused,
        out.output.view(torch.int16) if out_bfloat16 else out.output,
        out.lse,
        made.bound,
        made.key,
        made.value,
        made.arithmetic,
        made.tolerance,
        made.rung,
        made.status,
        made.promoted,
        made.host_bytes,
        out.position,
        moved,
        above(abs(scale)),
        above(charges.floor * math.sqrt(head_dim)),
        rounding.lost,
        0.0 if bfloat16 else above(PRODUCT_LOST * math.sqrt(head_dim)),
        charges.coded.relative,
        charges.coded.constant,
        charges.resident.relative,
        charges.resident.constant,
        charges.share_up,
        charges.share_lost,
        charges.mass_down,
        charges.mass_lost,
        charges.of_mean,
        charges.of_largest,
        charges.of_output,
        charges.absolute,
        charges.cast_relative,
        charges.cast_absolute,
        tolerance / (1.0 + tolerance) if unit == "output" else tolerance,
        operator_root(coded.block),
        group_factor(group) if group else 0.0,
        states,
        max_blocks,
        H=kv_heads,
        G=heads // kv_heads,
        B=coded.block,
        D=head_dim,
        DP=max(32, triton.next_power_of_2(head_dim)),
        GROUP=group,
        NOTES=pool.value_notes.shape[-1],
        FIRST=coded.first,
        BFLOAT=bfloat16,
        SQUARES_UP=squares_up(coded.block),
        UNIT=UNITS.index(unit),
        OUT_BFLOAT=out_bfloat16,
        SC=STATES,
        CHUNKS=triton.cdiv(states, STATES),
        N=32 * WARPS,
        EARLY=early(),
        launch_pdl=early(),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
