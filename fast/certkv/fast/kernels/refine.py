"""Refine: read the originals of chosen blocks, and put states and weights right; formulas in `certkv.fast.refine`.

    r'  =  max(r, max c q.k - 14)      P'  =  fp16( 2^(c q.k - r') )      w  =  P 2^(r - m)      w'  =  P' 2^(r' - m)
    l  +=  sum (w' - w)                o  +=  sum (w' - w) V_before + sum w' (V_after - V_before)

`refine_kernel`: a KV head of all sequences', every SPLITS-th entry of its work list; all heads of the
group at once, so that an original is read once; `certkv.fast.kernels.settle` joins what the programs summed. Originals
are read from scratch where they are resident, else through the pointer they have, pinned or not; it is one kernel with
scratch and without, so that both give the same bits. Programs of the ladder bring a block from the host in whole lines
before they read it tile by tile (`bring`): a tile has rows of 32 bytes, of which the bus of an H200 carried 21 GB/s,
where it carries 50. Everything is binary32, without fusion and without tensor cores: there is little to compute and
much to wait for.

Where formats have planes, a block may also go to one, or from it: the levels of a head's keys and values before and
after are 0 for the base, 1 to n for the planes, n + 1 for the original (`certkv.fast.levels`).

Keys in the rotated basis are scored with the rotated query, which a program writes for itself, at any coded level. Of
values in that basis the corrections are summed apart, and turned back once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from certkv.fast.choose import Choice
from certkv.fast.coded import Coded
from certkv.fast.host import Originals
from certkv.fast.kernels.levels import (
    KEY_SHIFT,
    KEYS_MOVE,
    VALUE_SHIFT,
    VALUES_MOVE,
    joined_levels,
    level_of,
    needed,
    needed_planes,
)
from certkv.fast.kernels.outward_fp32 import load16, not_negative
from certkv.fast.kernels.rotation import rotate
from certkv.fast.kernels.settle import work_settle
from certkv.fast.kernels.stored import key_levels, level_constants, or_nothing, plane_bytes, value_levels
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.pool import FINER_VALUE_NOTES, VALUE_NOTES
from certkv.fast.refine import (
    DECODED,
    FINER_DECODED,
    ORIGINAL_NORM,
    SPLITS,
    Check,
    Corrections,
    FinerRead,
    State,
    bits_per_score,
)
from certkv.fast.workspace import BIAS

if TYPE_CHECKING:
    from certkv.fast.scratch import Scratch

CHANNELS = 16
"""Channels of a tile."""

HEADROOM = tl.constexpr(BIAS)
NOTES, AT_NORM, AT_DECODED = (tl.constexpr(x) for x in (len(VALUE_NOTES), ORIGINAL_NORM, DECODED))
FINER_NOTES, AT_FINER = tl.constexpr(len(FINER_VALUE_NOTES)), tl.constexpr(FINER_DECODED)


@triton.jit
def note(pointer):
    """Load a norm from a block's notes, which are bfloat16 numbers given as int16 patterns."""
    return not_negative((tl.load(pointer).to(tl.int32) << 16).to(tl.float32, bitcast=True))


@triton.jit
def bring(source, brought, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Copy an original block to where this program of the ladder keeps one, and return where that is."""
    to = brought + tl.program_id(0).to(tl.int64) * SIZE
    element = tl.arange(0, PADDED)
    # the program's other threads have read what is overwritten, and read what is written
    tl.debug_barrier()
    tl.store(to + element, tl.load(source + element, mask=element < SIZE, other=0), mask=element < SIZE)
    tl.debug_barrier()
    return to


@triton.jit
def moved_share(w, w_new, dw, was, now):
    """Return what a level's values are to be added with, [GP, BP], for heads that leave it, come to it, or stay."""
    left = tl.where(was[:, None], -w, 0.0)
    return tl.where((was & now)[:, None], dw, tl.where(now[:, None], w_new, left))


@triton.jit(do_not_specialize=["slots"])
def refine_kernel(
    q,
    c,
    to_nats,
    guard,
    relative,
    keys,
    values,
    present,
    pool,
    table,
    slots,
    key_codes,
    key_step,
    key_minimum,
    key_norm,
    value_codes,
    value_step,
    value_minimum,
    value_notes,
    page_table,
    delta,
    size,
    dense,
    chosen,
    work,
    counts,
    weights,
    reference,
    levels,
    maxima,
    missing,
    moved,
    block_bytes,
    change_l,
    change_o,
    change_turned,
    change_lost,
    turned_query,
    brought,
    key_planes,
    value_planes,
    finer_value_notes,
    planes_present,
    finer_delta,
    finer_stride,
    planes_move,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,
    B: tl.constexpr,
    BP: tl.constexpr,
    KEY_ROWS: tl.constexpr,
    KEY_BITS: tl.constexpr,
    KEY_GROUP: tl.constexpr,
    NORMS: tl.constexpr,
    TURNED_KEYS: tl.constexpr,
    R: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    TURNED_VALUES: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    BRINGS: tl.constexpr,
    BFLOAT: tl.constexpr,
    KEY_PLANES: tl.constexpr,
    KEY_CELLS: tl.constexpr,
    KEY_OFFSETS: tl.constexpr,
    VALUE_PLANES: tl.constexpr,
    VALUE_CELLS: tl.constexpr,
    VALUE_OFFSETS: tl.constexpr,
    program=None,
):
    """Correct what every S-th block of a KV head's list changes."""
    list_, split, _batch = place_of(program)
    kv = list_.to(tl.int64)
    count = tl.load(counts + kv)
    NK: tl.constexpr = len(KEY_PLANES)
    NV: tl.constexpr = len(VALUE_PLANES)
    if split < count:
        sequence, head = kv // H, kv % H
        g = tl.arange(0, GP)
        row = kv * G + g
        heads = g < G
        token = tl.arange(0, BP)
        there = token < B
        both = heads[:, None] & there[None, :]
        channel = tl.arange(0, C)
        m = tl.load(maxima + row, mask=heads, other=0.0)
        sum_l = tl.zeros((GP,), tl.float32)
        moved_l = tl.zeros((GP,), tl.float32)
        moved_o = tl.zeros((GP,), tl.float32)
        fetched = tl.full((), 0, tl.int32)
        fetched_planes = tl.full((), 0, tl.int64)
        if TURNED_KEYS:
            # programs of a list write the same numbers; each reads what it wrote
            whole = tl.arange(0, DP)
            whole_mask = heads[:, None] & (whole < D)[None, :]
            whole_at = row[:, None] * D + whole[None, :]
            tl.store(turned_query + whole_at, rotate(load16(q + whole_at, whole_mask, BFLOAT), D), mask=whole_mask)
            tl.debug_barrier()
        sum_o = ()
        sum_turned = ()
        for _ in tl.static_range((D + C - 1) // C):
            # Triton adds tuples, it does not unpack them
            sum_o = sum_o + (tl.zeros((GP, C), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
            if TURNED_VALUES:
                sum_turned = sum_turned + (tl.zeros((GP, C), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
        for item in range(split, count, S):
            block = tl.load(work + kv * max_blocks + item)
            absent = tl.load(present + kv * max_blocks + block) == 0
            key_count = tl.full((), 0, tl.int32)
            value_count = tl.full((), 0, tl.int32)
            if NK + NV > 0:
                # only what is read has to be there
                asked = tl.load(chosen + row * max_blocks + block, mask=heads, other=0).to(tl.int32)
                held = tl.load(levels + row * max_blocks + block, mask=heads, other=0).to(tl.int32)
                of_keys, of_values = needed(asked, held)
                of_key_planes, of_value_planes = needed_planes(asked, held)
                reads_keys = tl.max(of_keys.to(tl.int32), 0) != 0
                key_count = tl.max(of_key_planes, 0)
                value_count = tl.max(of_value_planes, 0)
                absent &= reads_keys | (tl.max(of_values.to(tl.int32), 0) != 0)
                page = tl.load(page_table + sequence * max_blocks + block).to(tl.int64)
                gone = tl.load(planes_present + page * H + head) == 0
                absent |= gone & (key_count + value_count > 0)
            if absent:
                tl.store(missing + sequence, 1)
            else:
                at = row * max_blocks + block
                executed = (kv * max_blocks + block) * G + g
                mine = tl.load(chosen + at, mask=heads, other=0).to(tl.int32)
                level = tl.load(levels + at, mask=heads, other=0).to(tl.int32)
                new_keys, new_values = (mine & 1) != 0, ((mine & 2) != 0) & ((level & 2) == 0)
                was = (level & 2) != 0
                changed, then = (mine & 3) != 0, level | (mine & 3)
                scores_any = tl.max(((mine & 5) != 0).to(tl.int32), 0) != 0
                if NK + NV > 0:
                    changed, then = (mine & (KEYS_MOVE | VALUES_MOVE)) != 0, joined_levels(level, mine)
                    was_k, now_k = level_of(level, 1, KEY_SHIFT, NK), level_of(then, 1, KEY_SHIFT, NK)
                    was_v, now_v = level_of(level, 2, VALUE_SHIFT, NV), level_of(then, 2, VALUE_SHIFT, NV)
                    new_keys = was_k != now_k
                    to_plane = new_keys & (now_k <= NK)
                    scores_any = reads_keys | (key_count > 0)
                    fetched_planes += plane_bytes(key_count, B, D, KEY_PLANES) * planes_move
                    fetched_planes += plane_bytes(value_count, B, D, VALUE_PLANES) * planes_move
                ref = tl.load(reference + executed, mask=heads, other=0.0)
                ref_new = ref
                which = kv * max_blocks + block
                key_slot = tl.load(table + which * 2, mask=slots > 0, other=-1).to(tl.int64)
                value_slot = tl.load(table + which * 2 + 1, mask=slots > 0, other=-1).to(tl.int64)
                key_at = tl.where(key_slot >= 0, pool + key_slot * (B * D), keys + which * (B * D))
                value_at = tl.where(value_slot >= 0, pool + value_slot * (B * D), values + which * (B * D))
                p = tl.load(weights + executed[:, None] * B + token[None, :], mask=both, other=0.0)
                p_new = p
                page = tl.load(page_table + sequence * max_blocks + block).to(tl.int64)
                place = page * H + head
                scored, read_values = needed(mine, level)
                wanted = tl.max(read_values.to(tl.int32), 0) != 0
                fetched += tl.where(wanted & (value_slot < 0), 1, 0)
                if scores_any:
                    if NK + NV > 0:
                        fetched += tl.where(reads_keys & (key_slot < 0), 1, 0)
                    else:
                        fetched += tl.where(key_slot < 0, 1, 0)
                    if BRINGS:
                        away = key_slot < 0
                        if NK + NV > 0:
                            away &= reads_keys
                        if away:
                            key_at = bring(key_at, brought, B * D, BP * DP)
                    x = tl.zeros((GP, BP), tl.float32)
                    near_x = tl.zeros((GP, BP), tl.float32)  # of every head, at its level
                    coded_x = tl.zeros((GP, BP), tl.float32)
                    for first in range(0, D, C):
                        inside = first + channel < D
                        query = load16(
                            q + row[:, None] * D + first + channel[None, :], heads[:, None] & inside[None, :], BFLOAT
                        )
                        mask = there[:, None] & inside[None, :]
                        read = mask
                        if NK + NV > 0:
                            read = mask & reads_keys
                        key = load16(key_at + token[:, None] * D + first + channel[None, :], read, BFLOAT)
                        of_levels = key_levels(
                            key_codes, key_planes, key_step, key_minimum, place, token, first + channel, mask,
                            key_count, KEY_ROWS, B, D, KEY_BITS, KEY_GROUP, BFLOAT, KEY_PLANES, KEY_CELLS, KEY_OFFSETS,
                        )  # fmt: skip
                        x += tl.sum(query[:, None, :] * key[None, :, :], 2)
                        if TURNED_KEYS:
                            query = tl.load(
                                turned_query + row[:, None] * D + first + channel[None, :],
                                mask=heads[:, None] & inside[None, :],
                                other=0.0,
                            )
                        coded_x += tl.sum(query[:, None, :] * tl.where(mask, of_levels[0], 0.0)[None, :, :], 2)
                        for j in tl.static_range(1, NK + 1):
                            of_level = tl.sum(query[:, None, :] * tl.where(mask, of_levels[j], 0.0)[None, :, :], 2)
                            near_x += tl.where((now_k == j)[:, None], of_level, 0.0)
                    if NORMS > 0:
                        of_tokens = page * NORMS + (head if NORMS > 1 else 0)
                        norm = tl.load(key_norm + of_tokens * B + token, mask=there, other=0.0)
                        coded_x = coded_x * norm[None, :]
                        near_x = near_x * norm[None, :]
                    error = tl.load(delta + at, mask=heads, other=0.0)
                    if NK > 0:
                        x = tl.where(to_plane[:, None], near_x, x)
                        near = finer_delta + at + (now_k - 1) * finer_stride
                        error += tl.load(near, mask=heads & to_plane, other=0.0)
                        scored |= to_plane
                    in_bits = x * c
                    top = tl.max(tl.where(there[None, :], in_bits, float("-inf")), 1) - HEADROOM
                    ref_new = tl.where(new_keys, tl.maximum(ref, top), ref)
                    after = tl.exp2(in_bits - ref_new[:, None]).to(tl.float16)
                    p_new = tl.where(new_keys[:, None] & there[None, :], after, p)
                    allowed = error + guard + relative * tl.load(size + at, mask=heads, other=0.0)
                    apart = tl.abs(x - coded_x) * to_nats
                    wrong = ~(apart <= allowed[:, None]) & scored[:, None] & there[None, :]
                    if tl.max(tl.max(wrong.to(tl.int32), 1), 0) != 0:
                        tl.store(dense + sequence, 1)
                w = p.to(tl.float32) * tl.where(changed, tl.exp2(ref - m), 0.0)[:, None]
                w_new = p_new.to(tl.float32) * tl.where(changed, tl.exp2(ref_new - m), 0.0)[:, None]
                dw = w_new - w
                fresh = tl.where(new_values[:, None], w_new, 0.0)
                norm_exact = note(value_notes + place * NOTES + AT_NORM)
                norm_coded = note(value_notes + place * NOTES + AT_DECODED)
                norm_was = tl.where(was, norm_exact, norm_coded)
                norm_now = tl.where(was | new_values, norm_exact, norm_coded)
                both_sides = new_keys & new_values
                if NV > 0:
                    for j in tl.static_range(1, NV + 1):
                        norm_near = note(finer_value_notes + (place * NV + j - 1) * FINER_NOTES + AT_FINER)
                        norm_was = tl.where(was_v == j, norm_near, norm_was)
                        norm_now = tl.where(now_v == j, norm_near, norm_now)
                # where both sides change, w' V_after - w V_before: no product of a new weight and an old value
                of_before = tl.where(both_sides[:, None], -w, dw)
                sum_l += tl.sum(dw, 1)
                out, into = tl.sum(w, 1), tl.sum(w_new, 1)
                moved_l += tl.where(new_keys, out + into, 0.0)
                moved_o += out * norm_was + into * norm_now
                if BRINGS:  # noqa: SIM102 (one of them is a constant)
                    if wanted & (value_slot < 0):
                        value_at = bring(value_at, brought, B * D, BP * DP)
                joined = ()
                joined_turned = ()
                for part in tl.static_range((D + C - 1) // C):
                    here = part * C + channel
                    mask = there[:, None] & (here < D)[None, :]
                    of_levels = value_levels(
                        value_codes, value_planes, value_step, value_minimum, place, token, here, mask, value_count, R,
                        B, D, BITS, GROUP, BFLOAT, VALUE_PLANES, VALUE_CELLS, VALUE_OFFSETS,
                    )  # fmt: skip
                    coded = tl.where(mask, of_levels[0], 0.0)
                    exact = load16(value_at + token[:, None] * D + here[None, :], mask & wanted, BFLOAT)
                    if NV > 0:
                        # w' V_after - w V_before, level by level, originals last
                        of_coded = tl.zeros((GP, C), tl.float32)
                        for j in tl.static_range(NV + 1):
                            share = moved_share(w, w_new, dw, was_v == j, now_v == j)
                            of_level = tl.where(mask, of_levels[j], 0.0)
                            of_coded += tl.sum(share[:, :, None] * of_level[None, :, :], 1)
                        share = moved_share(w, w_new, dw, was_v > NV, now_v > NV)
                        change = tl.sum(share[:, :, None] * exact[None, :, :], 1)
                        if TURNED_VALUES:
                            turned = sum_turned[part] + of_coded
                            joined_turned = joined_turned + (turned,)  # type: ignore[assignment]  # noqa: RUF005
                        else:
                            change += of_coded
                    elif TURNED_VALUES:
                        # what is original and what is coded
                        of_exact = tl.where(was[:, None], dw, fresh)
                        of_coded = tl.where(both_sides[:, None], -w, dw - fresh)
                        of_coded = tl.where(was[:, None], 0.0, of_coded)
                        change = tl.sum(of_exact[:, :, None] * exact[None, :, :], 1)
                        turned = tl.sum(of_coded[:, :, None] * coded[None, :, :], 1)
                        turned = sum_turned[part] + turned
                        joined_turned = joined_turned + (turned,)  # type: ignore[assignment]  # noqa: RUF005
                    else:
                        before = tl.where(was[:, None, None], exact[None, :, :], coded[None, :, :])
                        change = tl.sum(of_before[:, :, None] * before, 1)
                        behind = exact[None, :, :] - tl.where(both_sides[:, None, None], 0.0, coded[None, :, :])
                        change += tl.sum(fresh[:, :, None] * behind, 1)
                    joined = joined + (sum_o[part] + change,)  # type: ignore[assignment]  # noqa: RUF005
                sum_o = joined
                sum_turned = joined_turned
                tl.store(weights + executed[:, None] * B + token[None, :], p_new, mask=both & changed[:, None])
                tl.store(levels + at, then.to(tl.uint8), mask=heads & changed)
                tl.store(reference + executed, ref_new, mask=heads & new_keys)
        moved_here = fetched.to(tl.int64) * block_bytes + fetched_planes
        tl.atomic_add(moved + sequence, moved_here, mask=moved_here > 0, sem="relaxed")
        to = row * S + split
        tl.store(change_l + to, sum_l, mask=heads)
        tl.store(change_lost + to * 2, moved_l, mask=heads)
        tl.store(change_lost + to * 2 + 1, moved_o, mask=heads)
        for part in tl.static_range((D + C - 1) // C):
            here = part * C + channel
            at = to[:, None] * D + here[None, :]
            mask = heads[:, None] & (here < D)[None, :]
            tl.store(change_o + at, sum_o[part], mask=mask)
            if TURNED_VALUES:
                tl.store(change_turned + at, sum_turned[part], mask=mask)


def work_refine(
    q: torch.Tensor,
    scale: float,
    coded: Coded,
    originals: Originals,
    scratch: Scratch,
    delta: torch.Tensor,
    choice: Choice,
    state: State,
    missing: torch.Tensor,
    moved: torch.Tensor,
    check: Check,
    sums: Corrections,
    finer: FinerRead | None = None,
    brings: bool = False,
) -> Work:
    """Return what to launch to read and to correct; ``brings``: whether ``sums.brought`` has room for its programs."""
    pool, (batch, heads, head_dim) = coded.pool, q.shape
    kv_heads, group = coded.anchor.shape[1], heads // coded.anchor.shape[1]
    nothing = originals.present
    sides: tuple[tuple[torch.Tensor, ...], ...] = ((), ()) if finer is None else finer.planes.sides
    of_keys, of_values = coded.planar
    levels = {
        **level_constants(of_keys, "KEY", finer is not None),
        **level_constants(of_values, "VALUE", finer is not None),
    }
    return Work(
        refine_kernel,
        (batch * kv_heads, SPLITS, 1),
        (
            q.view(torch.int16),
            bits_per_score(scale),
            abs(scale),
            check.guard,
            check.relative,
            originals.keys.view(torch.int16),
            originals.values.view(torch.int16),
            originals.present,
            scratch.pool.view(torch.int16),
            scratch.table,
            scratch.slots,
            pool.key_codes,
            pool.key_step.view(torch.int16),
            pool.key_minimum.view(torch.int16),
            pool.key_norm,
            pool.value_codes,
            pool.value_step.view(torch.int16),
            pool.value_minimum.view(torch.int16),
            pool.value_notes.view(torch.int16),
            coded.page_table,
            delta,
            check.size,
            check.dense,
            choice.chosen,
            choice.work,
            choice.counts,
            state.weights,
            state.reference,
            state.levels,
            state.m,
            missing,
            moved,
            originals.host_block_bytes,
            sums.l,
            sums.o,
            sums.turned,
            sums.lost,
            sums.query,
            sums.brought if brings else sums.query,
            *(or_nothing(side, nothing) for side in sides),
            (pool.value_notes if finer is None else pool.finer_value_notes).view(torch.int16),
            nothing if finer is None else finer.planes.present,
            delta if finer is None else finer.delta,
            delta.numel(),
            int(finer is not None and finer.planes.place == "host"),
            coded.page_table.shape[1],
        ),
        {
            "H": kv_heads,
            "G": group,
            "GP": triton.next_power_of_2(group),
            "B": coded.block,
            "BP": triton.next_power_of_2(coded.block),
            "KEY_ROWS": pool.key_codes.shape[2],
            "KEY_BITS": coded.key_bits,
            "KEY_GROUP": coded.key_group,
            "NORMS": coded.key_norms,
            "TURNED_KEYS": coded.keys_rotated,
            "R": pool.value_codes.shape[2],
            "BITS": coded.value_bits,
            "GROUP": coded.value_group,
            "TURNED_VALUES": coded.values_rotated,
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            # every level of a tile is held at once; wider heads have twice the threads
            "C": CHANNELS // 2 if max(len(side) for side in sides) > 1 and head_dim <= 128 else CHANNELS,
            "S": SPLITS,
            "BRINGS": brings,
            "BFLOAT": pool.value_step.dtype == torch.bfloat16,
            **levels,
        },
        {},
    )


def launch(
    q: torch.Tensor,
    scale: float,
    coded: Coded,
    originals: Originals,
    scratch: Scratch,
    delta: torch.Tensor,
    choice: Choice,
    state: State,
    missing: torch.Tensor,
    moved: torch.Tensor,
    check: Check,
    work: Corrections,
    before: torch.Tensor | None,
    finer: FinerRead | None = None,
) -> None:
    """Launch the kernels; arguments as those of `certkv.fast.refine.refine_twin`, contiguous."""
    made = work_refine(q, scale, coded, originals, scratch, delta, choice, state, missing, moved, check, work, finer)
    made.launch(4 if q.shape[1] // coded.anchor.shape[1] <= 4 and q.shape[2] <= 128 else 8)
    partial = work.l if before is None else before
    work_settle(choice, state, work, partial, before is not None).launch(4)
