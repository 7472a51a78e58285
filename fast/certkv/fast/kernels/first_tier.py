"""Merge a pass and certify every head by its splits' sums: one program per head.

    f_s = 2^(m_s - M)      l = sum f_s l_s      o = sum f_s o_s      c = o / l

    sum A + gamma sum G,  sum U,  e^-sum G      with sum A = sum f_s A_s, and so on, A_s of `split_terms`

`certkv.fast.first_tier` has the twin, the whole formula and the reasons.
"""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples, it does not unpack them)
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
    lowered,
    not_negative,
    root_of_squares,
)
from certkv.fast.kernels.spectral import mass_lb
from certkv.fast.kernels.split_terms import HELD, PEAK, SQUARES, SUMMED, query_norm
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.outward_fp32 import above
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.splits import STATES
from certkv.fast.totals import UNITS, Totals, Unit
from certkv.fast.workspace import Workspace

WARPS = 4
"""Warps of a program, which is a head."""

TILES = 4
"""Tiles of `STATES` states that are read at once; half as many at a time where there are more."""

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
ACCEPTED = tl.constexpr(ACCEPT)
OPEN = tl.constexpr(REFINE)
LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
OK = tl.constexpr(int(Status.OK))
NONE = tl.constexpr(NOWHERE)


@triton.jit
def two_sums(a, b, a2, b2):
    """Join two sums."""
    return a + a2, b + b2


@triton.jit
def sum_and_maximum(a, b, a2, b2):
    """Join a sum and a maximum."""
    return a + a2, tl.maximum(b, b2)


@triton.jit
def load_states(
    part_m, part_terms, part_o, row, start, splits, SC: tl.constexpr, CHUNKS: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """Load maxima, terms and outputs of some splits, in tuples of tiles."""
    part = tl.arange(0, SC)
    held = tl.arange(0, HELD)
    channel = tl.arange(0, DP)
    # tiles are apart by constants, which loads have room for
    of_maxima = part_m + row * (splits + 1) + start + part
    of_terms = part_terms + (row * splits + start) * HELD + (part[:, None] * HELD + held[None, :])
    of_outputs = part_o + (row * (splits + 1) + start) * D + (part[:, None] * D + channel[None, :])
    maxima = ()
    terms = ()
    outputs = ()
    for chunk in tl.static_range(CHUNKS):
        some = start + chunk * SC + part < splits
        if EVEN:
            maxima = maxima + (tl.load(of_maxima + chunk * SC),)
            terms = terms + (tl.load(of_terms + chunk * SC * HELD),)
        else:
            there = tl.broadcast_to(some[:, None], [SC, HELD])
            maxima = maxima + (tl.load(of_maxima + chunk * SC, mask=some, other=float("-inf")),)
            terms = terms + (tl.load(of_terms + chunk * SC * HELD, mask=there, other=0.0),)
        if EVEN and D == DP:
            outputs = outputs + (tl.load(of_outputs + chunk * SC * D),)
        else:
            there = some[:, None] & (channel < D)[None, :]
            outputs = outputs + (tl.load(of_outputs + chunk * SC * D, mask=there, other=0.0),)
    return maxima, terms, outputs


@triton.jit
def add_states(o, sums, tops, maxima, terms, outputs, unit):
    """Add what `load_states` has read to tiles of sums, and to maxima."""
    for chunk in tl.static_range(len(maxima)):
        factor = tl.exp2(maxima[chunk] - unit)[:, None]
        o = tl.fma(tl.broadcast_to(factor, o.shape), outputs[chunk], o)
        sums = tl.fma(tl.broadcast_to(factor, sums.shape), terms[chunk], sums)
        tops = tl.maximum(tops, terms[chunk])
    return o, sums, tops


@triton.jit
def element(x, i: tl.constexpr):
    """Return one element of a small vector, as often as it has elements."""
    return tl.gather(x, tl.full([HELD], i, tl.int32), 0)


@triton.jit
def put(to, x):
    """Write a number that is held as often as a small vector has elements."""
    tl.store(to + tl.zeros([HELD], tl.int32), x, mask=tl.arange(0, HELD) == 0)


@triton.jit(do_not_specialize=["splits", "max_blocks"])
def first_tier_kernel(
    part_m,
    part_l,
    part_o,
    part_terms,
    resident_reference,
    statistics,
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
    splits,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    BFLOAT: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_BFLOAT: tl.constexpr,
    SC: tl.constexpr,
    CHUNKS: tl.constexpr,
    EVEN: tl.constexpr,
    ONCE: tl.constexpr,
    EARLY: tl.constexpr,
    program=None,
):
    """Head ``program`` of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    kv = row // G
    sequence = kv // H
    blocks = tl.load(lengths + sequence) // B
    slot = tl.arange(0, 2)
    slot_used = tl.load(resident_norms + kv * 2 + slot)
    verdict = tl.load(refused + sequence)
    channel = tl.arange(0, DP)
    inside = channel < D
    mu = tl.load(anchor + kv * D + channel, mask=inside, other=0.0)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    # everything is read at once, if it is not too much
    held = tl.arange(0, HELD)
    maxima, terms, outputs = load_states(part_m, part_terms, part_o, row, 0, splits, SC, CHUNKS, D, DP, EVEN)
    # the resident tokens' state is the last one
    last = row * (splits + 1) + splits
    last_m = tl.load(part_m + last)
    last_l = tl.load(part_l + last)
    last_o = tl.load(part_o + last * D + channel, mask=inside, other=0.0)
    squared = tl.load(part_terms + row * splits * HELD + SQUARES)
    largest_q = tl.load(part_terms + row * splits * HELD + PEAK)
    to_slot = statistics + (row * (max_blocks + 2) + max_blocks + slot) * 4
    slot_shared = tl.load(resident_reference + row * 2 + slot)
    slot_total = tl.load(to_slot)
    slot_keys = tl.load(to_slot + 1)
    slot_mean = tl.load(to_slot + 2)

    norm_q, _ = query_norm(squared, largest_q, D, BFLOAT)
    finite_query = norm_q < INFINITY
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor
    maximum = maxima[0]
    for chunk in tl.static_range(1, CHUNKS):
        maximum = tl.maximum(maximum, maxima[chunk])
    if not ONCE:
        for start in range(SC * CHUNKS, splits, SC):
            here = start + tl.arange(0, SC)
            more = tl.load(part_m + row * (splits + 1) + here, mask=here < splits, other=float("-inf"))
            maximum = tl.maximum(maximum, more)
    maximum = tl.maximum(tl.max(maximum, 0), last_m)
    # without any token all maxima are -inf
    unit = tl.where(maximum > float("-inf"), maximum, 0.0)
    o = tl.zeros([SC, DP], tl.float32)
    sums = tl.zeros([SC, HELD], tl.float32)
    tops = tl.zeros([SC, HELD], tl.float32)
    o, sums, tops = add_states(o, sums, tops, maxima, terms, outputs, unit)
    if not ONCE:
        for start in range(SC * CHUNKS, splits, SC * CHUNKS):
            maxima, terms, outputs = load_states(
                part_m, part_terms, part_o, row, start, splits, SC, CHUNKS, D, DP, EVEN
            )  # fmt: skip
            o, sums, tops = add_states(o, sums, tops, maxima, terms, outputs, unit)
    last_factor = tl.exp2(last_m - unit)
    o = tl.fma(tl.broadcast_to(last_factor, [DP]), last_o, tl.sum(o, 0))
    sums, tops = tl.reduce((sums, tops), 0, sum_and_maximum)
    found = tl.where(held < SUMMED, sums, tops)
    about, of, values, scales = element(found, 0), element(found, 1), element(found, 2), element(found, 3)
    size, worst, largest = element(found, 4), element(found, 6), element(found, 7)
    l = tl.sum(tl.where(held == 5, found, 0.0), 0)
    farthest, lossy = element(found, 8), element(found, 9)
    l = tl.fma(last_factor, last_l, l)
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
    kept = inflate(mass * share_up + B * share_lost)
    operand = inflate(root_of_squares(slot_keys, D))
    operand = tl.where(operand <= OPERAND, operand, INFINITY)
    sizes = inflate(known(scale * (norm_q * (operand + floor))))
    eps = tl.where(sizes <= LARGEST, inflate(resident_relative * sizes + resident_constant), INFINITY)
    slot_used = not_negative(slot_used)
    moved = known(expm1_ub(eps) * kept)
    slot_mean = lowered(tl.where(slot_mean < INFINITY, slot_mean, 0.0))  # squares may have overflowed
    slot_scale = tl.sum(tl.where(there, mass_lb(mass, mass_down, mass_lost) * slot_mean * DOWN, 0.0), 0)
    slot_about = tl.sum(tl.where(there, known(moved * (slot_used + norm)), 0.0), 0)
    slot_of = tl.sum(tl.where(there, moved, 0.0), 0)
    slot_size = tl.sum(tl.where(there, known(kept * slot_used), 0.0), 0)
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
    clean = tl.where(finite_query & (norm < INFINITY) & (verdict == OK), 1.0, 0.0)
    done = tl.where(accepted, clean, 0.0) > 0.0
    put(action + row, tl.where(done, ACCEPTED, OPEN).to(tl.uint8))
    tl.store(opened + tl.zeros([HELD], tl.int32), 1, mask=(held == 0) & ~done)
    tl.store(m_out + row, maximum)
    tl.store(l_out + row, l)
    tl.store(lse + row, natural)
    tl.store(lse_out + row, natural)
    put(bound_out + row, bound)
    put(key_out + row, key_part)
    put(value_out + row, value_part)
    put(arithmetic_out + row, arithmetic)
    put(tolerance_out + row, limit)
    put(need_out + row, need)
    put(result_bound + row, bound)
    put(result_key + row, key_part)
    put(result_value + row, value_part)
    put(result_arithmetic + row, arithmetic)
    put(result_tolerance + row, limit)
    tl.store(rung_out + row, 0)
    tl.store(status_out + row, OK)
    tl.store(promoted_out + row * 2 + slot, tl.zeros([2], tl.int32))
    tl.store(bytes_out + row, tl.zeros((), tl.int64))
    if row % (H * G) == 0:
        tl.store(position_out + sequence, tl.full((), NONE, tl.int64))
        tl.store(moved_out + sequence, tl.zeros((), tl.int64))


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
    kv_heads, max_blocks = coded.anchor.shape[1], coded.page_table.shape[1]
    bfloat16, out_bfloat16 = (x.dtype == torch.bfloat16 for x in (q, out.output))
    made = out.certificate
    chunks = triton.cdiv(ws.splits, STATES)
    chunks = chunks if chunks <= TILES else TILES // 2
    return Work(
        first_tier_kernel,
        (batch * heads, 1, 1),
        (
            ws.part_m,
            ws.part_l,
            ws.part_o,
            ws.part_terms,
            ws.resident_reference,
            ws.statistics,
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
            ws.splits,
            max_blocks,
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
            "SC": STATES,
            "CHUNKS": chunks,
            "EVEN": ws.splits % (chunks * STATES) == 0,
            "ONCE": ws.splits <= chunks * STATES,
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
