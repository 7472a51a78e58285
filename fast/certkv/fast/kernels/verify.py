"""Verify within a step: one program per coded block, or slot, of a KV head; `certkv.fast.verify` says what is compared.

    wrong  =  sum_i m_i w_i  !=  what was kept when the record was written

Programs of a sequence keep the smallest offender.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certificate import Status
from certkv.fast.checksum import Checksums, pool_fields, resident_fields, shares, sizes, starts
from certkv.fast.choose import EXACT_HEAD
from certkv.fast.coded import Coded
from certkv.fast.finish import Result
from certkv.fast.host import Originals
from certkv.fast.kernels.checksum import OWNER_WEIGHT, WARPS, patterns, records, resident_constants, resident_total
from certkv.fast.resident import Resident
from certkv.fast.scratch import Scratch
from certkv.fast.verify import NOBODY, Read

ENTRIES = 1024
"""Entries of a page table that a program looks at at once."""

NONE = tl.constexpr(NOBODY)
OK = tl.constexpr(int(Status.OK))
HOST_MISSING = tl.constexpr(int(Status.HOST_MISSING))
CHECKSUM = tl.constexpr(int(Status.CHECKSUM))
NEEDS_DENSE = tl.constexpr(int(Status.NEEDS_DENSE))
GIVEN_UP = tl.constexpr(EXACT_HEAD)


@triton.jit(do_not_specialize=["pages", "capacity", "max_blocks"])
def guard_kernel(
    page_table,
    lengths,
    length_sums,
    safe_table,
    safe_lengths,
    offender,
    pages,
    capacity,
    max_blocks,
    H: tl.constexpr,
    B: tl.constexpr,
    N: tl.constexpr,
):
    """Copy part ``program_id(1)`` of the page table of sequence ``program_id(0)``."""
    s = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + s)
    safe = tl.minimum(tl.maximum(length, 1), capacity)
    unit = tl.program_id(1) * N + tl.arange(0, N)
    inside = unit < max_blocks
    page = tl.load(page_table + s * max_blocks + unit, mask=inside, other=0)
    there = (page >= 0) & (page < pages)
    tl.store(safe_table + s * max_blocks + unit, tl.where(there, page, 0), mask=inside)
    wrong = inside & (unit < safe // B) & ~there
    first = tl.min(tl.where(wrong, unit * H, NONE), 0)
    if tl.program_id(1) == 0:
        tl.store(safe_lengths + s, safe)
        if (length != safe) | (length != tl.load(length_sums + s)):
            first = tl.minimum(first, (max_blocks + 2) * H)
    if first < NONE:
        tl.atomic_min(offender + s, first)


@triton.jit
def original(store, scratch, slots, at, item, BLOCK_BYTES: tl.constexpr, SLOTS: tl.constexpr, N: tl.constexpr):
    """Sum an original where the step has read it: in scratch if it is there."""
    slot = tl.full((), -1, tl.int32)
    if SLOTS > 0:
        slot = tl.load(slots + item)
    if (slot >= 0) & (slot < SLOTS):
        total = records((scratch,), slot.to(tl.int64), (0,), (BLOCK_BYTES,), (1,), N)
    else:
        total = records((store,), at, (0,), (BLOCK_BYTES,), (1,), N)
    return total


@triton.jit(do_not_specialize=["max_blocks", "side"])
def verify_kernel(
    fields,
    page_table,
    lengths,
    sums,
    keys,
    values,
    scratch,
    slots,
    present,
    original_sums,
    side,
    levels,
    action,
    held,
    anchor,
    resident_sums,
    offender,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    FIRST: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    SLOTS: tl.constexpr,
    POOL_STARTS: tl.constexpr,
    POOL_SIZES: tl.constexpr,
    POOL_SHARES: tl.constexpr,
    STARTS: tl.constexpr,
    SIZES: tl.constexpr,
    ANCHOR_START: tl.constexpr,
    ANCHOR: tl.constexpr,
    N: tl.constexpr,
):
    """Compare unit ``program_id(1)`` of KV head ``program_id(0)`` of all sequences'."""
    kv = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1)
    sequence, head = kv // H, kv % H
    wrong = 0
    if unit >= max_blocks:
        row = kv * 2 + unit - max_blocks
        total = resident_total(held, anchor, row, STARTS, SIZES, ANCHOR_START, ANCHOR, N)
        wrong = (total != tl.load(resident_sums + row)).to(tl.int32)
    elif unit < tl.load(lengths + sequence) // B:
        page = tl.load(page_table + sequence * max_blocks + unit).to(tl.int64)
        row = page * H + head
        owner = (sequence * max_blocks + unit).to(tl.int64)
        total = records(fields, row, POOL_STARTS, POOL_SIZES, POOL_SHARES, N) + owner * OWNER_WEIGHT
        wrong = (total != tl.load(sums + row)).to(tl.int32)
        at = kv * max_blocks + unit
        level = 0
        for g in tl.static_range(G):
            level |= tl.load(levels + (kv * G + g) * max_blocks + unit).to(tl.int32)
            if EXACT:
                # of a block that is pinned the resident copy is read
                level |= tl.where((tl.load(action + kv * G + g) == GIVEN_UP) & (unit >= FIRST), 3, 0)
        level = tl.where(tl.load(present + at) != 0, level, 0)
        if (level & 1) != 0:
            total = original(keys, scratch, slots, at, at * 2, BLOCK_BYTES, SLOTS, N)
            wrong |= (total != tl.load(original_sums + at)).to(tl.int32)
        if (level & 2) != 0:
            total = original(values, scratch, slots, at, at * 2 + 1, BLOCK_BYTES, SLOTS, N)
            wrong |= (total != tl.load(original_sums + side + at)).to(tl.int32)
    if wrong != 0:
        tl.atomic_min(offender + sequence, (unit * H + head).to(tl.int32))


@triton.jit
def withdraw_kernel(
    offender,
    output,
    lse,
    bound,
    key,
    value,
    arithmetic,
    tolerance,
    rung,
    status,
    promoted,
    host_bytes,
    position,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    NAN_BITS: tl.constexpr,
):
    """Take back what head ``program_id(0)`` of all sequences' heads returns, where its sequence has an offender."""
    row = tl.program_id(0).to(tl.int64)
    sequence = row // HEADS
    found = tl.load(offender + sequence)
    was = tl.load(status + row)
    ours = (was == OK) | (was == HOST_MISSING) | (was == CHECKSUM) | (was == NEEDS_DENSE)
    if (found != NONE) & ours:
        channel = tl.arange(0, DP)
        tl.store(output + row * D + channel, tl.full((DP,), NAN_BITS, output.dtype.element_ty), mask=channel < D)
        tl.store(lse + row, float("nan"))
        tl.store(bound + row, float("inf"))
        tl.store(key + row, float("inf"))
        tl.store(value + row, float("inf"))
        tl.store(arithmetic + row, float("inf"))
        tl.store(tolerance + row, float("inf"))
        tl.store(rung + row, 0)
        tl.store(status + row, CHECKSUM)
        tl.store(promoted + row * 2, 0)
        tl.store(promoted + row * 2 + 1, 0)
        tl.store(host_bytes + row, 0)
        if row % HEADS == 0:
            tl.store(position + sequence, found.to(tl.int64))


def withdraw(offender: torch.Tensor, out: Result) -> None:
    """Launch; see `certkv.fast.verify.withdraw_twin`."""
    batch, heads, head_dim = out.output.shape
    made = out.certificate
    kind, pattern = {
        torch.float32: (torch.int32, 0x7FC00000),
        torch.float16: (torch.int16, 0x7E00),
        torch.bfloat16: (torch.int16, 0x7FC0),
    }[out.output.dtype]
    withdraw_kernel[(batch * heads,)](
        offender,
        out.output.view(kind),
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
        HEADS=heads,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        NAN_BITS=pattern,
        num_warps=1,
    )


def guard(
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    sums: Checksums,
    pages: int,
    capacity: int,
    block: int,
    safe_table: torch.Tensor,
    safe_lengths: torch.Tensor,
    offender: torch.Tensor,
) -> None:
    """Launch; see `certkv.fast.verify.guard_twin`."""
    batch, max_blocks = page_table.shape
    guard_kernel[(batch, triton.cdiv(max_blocks, ENTRIES))](
        page_table,
        lengths,
        sums.lengths,
        safe_table,
        safe_lengths,
        offender,
        pages,
        capacity,
        max_blocks,
        H=sums.blocks.shape[1],
        B=block,
        N=ENTRIES,
        num_warps=4,
    )


def verify(
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    sums: Checksums,
    read: Read,
    offender: torch.Tensor,
) -> None:
    """Launch; see `certkv.fast.verify.verify_twin`."""
    batch, heads, max_blocks = originals.present.shape
    of_pool = pool_fields(coded.pool)
    verify_kernel[(batch * heads, max_blocks + 2)](
        patterns(of_pool),
        coded.page_table,
        coded.lengths,
        sums.blocks,
        *patterns((originals.keys.flatten(0, 2), originals.values.flatten(0, 2))),
        *patterns((scratch.pool,)),
        scratch.table,
        originals.present,
        sums.originals,
        originals.present.numel(),
        read.levels,
        read.action,
        patterns(resident_fields(resident)),
        *patterns((coded.anchor.flatten(0, 1),)),
        sums.resident,
        offender,
        max_blocks,
        H=heads,
        G=read.levels.shape[1] // heads,
        B=coded.block,
        FIRST=coded.first,
        EXACT=read.exact,
        BLOCK_BYTES=originals.block_bytes,
        SLOTS=scratch.slots,
        POOL_STARTS=starts(sizes(of_pool)),
        POOL_SIZES=sizes(of_pool),
        POOL_SHARES=shares(of_pool),
        num_warps=WARPS,
        **resident_constants(coded.anchor, resident),
    )
