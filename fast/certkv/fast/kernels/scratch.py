"""Scratch: give slots to what refinement will read, and fill them; the rules are in `certkv.fast.scratch`.

    item  =  ((sequence H + head) max_blocks + block) 2 + side      table[item] = slot  <=>  holder[slot] = item

`reserve_kernel` is one program: there are few items, and their slots follow one hand. `fill_kernel` copies pieces of
PIECE numbers each, wide enough for the bus, through the pointer of pinned memory; who copies the first piece enters the
item, which no program looks up before the next kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.choose import Choice
from certkv.fast.host import Originals
from certkv.fast.kernels.levels import needed
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.scratch import Scratch, tile

PIECE = 2048
"""Numbers that a program copies at once: 4 KiB."""

PROGRAMS = 256
"""Programs that copy; 4 KiB in flight each are several times what the bus holds."""

SLOTS_AT_ONCE = 1024
"""Slots that are looked at together."""


@triton.jit(do_not_specialize=["slots", "lists", "max_blocks", "first_round"])
def reserve_kernel(
    work,
    counts,
    chosen,
    levels,
    present,
    table,
    holder,
    used,
    marks,
    listed,
    slots,
    lists,
    max_blocks,
    G: tl.constexpr,
    LISTS: tl.constexpr,
    RANKS: tl.constexpr,
    N: tl.constexpr,
    first_round,
):
    """Mark what is resident; find slots for what is not, from the hand on."""
    now = tl.load(marks + 1) + first_round
    hand = tl.load(marks)
    place = tl.arange(0, 2 * LISTS * RANKS)
    side = place % 2
    need = tl.full((), 0, tl.int32)
    for start in range(0, lists, LISTS):
        kv = (start + place // (2 * RANKS)).to(tl.int64)
        count = tl.load(counts + kv, mask=kv < lists, other=0)
        longest = tl.max(count, 0)
        for first in range(0, longest, RANKS):
            rank = first + (place // 2) % RANKS
            inside = rank < count
            block = tl.load(work + kv * max_blocks + rank, mask=inside, other=0)
            inside &= tl.load(present + kv * max_blocks + block, mask=inside, other=0) != 0
            wanted = tl.zeros_like(place)
            for g in range(G):
                at = (kv * G + g) * max_blocks + block
                mine = tl.load(chosen + at, mask=inside, other=0).to(tl.int32)
                level = tl.load(levels + at, mask=inside, other=0).to(tl.int32)
                keys, values = needed(mine, level)
                wanted |= tl.where(side == 0, keys, values).to(tl.int32)
            inside &= wanted != 0
            item = (kv * max_blocks + block) * 2 + side
            slot = tl.load(table + item, mask=inside, other=0)
            tl.store(used + slot, tl.zeros_like(slot) + now, mask=inside & (slot >= 0))
            new = (inside & (slot < 0)).to(tl.int32)
            to = need + tl.cumsum(new, 0) - 1
            tl.store(listed + to.to(tl.int64) * 2, item.to(tl.int32), mask=(new != 0) & (to < slots))
            need += tl.sum(new, 0)
    # marks of use are read by other threads from here on
    tl.debug_barrier()
    lane = tl.arange(0, N)
    found = tl.full((), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    last = tl.full((), -1, tl.int32)
    while (seen < slots) & (found < need):
        inside = seen + lane < slots
        slot = hand + seen + lane
        slot = tl.where(slot >= slots, slot - slots, slot)
        idle = inside & (tl.load(used + slot, mask=inside, other=0) != now)
        to = found + tl.cumsum(idle.to(tl.int32), 0) - 1
        take = idle & (to < need)
        held = tl.load(holder + slot, mask=take, other=-1)
        # threads that hold the same slot have all read what is overwritten here
        tl.debug_barrier()
        tl.store(table + held, tl.full((N,), -1, tl.int32), mask=held >= 0)
        tl.store(holder + slot, tl.full((N,), -1, tl.int32), mask=take)
        tl.store(used + slot, tl.zeros_like(slot) + now, mask=take)
        tl.store(listed + to.to(tl.int64) * 2 + 1, slot, mask=take)
        last = tl.maximum(last, tl.max(tl.where(take, seen + lane, -1), 0))
        found += tl.sum(take.to(tl.int32), 0)
        seen += N
    tl.store(marks, (hand + last + 1) % slots)
    tl.store(marks + 1, now)
    tl.store(marks + 2, found)


@triton.jit
def fill_kernel(
    keys,
    values,
    pool,
    table,
    holder,
    marks,
    listed,
    moved,
    block_bytes,
    items,
    SIZE: tl.constexpr,
    PIECE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    program=None,
):
    """Copy every PROGRAMS-th piece of what is listed; ``items`` of them are a sequence's."""
    pieces: tl.constexpr = (SIZE + PIECE - 1) // PIECE
    total = tl.load(marks + 2) * pieces
    for index in range(place_of(program)[0], total, PROGRAMS):
        entry, piece = index // pieces, index % pieces
        item = tl.load(listed + entry * 2)
        slot = tl.load(listed + entry * 2 + 1)
        source = tl.where(item % 2 == 0, keys, values) + (item // 2).to(tl.int64) * SIZE
        element = piece * PIECE + tl.arange(0, PIECE)
        inside = element < SIZE
        x = tl.load(source + element, mask=inside, other=0)
        tl.store(pool + slot.to(tl.int64) * SIZE + element, x, mask=inside)
        if piece == 0:
            tl.store(table + item, slot)
            tl.store(holder + slot, item)
            tl.atomic_add(moved + item // items, block_bytes, sem="relaxed")


def work_reserve(choice: Choice, levels: torch.Tensor, originals: Originals, scratch: Scratch, first: bool) -> Work:
    """Return what to launch to give slots."""
    (batch, kv_heads, max_blocks), heads = choice.work.shape, levels.shape[1]
    lists, ranks = tile(batch * kv_heads)
    return Work(
        reserve_kernel,
        (1, 1, 1),
        (
            choice.work,
            choice.counts,
            choice.chosen,
            levels,
            originals.present,
            scratch.table,
            scratch.holder,
            scratch.used,
            scratch.marks,
            scratch.listed,
            scratch.slots,
            batch * kv_heads,
            max_blocks,
        ),
        {
            "G": heads // kv_heads,
            "LISTS": lists,
            "RANKS": ranks,
            "N": min(SLOTS_AT_ONCE, triton.next_power_of_2(max(scratch.slots, 1))),
        },
        {"first_round": int(first)},
    )


def work_fill(originals: Originals, scratch: Scratch, moved: torch.Tensor) -> Work:
    """Return what to launch to fill slots."""
    size = originals.keys.shape[-2] * originals.keys.shape[-1]
    programs = min(PROGRAMS, max(scratch.slots, 1) * -(-size // PIECE))
    return Work(
        fill_kernel,
        (programs, 1, 1),
        (
            originals.keys.view(torch.int16),
            originals.values.view(torch.int16),
            scratch.pool.view(torch.int16),
            scratch.table,
            scratch.holder,
            scratch.marks,
            scratch.listed,
            moved,
            originals.host_block_bytes,
            2 * originals.present[0].numel(),
        ),
        {"SIZE": size, "PIECE": min(PIECE, triton.next_power_of_2(size)), "PROGRAMS": programs},
        {},
    )


def launch(
    choice: Choice,
    levels: torch.Tensor,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    first: bool,
) -> None:
    """Launch the kernels; arguments as those of `certkv.fast.scratch.fetch_twin`, contiguous."""
    if scratch.slots:
        work_reserve(choice, levels, originals, scratch, first).launch(8)
        work_fill(originals, scratch, moved).launch(4)
