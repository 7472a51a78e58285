"""Sum words with weights: checksums of records, one program per record; the formula is in `certkv.fast.checksum`.

    S  =  sum_i  m_i w_i   mod 2^64

Other kernels may sum what they hold anyway: `sixteen` gives the terms of a tile of 16-bit numbers. The order of
summation is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from certkv.fast import checksum
from certkv.fast.checksum import (
    FACTORS,
    M31,
    OWNER,
    SHIFT,
    anchor_start,
    pool_fields,
    resident_fields,
    shares,
    sizes,
    starts,
)
from certkv.fast.pool import Pool
from certkv.fast.resident import FIRST, TAIL, Resident

if TYPE_CHECKING:
    from certkv.fast.checksum import Checksums

LANES = 512
"""Words that a program looks at at once."""

WARPS = 4

FACTOR_A = tl.constexpr(FACTORS[0])
FACTOR_B = tl.constexpr(FACTORS[1])
MIXED = tl.constexpr(SHIFT)
MASK = tl.constexpr(M31)
FIRST_SLOT = tl.constexpr(FIRST)
TAIL_SLOT = tl.constexpr(TAIL)
OWNER_WEIGHT = tl.constexpr(int(checksum.weight(torch.tensor(OWNER))))


@triton.jit
def weight(index):
    """Weights of word indices, uint32 -> uint64."""
    x = (index * FACTOR_A) & MASK
    x = x ^ (x >> MIXED)
    x = (x * FACTOR_B) & MASK
    x = x ^ (x >> MIXED)
    return ((x << 1) | 1).to(tl.uint64)


@triton.jit
def sixteen(bits, element):
    """Terms of 16-bit patterns at element indices of a record that begins with them; uint64, to be summed.

    Parameters
    ----------
    bits : int16, any shape
    element : int32, that shape
        ``token * d + channel`` for a block.
    """
    word = (bits.to(tl.int32) & 0xFFFF).to(tl.uint32) << ((element & 1) * 16).to(tl.uint32)
    return word.to(tl.uint64) * weight((element >> 1).to(tl.uint32))


@triton.jit
def record(total, field, row, START: tl.constexpr, BYTES: tl.constexpr, N: tl.constexpr):
    """Add the terms of one field of record ``row`` to N lanes, uint64; words of the field begin at index START."""
    WIDTH: tl.constexpr = 4 if BYTES % 4 == 0 else (2 if BYTES % 2 == 0 else 1)
    PER: tl.constexpr = 4 // WIDTH
    COUNT: tl.constexpr = BYTES // WIDTH
    for begin in range(0, COUNT, N):
        at = begin + tl.arange(0, N)
        x = tl.load(field + row * COUNT + at, mask=at < COUNT, other=0).to(tl.int32)
        if WIDTH == 4:
            word = x.to(tl.uint32, bitcast=True)
        elif WIDTH == 2:
            word = (x & 0xFFFF).to(tl.uint32) << ((at % PER) * 16).to(tl.uint32)
        else:
            word = (x & 0xFF).to(tl.uint32) << ((at % PER) * 8).to(tl.uint32)
        total += word.to(tl.uint64) * weight((START + at // PER).to(tl.uint32))
    return total


@triton.jit
def records(fields, row, STARTS: tl.constexpr, SIZES: tl.constexpr, SHARES: tl.constexpr, N: tl.constexpr):
    """Sum record ``row`` over all fields, each of which SHARES records share; int64."""
    total = tl.zeros((N,), tl.uint64)
    for f in tl.static_range(len(SIZES)):
        total = record(total, fields[f], row // SHARES[f], STARTS[f], SIZES[f], N)
    return tl.sum(total, 0).to(tl.int64, bitcast=True)


@triton.jit
def totals_kernel(fields, rows, out, STARTS: tl.constexpr, SIZES: tl.constexpr, SHARES: tl.constexpr, N: tl.constexpr):
    """Sum record ``rows[program_id(0)]``."""
    i = tl.program_id(0).to(tl.int64)
    tl.store(out + i, records(fields, tl.load(rows + i), STARTS, SIZES, SHARES, N))


@triton.jit
def resident_total(
    fields, anchor, row, STARTS: tl.constexpr, SIZES: tl.constexpr, ANCHOR_START: tl.constexpr, ANCHOR: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """Sum what stays on the device: slot ``row % 2`` of KV head ``row // 2`` of all sequences'."""
    total = records(fields, row, STARTS, SIZES, (1, 1, 1), N)
    if row % 2 == FIRST_SLOT:
        held = record(tl.zeros((N,), tl.uint64), anchor, row // 2, ANCHOR_START, ANCHOR, N)
        total += tl.sum(held, 0).to(tl.int64, bitcast=True)
    return total


@triton.jit
def add_resident_kernel(
    fields,
    anchor,
    lengths,
    sums,
    length_sums,
    HEADS: tl.constexpr,
    STARTS: tl.constexpr,
    SIZES: tl.constexpr,
    ANCHOR_START: tl.constexpr,
    ANCHOR: tl.constexpr,
    SIGN: tl.constexpr,
    N: tl.constexpr,
):
    """Add what is there, or take it off: slot ``program_id(0) % 2`` of a KV head; lengths too."""
    row = tl.program_id(0).to(tl.int64)
    total = resident_total(fields, anchor, row, STARTS, SIZES, ANCHOR_START, ANCHOR, N)
    tl.store(sums + row, tl.load(sums + row) + SIGN * total)
    if row % HEADS == 0:
        s = row // HEADS
        tl.store(length_sums + s, tl.load(length_sums + s) + SIGN * tl.load(lengths + s))


@triton.jit
def write_filled_kernel(
    fields,
    tail_keys,
    tail_values,
    place,
    page,
    sums,
    original_sums,
    side,
    max_blocks,
    H: tl.constexpr,
    B: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    STARTS: tl.constexpr,
    SIZES: tl.constexpr,
    SHARES: tl.constexpr,
    N: tl.constexpr,
):
    """Keep the checksums of what head ``program_id(1)`` of sequence ``program_id(0)`` has filled, if it has."""
    s = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.load(page + s).to(tl.int64)
    if at < 0:
        return
    block = tl.load(place + s) // B
    owner = s * max_blocks + block
    total = records(fields, at * H + head, STARTS, SIZES, SHARES, N)
    tl.store(sums + at * H + head, total + owner * OWNER_WEIGHT)
    row = s * H + head
    to = original_sums + row * max_blocks + block
    tl.store(to, records((tail_keys,), row * 2 + TAIL_SLOT, (0,), (BLOCK_BYTES,), (1,), N))
    tl.store(to + side, records((tail_values,), row * 2 + TAIL_SLOT, (0,), (BLOCK_BYTES,), (1,), N))


def write_filled(sums: Checksums, pool: Pool, resident: Resident, place: torch.Tensor, page: torch.Tensor) -> None:
    """Launch; see `certkv.fast.checksum.Checksums.write_filled`."""
    batch, heads, max_blocks = sums.originals.shape[1:]
    of_pool, tails = pool_fields(pool), tuple(x.flatten(0, 2) for x in (resident.keys, resident.values))
    write_filled_kernel[(batch, heads)](
        patterns(of_pool),
        *patterns(tails),
        place,
        page,
        sums.blocks,
        sums.originals,
        batch * heads * max_blocks,
        max_blocks,
        H=heads,
        B=resident.keys.shape[-2],
        BLOCK_BYTES=sizes(tails)[0],
        STARTS=starts(sizes(of_pool)),
        SIZES=sizes(of_pool),
        SHARES=shares(of_pool),
        N=LANES,
        num_warps=WARPS,
    )


def patterns(of: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """View fields as integers as wide as fit a record; nothing is copied."""
    kinds = {0: torch.int32, 2: torch.int16}
    return tuple(
        field.view(-1).view(kinds.get(size % 4, torch.uint8)) for field, size in zip(of, sizes(of), strict=True)
    )


def totals(of: Sequence[torch.Tensor], rows: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Launch; see `certkv.fast.checksum.totals_twin`."""
    out = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    if len(rows):
        bytes_of = sizes(of)
        totals_kernel[(len(rows),)](
            patterns(of),
            rows,
            out,
            STARTS=starts(bytes_of, first),
            SIZES=bytes_of,
            SHARES=shares(of),
            N=LANES,
            num_warps=WARPS,
        )
    return out


def resident_constants(anchor: torch.Tensor, resident: Resident) -> dict[str, object]:
    """Return the constants of `resident_total`."""
    bytes_of = sizes(resident_fields(resident))
    return {
        "STARTS": starts(bytes_of),
        "SIZES": bytes_of,
        "ANCHOR_START": anchor_start(resident),
        "ANCHOR": 4 * anchor.shape[-1],
        "N": LANES,
    }


def add_resident(sums: Checksums, lengths: torch.Tensor, anchor: torch.Tensor, resident: Resident, sign: int) -> None:
    """Launch; see `certkv.fast.checksum.add_resident_twin`."""
    batch, heads, slots = sums.resident.shape
    add_resident_kernel[(batch * heads * slots,)](
        patterns(resident_fields(resident)),
        patterns((anchor.flatten(0, 1),))[0],
        lengths,
        sums.resident,
        sums.lengths,
        HEADS=heads * slots,
        SIGN=sign,
        num_warps=WARPS,
        **resident_constants(anchor, resident),
    )
