"""Merge a pass and certify every head by its blocks' sums: a few programs per head, of which the last adds up.

    f_s = 2^(m_s - M)      l = sum f_s l_s      o = sum f_s o_s      c = o / l

    sum C  =  sum n (D1' + psi S2)  +  gamma sum (D1 + psi S2)      U, D as in `certkv.fast.spectral`

with sums of shares per block in place of shares per token; `certkv.fast.first_tier` has the twin and the reasons.
"""
# ruff: noqa: E741, SIM108 (l is the softmax state's name; Triton branches on constants)

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from certkv.fast.certificate import Status
from certkv.fast.certify import group_factor
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded
from certkv.fast.finish import NOWHERE, Result
from certkv.fast.first_tier import PRODUCT, PRODUCT_LOST, Opened, operator_root, squares_up
from certkv.fast.kernels.choose import head_totals
from certkv.fast.kernels.finish import store_output
from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    INFINITY,
    exp_minus_lb,
    expm1_ub,
    inflate,
    known,
    load16,
    lowered,
    not_negative,
    psi_ub,
    root_of_squares,
)
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.spectral import (
    first_order,
    mass_lb,
    root_order,
    second_order,
    share_factor,
    value_term,
    weight_lb,
)
from certkv.fast.outward_fp32 import above
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.totals import UNITS, Totals, Unit
from certkv.fast.workspace import Workspace

BLOCKS = 32
"""Blocks that are looked at at once."""

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
ACCEPTED = tl.constexpr(ACCEPT)
OPEN = tl.constexpr(REFINE)
LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
OK = tl.constexpr(int(Status.OK))
NONE = tl.constexpr(NOWHERE)
PRODUCT_UP = tl.constexpr(PRODUCT)


@triton.jit
def shares(total, squares, top, factor, up, lost, root, BLOCK: tl.constexpr, SQUARES_UP: tl.constexpr):
    """Return a block's computed mass and upper bounds of its shares' sum, norm, largest, norm of all but that."""
    squares = squares * SQUARES_UP
    rest = tl.maximum(squares - top * top, 0.0)
    mass = not_negative(total * factor)
    l1 = inflate(mass * up + BLOCK * lost)
    l2 = inflate(not_negative(root_of_squares(squares, BLOCK) * factor) * up + root * lost)
    highest = inflate(not_negative(top * factor) * up + lost)
    others = inflate(not_negative(root_of_squares(rest, BLOCK) * factor) * up + root * lost)
    return mass, l1, l2, highest, others


@triton.jit
def key_parts(l1, l2, top, rest, largest, operator, delta, omega):
    """Return ``n (D1' + psi S2)`` and ``D1 + psi S2`` of blocks whose tokens are all alike; 0 without errors."""
    smaller = tl.minimum(delta, omega)
    curve = psi_ub(smaller)
    first = first_order(l1, l2, top, rest, smaller, omega)
    root = known(operator * root_order(l2, top, smaller, omega))
    second = known(curve * second_order(l1, l2, top, smaller, omega))
    about, of = known(largest * (tl.minimum(first, root) + second)), known(first + second)
    none = smaller == 0.0
    return tl.where(none, 0.0, about), tl.where(none, 0.0, of)


@triton.jit
def load_blocks(
    page, block, valid, head, seen, columns, reference, key_notes, value_notes, H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Read what is known of blocks: statistics, reference, notes; the last is a size, its square, or a norm."""
    place = page.to(tl.int64) * H + head
    total = tl.load(seen + block, mask=valid, other=0.0)
    squares = tl.load(seen + columns + block, mask=valid, other=0.0)
    top = tl.load(seen + 2 * columns + block, mask=valid, other=0.0)
    steps = tl.load(seen + 3 * columns + block, mask=valid, other=0.0)
    operand = tl.load(seen + 4 * columns + block, mask=valid, other=0.0)
    shared = tl.load(reference + block, mask=valid, other=0.0)
    relative = load16(key_notes + place * 4 + 1, valid, True)
    operator = load16(key_notes + place * 4 + 2, valid, True)
    residual = load16(value_notes + place * 7, valid, True)
    length = load16(value_notes + place * 7 + 1, valid, True)
    anchored = load16(value_notes + place * 7 + 2, valid, True)
    residual_operator = load16(value_notes + place * 7 + 4, valid, True)
    anchored_operator = load16(value_notes + place * 7 + 5, valid, True)
    mean = load16(value_notes + place * 7 + 6, valid, True)
    if GROUP > 0:
        used = load16(value_notes + place * 7 + 3, valid, True)
    else:
        used = tl.load(seen + 5 * columns + block, mask=valid, other=0.0)
    return (
        total, squares, top, steps, operand, shared, relative, operator, residual, length, anchored,
        residual_operator, anchored_operator, mean, used,
    )  # fmt: skip


@triton.jit
def at_column(x, COLUMN: tl.constexpr):
    """Take one of the sixteen numbers that parts leave."""
    return tl.sum(tl.where(tl.arange(0, 16) == COLUMN, x, 0.0), 0)


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
    sums,
    arrived,
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
    FIRST: tl.constexpr,
    BFLOAT: tl.constexpr,
    SQUARES_UP: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_BFLOAT: tl.constexpr,
    SP: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
):
    """Part ``program_id(1)`` of P, of channels and of blocks, of head ``program_id(0)`` of all sequences' heads.

    The part that arrives last adds up what all of them left.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    kv = row // G
    sequence, head = kv // H, kv % H
    # what depends on nothing is read first, so that it comes together
    blocks = tl.load(lengths + sequence) // B
    table = page_table + sequence * max_blocks
    block = part * N + tl.arange(0, N)
    page = tl.load(table + block, mask=block < max_blocks, other=0)
    channel = tl.arange(0, DP)
    bits = tl.load(q + row * D + channel, mask=channel < D, other=0)
    s = tl.arange(0, SP)
    m = tl.load(part_m + row * states + s, mask=s < states, other=float("-inf"))
    l = tl.load(part_l + row * states + s, mask=s < states, other=0.0)
    at = part * C + tl.arange(0, C)
    inside = (s < states)[:, None] & (at < D)[None, :]
    o = tl.load(part_o + (row * states + s)[:, None] * D + at[None, :], mask=inside, other=0.0)
    slot = tl.arange(0, 2)
    slot_shared = tl.load(resident_reference + row * 2 + slot)
    columns = max_blocks + 2
    seen = statistics + row * (6 * columns)
    references = reference + row * max_blocks
    valid = (block >= FIRST) & (block < blocks)
    following = load_blocks(page, block, valid, head, seen, columns, references, key_notes, value_notes, H, GROUP)
    finite_query = tl.max(tl.where((bits.to(tl.int32) & 0x7FFF) > (0x7F7F if BFLOAT else 0x7BFF), 1, 0), 0) == 0
    if BFLOAT:
        x = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = bits.to(tl.float16, bitcast=True).to(tl.float32)
    x = tl.abs(x)
    largest_q = tl.max(x, 0)
    norm_q = known(inflate(root_of_squares(tl.sum(x * x, 0), D)))
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor
    power = power_of_two(-query_shift(largest_q, BFLOAT))

    # without any token all maxima are -inf
    maximum = tl.max(m, 0)
    factor = tl.where(m > float("-inf"), tl.exp2(m - maximum), 0.0)
    l = tl.sum(factor * l, 0)
    o = tl.sum(factor[:, None] * o, 0)
    c = tl.div_rn(o, tl.broadcast_to(l, [C]))
    tl.store(o_out + row * D + at, o, mask=at < D)
    tl.store(output + row * D + at, c, mask=at < D)
    store_output(output_out + row * D + at, c, at < D, OUT_BFLOAT)
    c = tl.where(at < D, c, 0.0)
    from_anchor = c - tl.load(anchor + kv * D + at, mask=at < D, other=0.0)

    about = tl.zeros([N], tl.float32)
    of = tl.zeros([N], tl.float32)
    pure_about = tl.zeros([N], tl.float32)
    pure_of = tl.zeros([N], tl.float32)
    values = tl.zeros([N], tl.float32)
    below = tl.zeros([N], tl.float32)
    scale_lb = tl.zeros([N], tl.float32)
    size = tl.zeros([N], tl.float32)
    largest = tl.zeros([N], tl.float32)
    longest = tl.zeros([N], tl.float32)
    farthest = tl.zeros([N], tl.float32)
    for start in range(part * N, blocks, P * N):
        total, squares, top, steps, operand, shared, relative, operator, residual, length, anchored, \
            residual_operator, anchored_operator, mean, used = following  # fmt: skip
        block = start + tl.arange(0, N)
        valid = (block >= FIRST) & (block < blocks)
        after = block + P * N
        more = after < blocks
        page = tl.load(table + after, mask=more, other=0)
        following = load_blocks(page, after, more, head, seen, columns, references, key_notes, value_notes, H, GROUP)
        mass, l1, l2, top, rest = shares(
            total, squares, top, share_factor(shared, maximum, l), share_up, share_lost, root_block, B, SQUARES_UP,
        )  # fmt: skip
        least = mass_lb(mass, mass_down, mass_lost)
        steps = root_of_squares(steps, D) * PRODUCT_UP
        error = known(scale * ((steps + product_lost) * power))
        pure_delta = inflate(known(error * known(relative)))
        pure_omega = inflate(known(error * known(operator)))
        operand = inflate(root_of_squares(operand, D))
        operand = tl.where(operand <= OPERAND, operand, INFINITY)
        sizes = inflate(known(scale * (norm_q * (operand + floor) + query_lost * largest_q)))
        eps = tl.where(sizes <= LARGEST, inflate(coded_relative * sizes + coded_constant), INFINITY)
        delta, omega = inflate(pure_delta + eps), inflate(pure_omega + root_block * eps)
        residual, length, anchored = not_negative(residual), not_negative(length), not_negative(anchored)
        residual_operator, anchored_operator = not_negative(residual_operator), not_negative(anchored_operator)
        mean = not_negative(mean)
        mean = tl.where(mean < INFINITY, mean, 0.0)
        if GROUP > 0:
            used = inflate(not_negative(used) * size_factor)
        else:
            used = inflate(root_of_squares(used, D))
        one, other = key_parts(l1, l2, top, rest, anchored, anchored_operator, delta, omega)
        about += tl.where(valid, one, 0.0)
        of += tl.where(valid, other, 0.0)
        one, other = key_parts(l1, l2, top, rest, anchored, anchored_operator, pure_delta, pure_omega)
        pure_about += tl.where(valid, one, 0.0)
        pure_of += tl.where(valid, other, 0.0)
        values += tl.where(valid, value_term(l1, l2, top, rest, residual, residual_operator), 0.0)
        below += tl.where(valid, weight_lb(l1, l2, top, rest, least, delta, omega), 0.0)
        scale_lb += tl.where(valid, least * mean * DOWN, 0.0)
        size += tl.where(valid, known(l1 * used), 0.0)
        largest = tl.maximum(largest, tl.where(valid, known(used), 0.0))
        longest = tl.maximum(longest, tl.where(valid, length, 0.0))
        farthest = tl.maximum(farthest, tl.where(valid, anchored, 0.0))

    slot_about = 0.0
    slot_of = 0.0
    slot_below = 0.0
    slot_scale = 0.0
    slot_size = 0.0
    slot_largest = 0.0
    if part == 0:
        there = slot_shared > -INFINITY
        to = seen + max_blocks + slot
        mass = not_negative(tl.load(to) * share_factor(slot_shared, maximum, l))
        l1 = inflate(mass * share_up + B * share_lost)
        least = mass_lb(mass, mass_down, mass_lost)
        operand = inflate(root_of_squares(tl.load(to + 4 * columns), D))
        operand = tl.where(operand <= OPERAND, operand, INFINITY)
        sizes = inflate(known(scale * (norm_q * (operand + floor))))
        eps = tl.where(sizes <= LARGEST, inflate(resident_relative * sizes + resident_constant), INFINITY)
        used = not_negative(tl.load(resident_norms + kv * 2 + slot))
        moved = known(expm1_ub(eps) * l1)
        mean = tl.load(to + 5 * columns)
        mean = lowered(tl.where(mean < INFINITY, mean, 0.0))  # squares may have overflowed
        slot_about = tl.sum(tl.where(there, known(moved * used), 0.0), 0)
        slot_of = tl.sum(tl.where(there, moved, 0.0), 0)
        slot_below = tl.sum(tl.where(there, least * exp_minus_lb(eps) * DOWN, 0.0), 0)
        slot_scale = tl.sum(tl.where(there, least * mean * DOWN, 0.0), 0)
        slot_size = tl.sum(tl.where(there, known(l1 * used), 0.0), 0)
        slot_largest = tl.max(tl.where(there, used, 0.0), 0)

    mine = sums + (row * P + part) * 16
    tl.store(mine, tl.sum(c * c, 0))
    tl.store(mine + 1, tl.sum(from_anchor * from_anchor, 0))
    tl.store(mine + 2, tl.sum(about, 0) + slot_about)
    tl.store(mine + 3, tl.sum(of, 0))
    tl.store(mine + 4, tl.sum(pure_about, 0))
    tl.store(mine + 5, tl.sum(pure_of, 0))
    tl.store(mine + 6, tl.sum(values, 0))
    tl.store(mine + 7, tl.sum(below, 0) + slot_below)
    tl.store(mine + 8, tl.sum(scale_lb, 0) + slot_scale)
    tl.store(mine + 9, tl.sum(size, 0) + slot_size)
    tl.store(mine + 10, slot_of)
    tl.store(mine + 11, tl.sum(tl.where(tl.abs(c) < INFINITY, 0.0, 1.0), 0))
    tl.store(mine + 12, tl.maximum(tl.max(largest, 0), slot_largest))
    tl.store(mine + 13, tl.max(longest, 0))
    tl.store(mine + 14, tl.max(farthest, 0))
    tl.store(mine + 15, slot_largest)
    tl.debug_barrier()  # all of the program's numbers are written before it says so
    before = tl.atomic_add(arrived + row, 1, sem="acq_rel", scope="gpu")
    tl.debug_barrier()
    if before != P - 1:
        return
    tl.store(arrived + row, 0)
    every = sums + (row * P + tl.arange(0, P)[:, None]) * 16 + tl.arange(0, 16)[None, :]
    left = tl.load(every, cache_modifier=".cg")
    total = tl.sum(left, 0)
    most = tl.max(known(left), 0)
    norm = known(inflate(root_of_squares(at_column(total, 0), D)))
    gamma = known(inflate(root_of_squares(at_column(total, 1), D)))
    about_slots = known(norm * at_column(total, 10))
    keys = known(inflate(at_column(total, 2) + known(gamma * at_column(total, 3)) + about_slots))
    pure_key = known(inflate(at_column(total, 4) + known(gamma * at_column(total, 5))))
    far = inflate(tl.minimum(at_column(most, 13) + norm, at_column(most, 14) + gamma))
    far = tl.maximum(tl.where(blocks > FIRST, far, 0.0), inflate(at_column(most, 15) + norm))
    tl.store(m_out + row, maximum)
    tl.store(l_out + row, l)
    natural = LN2 * (maximum + tl.log2(l))
    tl.store(lse + row, natural)
    tl.store(lse_out + row, natural)
    bound, key_part, value_part, arithmetic, limit, need, accepted = head_totals(
        keys,
        pure_key,
        at_column(total, 6),
        at_column(total, 7),
        at_column(total, 8),
        at_column(total, 9),
        at_column(most, 12),
        far,
        norm,
        of_mean, of_largest, of_output, absolute, cast_relative, cast_absolute, share, UNIT,
    )  # fmt: skip
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
    done = accepted & finite_query & (at_column(total, 11) == 0.0) & (tl.load(refused + sequence) == OK)
    tl.store(action + row, tl.where(done, ACCEPTED, OPEN).to(tl.uint8))
    if not done:
        tl.store(opened, 1)


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
    parts = opened.sums.shape[2]
    bfloat16, out_bfloat16 = (x.dtype == torch.bfloat16 for x in (q, out.output))
    made = out.certificate
    first_tier_kernel[(batch * heads, parts)](
        q.view(torch.int16),
        ws.part_m,
        ws.part_l,
        ws.part_o,
        ws.reference,
        ws.resident_reference,
        ws.statistics,
        pool.key_notes.view(torch.int16),
        pool.value_notes.view(torch.int16),
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
        opened.sums,
        opened.arrived,
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
        DP=triton.next_power_of_2(head_dim),
        GROUP=group,
        FIRST=coded.first,
        BFLOAT=bfloat16,
        SQUARES_UP=squares_up(coded.block),
        UNIT=UNITS.index(unit),
        OUT_BFLOAT=out_bfloat16,
        SP=triton.next_power_of_2(states),
        P=parts,
        C=triton.next_power_of_2(triton.cdiv(head_dim, parts)),
        N=BLOCKS,
        num_warps=1,
        enable_fp_fusion=False,
    )
