"""Merge a pass and certify every head by its splits' sums: one program per head.

    f_s = 2^(m_s - M)      l = sum f_s l_s      o = sum f_s o_s      c = o / l

    sum A + gamma sum G,  sum U,  e^sum G       with sum A = sum f_s A_s, and so on, A_s of `split_terms`

A program is a chain of waits, and its code is fetched cold: each warp adds up splits of its own, with factors that its
lanes hold, and a sum crosses the warps once; quotients, and roots, stand side by side in one vector.
`certkv.fast.first_tier` has the twin, the whole formula and the reasons.
"""
# ruff: noqa: E741 (l is the softmax state's name; Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from certkv.fast.certificate import Status
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded
from certkv.fast.finish import NOWHERE, Result
from certkv.fast.first_tier import Opened
from certkv.fast.kernels.choose import grown, limit_of, parts_of
from certkv.fast.kernels.early import early
from certkv.fast.kernels.finish import store_output
from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    FACTOR,
    INFINITY,
    LOST,
    LOWERED,
    exp_ub,
    inflate,
    known,
    lowered,
    not_negative,
    root_of_squares,
)
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.spectral import mass_lb
from certkv.fast.kernels.split_terms import HELD, PEAK, SQUARES, STATE_L, SUMMED
from certkv.fast.kernels.states import (
    PARTS,
    WARPS,
    add_states,
    by_warps,
    load_maxima,
    load_states,
    per_warp,
    sum_and_maximum,
)
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.outward_fp32 import above
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.split_terms import COLUMNS
from certkv.fast.splits import STATES
from certkv.fast.totals import UNITS, Totals, Unit
from certkv.fast.workspace import Workspace

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
ACCEPTED = tl.constexpr(ACCEPT)
OPEN = tl.constexpr(REFINE)
LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
OK = tl.constexpr(int(Status.OK))
NONE = tl.constexpr(NOWHERE)
WORST = tl.constexpr(COLUMNS.index("worst"))


@triton.jit
def two_sums(a, b, a2, b2):
    """Join two sums."""
    return a + a2, b + b2


@triton.jit
def element(x, i: tl.constexpr):
    """Return one element of a small vector, as often as it has elements."""
    return tl.gather(x, tl.full([HELD], i, tl.int32), 0)


@triton.jit
def put(to, x):
    """Write a number that is held as often as a small vector has elements."""
    tl.store(to + tl.zeros([HELD], tl.int32), x, mask=tl.arange(0, HELD) == 0)


@triton.jit
def first_tier_kernel(
    part_m,
    part_l,
    part_o,
    part_terms,
    resident_reference,
    resident_sums,
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
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    BFLOAT: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_BFLOAT: tl.constexpr,
    SPLITS: tl.constexpr,
    SC: tl.constexpr,
    CHUNKS: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    ROUND: tl.constexpr,
    EARLY: tl.constexpr,
    program=None,
):
    """Head ``program`` of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    kv = row // G
    sequence = kv // H
    held = tl.arange(0, HELD)
    slot = tl.arange(0, 2)
    channel = tl.arange(0, DP)
    inside = channel < D
    blocks = tl.load(lengths + sequence) // B
    of_slot = resident_norms + (kv * 2 + slot) * 4
    slot_used = tl.load(of_slot)
    slot_keys = tl.load(of_slot + 1)
    slot_mean = tl.load(of_slot + 2)
    verdict = tl.load(refused + sequence)
    mu = tl.load(anchor + kv * D + channel, mask=inside, other=0.0)
    # attend, which may still run, neither reads nor writes what a step returns
    tl.store(rung_out + row, 0)
    tl.store(status_out + row, OK)
    tl.store(promoted_out + row * 2 + slot, tl.zeros([2], tl.int32))
    tl.store(bytes_out + row, tl.zeros((), tl.int64))
    if row % (H * G) == 0:
        tl.store(position_out + sequence, tl.full((), NONE, tl.int64))
        tl.store(moved_out + sequence, tl.zeros((), tl.int64))
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    # everything is read at once, if it is not too much
    states = row * (SPLITS + 1)
    own = load_maxima(part_m, states, 0, SPLITS, K, KP)
    # the resident tokens' state is the last one
    last_m = tl.load(part_m + states + SPLITS)
    slot_shared = tl.load(resident_reference + row * 2 + slot)
    slot_total = tl.load(resident_sums + row * 2 + slot)
    squared = tl.load(part_terms + row * SPLITS * HELD + SQUARES)
    largest_q = tl.load(part_terms + row * SPLITS * HELD + PEAK)
    last_l = tl.load(part_l + states + SPLITS)
    maxima, terms, outputs = load_states(part_m, part_terms, part_o, row, 0, SPLITS, SC, CHUNKS, K, D, DP, ROUND)
    last_o = tl.load(part_o + (states + SPLITS) * D + channel, mask=inside, other=0.0)

    maximum = own
    for start in range(ROUND, SPLITS, ROUND):
        maximum = tl.maximum(maximum, load_maxima(part_m, states, start, SPLITS, K, KP))
    # over all warps, so that a barrier keeps every load ahead of what waits for the maximum
    maximum = tl.maximum(tl.max(tl.max(maximum, 0), 0), last_m)
    # without any token all maxima are -inf
    unit = tl.where(maximum > float("-inf"), maximum, 0.0)
    o = tl.zeros(outputs[0].shape, tl.float32)
    sums = tl.zeros([SC, HELD], tl.float32)
    tops = tl.zeros([SC, HELD], tl.float32)
    o, sums, tops = add_states(o, sums, tops, own, maxima, terms, outputs, unit)
    for start in range(ROUND, SPLITS, ROUND):
        own = load_maxima(part_m, states, start, SPLITS, K, KP)
        maxima, terms, outputs = load_states(
            part_m, part_terms, part_o, row, start, SPLITS, SC, CHUNKS, K, D, DP, ROUND
        )
        o, sums, tops = add_states(o, sums, tops, own, maxima, terms, outputs, unit)
    last_factor = tl.exp2(last_m - unit)
    o0, o1, o2, o3 = by_warps(tl.reshape(tl.permute(o, [0, 2, 1]), [DP, PARTS]))
    o = tl.fma(tl.broadcast_to(last_factor, [DP]), last_o, (o0 + o1) + (o2 + o3))
    rows: tl.constexpr = [PARTS, SC // PARTS, HELD]
    sums, tops = tl.reduce((tl.reshape(sums, rows), tl.reshape(tops, rows)), 1, sum_and_maximum)
    t0, t1, t2, t3 = by_warps(tl.trans(tl.where((held < SUMMED)[None, :], sums, tops)))
    found = tl.where(held < SUMMED, (t0 + t1) + (t2 + t3), tl.maximum(tl.maximum(t0, t1), tl.maximum(t2, t3)))
    found = tl.where(held == STATE_L, tl.fma(last_factor, last_l, found), found)
    l = element(found, STATE_L)
    c = tl.div_rn(o, tl.broadcast_to(tl.max(l, 0), [DP]))
    tl.store(o_out + row * D + channel, o, mask=inside)
    tl.store(output + row * D + channel, c, mask=inside)
    store_output(output_out + row * D + channel, c, inside, OUT_BFLOAT)
    c = tl.where(inside, c, 0.0)
    apart = c - mu
    norm, gamma = tl.reduce((c * c, apart * apart), 0, two_sums)

    # a quotient, and a root, of several numbers side by side
    divided = tl.where(((held == STATE_L) | (held == WORST)) & (found > 0.0), found, 1.0)
    inverses = tl.div_rn(1.0, divided)
    inverse = tl.where((l > 0.0) & (l < INFINITY), element(inverses, STATE_L), INFINITY)
    roots = tl.where(held == 0, norm, tl.where(held == 1, gamma, squared))
    roots = root_of_squares(roots, D)
    roots = known(inflate(tl.where(held == 2, roots * power_of_two(-query_shift(largest_q, BFLOAT)), roots)))
    norm, gamma, norm_q = element(roots, 0), element(roots, 1), element(roots, 2)
    about, of, values, scales = element(found, 0), element(found, 1), element(found, 2), element(found, 3)
    size, worst, largest = element(found, 4), element(found, WORST), element(found, 7)
    farthest, lossy = element(found, 8), element(found, 9)
    finite_query = norm_q < INFINITY
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor

    there = slot_shared > -INFINITY
    mass = not_negative(slot_total * tl.exp2(slot_shared - maximum) * tl.gather(inverse, slot, 0))
    kept = tl.where(there, inflate(mass * share_up + B * share_lost), 0.0)
    used = tl.where(there, not_negative(slot_used), 0.0)
    operand = tl.where(slot_keys <= OPERAND, slot_keys, INFINITY)
    sizes = inflate(known(scale * (tl.gather(norm_q, slot, 0) * (operand + floor))))
    eps = tl.where(sizes <= LARGEST, inflate(resident_relative * sizes + resident_constant), INFINITY)
    moved = tl.where(there, known(eps * exp_ub(eps) * kept), 0.0)
    slot_mean = lowered(tl.where(slot_mean < INFINITY, slot_mean, 0.0))  # a sum may have overflowed
    slot_scale = tl.sum(tl.where(there, mass_lb(mass, mass_down, mass_lost) * slot_mean * DOWN, 0.0), 0)
    slot_about = tl.sum(known(moved * (used + tl.gather(norm, slot, 0))), 0)
    slot_of = tl.sum(moved, 0)
    slot_size = tl.sum(known(kept * used), 0)
    slot_largest = tl.max(used, 0)

    factor = inverse * share_up
    count = tl.maximum(blocks - FIRST, 0).to(tl.float32)
    lost = share_lost * (B * count)
    drift = lost * (worst * exp_ub(worst))
    about = about * factor
    of = of * factor
    coded = known(inflate(about) + gamma * inflate(of))
    keys = known(inflate(coded + drift * (farthest + gamma) + slot_about))
    # what is left of the terms where rounding is switched off
    spared = tl.where(worst > 0.0, 1.0 - coded_constant * element(inverses, WORST), 0.0)
    pure = tl.where(coded == 0.0, 0.0, known(coded * inflate(spared)))
    values = known(inflate(values * factor + lost * lossy))
    growth = exp_ub(known(inflate(of + drift + slot_of)))
    scales = scales * inverse * (mass_down * LOWERED) - count * mass_lost * (largest + lossy)
    scales = tl.where(scales > 0.0, scales, 0.0) * LOWERED + slot_scale
    size = known(size * factor + lost * largest) + slot_size
    far = inflate(tl.maximum(tl.where(blocks > FIRST, farthest + gamma, 0.0), slot_largest + norm))
    largest = tl.maximum(largest, slot_largest)
    natural = LN2 * (maximum + tl.log2(l))
    accumulation = of_mean * size + of_largest * largest + of_output * norm + absolute
    cast = (cast_relative * norm + cast_absolute) * FACTOR
    bound = known((tl.minimum(grown(keys + values + accumulation + LOST, growth), far) + cast) * FACTOR)
    key_part, value_part, arithmetic = parts_of(bound, pure, grown(pure, growth), values, grown(values, growth))
    limit = limit_of(scales, norm, cast, share, UNIT)
    done = (limit > 0.0) & (bound <= limit) & finite_query & (norm < INFINITY) & (verdict == OK)
    put(action + row, tl.where(done, ACCEPTED, OPEN).to(tl.uint8))
    tl.store(opened + tl.zeros([HELD], tl.int32), 1, mask=(held == 0) & ~done)
    tl.store(m_out + row, maximum)
    put(l_out + row, l)
    put(lse + row, natural)
    put(lse_out + row, natural)
    put(bound_out + row, bound)
    put(key_out + row, key_part)
    put(value_out + row, value_part)
    put(arithmetic_out + row, arithmetic)
    put(tolerance_out + row, limit)
    put(result_bound + row, bound)
    put(result_key + row, key_part)
    put(result_value + row, value_part)
    put(result_arithmetic + row, arithmetic)
    put(result_tolerance + row, limit)


def work(
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
    waits: bool,
) -> Work:
    """Return what to launch; arguments as those of the twin, contiguous.

    ``waits``: whether the kernel waits for the one ahead, and says that another may start.
    """
    (batch, heads, head_dim), charges = q.shape, rounding.first
    kv_heads = coded.anchor.shape[1]
    bfloat16, out_bfloat16 = (x.dtype == torch.bfloat16 for x in (q, out.output))
    made = out.certificate
    each = per_warp(ws.splits, head_dim)
    return Work(
        first_tier_kernel,
        (batch * heads, 1, 1),
        (
            ws.part_m,
            ws.part_l,
            ws.part_o,
            ws.part_terms,
            ws.resident_reference,
            ws.resident_sums,
            coded.lengths,
            coded.anchor,
            resident.norms,
            ws.m,
            ws.l,
            ws.o,
            ws.output,
            ws.lse,
            *found[:5],
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
        ),
        {
            "H": kv_heads,
            "G": heads // kv_heads,
            "B": coded.block,
            "D": head_dim,
            "DP": max(32, triton.next_power_of_2(head_dim)),
            "FIRST": coded.first,
            "BFLOAT": bfloat16,
            "UNIT": UNITS.index(unit),
            "OUT_BFLOAT": out_bfloat16,
            "SPLITS": ws.splits,
            "SC": STATES,
            "CHUNKS": triton.cdiv(min(WARPS * each, ws.splits), STATES),
            "K": each,
            "KP": max(32, triton.next_power_of_2(each)),
            "ROUND": WARPS * each,
            "EARLY": waits,
        },
        {},
    )


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
    given = (q, coded, resident, scale, rounding, unit, tolerance, ws, found, opened, refused, moved, out)
    work(*given, early()).launch(WARPS, launch_pdl=early())
