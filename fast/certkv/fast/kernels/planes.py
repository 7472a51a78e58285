"""Refinement planes by page: say that they are there, keep their checksums, compare and count what a step has read.

One program per page and KV head; `certkv.fast.planes` and `certkv.fast.verify` have the twins. Planes in host memory
are read through the pointer that pinned memory has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certificate import Certificate, Status
from certkv.fast.checksum import sizes, starts
from certkv.fast.choose import EXACT_HEAD, Choice
from certkv.fast.coded import Coded
from certkv.fast.kernels.checksum import LANES, OWNER_WEIGHT, WARPS, patterns, records
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.levels import MOST_PLANES, SHIFT
from certkv.fast.planes import Planes

BLOCKS = 1024
"""Blocks that are looked at at once."""

PLANES, VALUE_PLANES = (tl.constexpr(x) for x in SHIFT)
MOST = tl.constexpr(MOST_PLANES)
OK = tl.constexpr(int(Status.OK))
GIVEN_UP = tl.constexpr(EXACT_HEAD)


@triton.jit
def mark_kernel(pages, present, H: tl.constexpr):
    """Say that planes of head ``program_id(1)`` of page ``pages[program_id(0)]`` are there."""
    page = tl.load(pages + tl.program_id(0)).to(tl.int64)
    if page >= 0:
        tl.store(present + page * H + tl.program_id(1), 1)


@triton.jit
def write_filled_kernel(
    fields, place, page, sums, max_blocks, H: tl.constexpr, B: tl.constexpr, STARTS: tl.constexpr,
    SIZES: tl.constexpr, SHARES: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Keep the checksum of planes that head ``program_id(1)`` of sequence ``program_id(0)`` has filled, if it has."""
    s = tl.program_id(0).to(tl.int64)
    at = tl.load(page + s).to(tl.int64)
    if at < 0:
        return
    owner = s * max_blocks + tl.load(place + s) // B
    row = at * H + tl.program_id(1)
    tl.store(sums + row, records(fields, row, STARTS, SIZES, SHARES, N) + owner * OWNER_WEIGHT)


@triton.jit(do_not_specialize=["max_blocks"])
def verify_kernel(
    fields, page_table, lengths, levels, present, sums, offender, max_blocks, H: tl.constexpr, G: tl.constexpr,
    B: tl.constexpr, STARTS: tl.constexpr, SIZES: tl.constexpr, SHARES: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Compare planes of block ``program_id(1)`` of KV head ``program_id(0)`` of all sequences', if they were read."""
    kv = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1)
    sequence, head = kv // H, kv % H
    if unit < tl.load(lengths + sequence) // B:
        level = 0
        for g in tl.static_range(G):
            level |= tl.load(levels + (kv * G + g) * max_blocks + unit).to(tl.int32)
        if (level >> PLANES) != 0:
            row = tl.load(page_table + sequence * max_blocks + unit).to(tl.int64) * H + head
            if tl.load(present + row) != 0:
                owner = (sequence * max_blocks + unit).to(tl.int64)
                total = records(fields, row, STARTS, SIZES, SHARES, N) + owner * OWNER_WEIGHT
                if total != tl.load(sums + row):
                    tl.atomic_min(offender + sequence, (unit * H + head).to(tl.int32))


@triton.jit
def count_plane(levels, max_blocks, plane, BIT: tl.constexpr, AT: tl.constexpr, N: tl.constexpr):
    """Count the blocks of which a head has read a plane, and those that it uses at that level."""
    read = tl.zeros((N,), tl.int32)
    used = tl.zeros((N,), tl.int32)
    for start in range(0, max_blocks, N):
        block = start + tl.arange(0, N)
        byte = tl.load(levels + block, mask=block < max_blocks, other=0).to(tl.int32)
        planes = (byte >> AT) & MOST
        read += (planes >= plane).to(tl.int32)
        used += ((planes == plane) & ((byte & BIT) == 0)).to(tl.int32)
    return tl.sum(read, 0), tl.sum(used, 0)


@triton.jit
def finish_levels_kernel(
    levels, action, status, rung, finer, plane_bytes, host_bytes, max_blocks, KEY_BYTES: tl.constexpr,
    VALUE_BYTES: tl.constexpr, COUNT: tl.constexpr, HOST: tl.constexpr, N: tl.constexpr, program=None,
):  # fmt: skip
    """Add what a head of all sequences' heads has read of the planes of either side."""
    row = place_of(program)[0].to(tl.int64)
    total = tl.full((), 0, tl.int64)
    if tl.load(status + row) == OK:
        exact = tl.load(action + row) == GIVEN_UP
        taken = tl.full((), 0, tl.int32)
        for j in tl.static_range(len(KEY_BYTES)):
            read, used = count_plane(levels + row * max_blocks, max_blocks, j + 1, 1, PLANES, N)
            total += read.to(tl.int64) * KEY_BYTES[j]
            taken = tl.where(read > 0, 1, taken)
            tl.store(finer + row * (2 * COUNT) + j, tl.where(exact, 0, used))
        for j in tl.static_range(len(VALUE_BYTES)):
            read, used = count_plane(levels + row * max_blocks, max_blocks, j + 1, 2, VALUE_PLANES, N)
            total += read.to(tl.int64) * VALUE_BYTES[j]
            taken = tl.where(read > 0, 2, taken)
            tl.store(finer + row * (2 * COUNT) + COUNT + j, tl.where(exact, 0, used))
        tl.store(rung + row, tl.maximum(tl.load(rung + row), taken))
    tl.store(plane_bytes + row, total)
    if HOST:
        tl.store(host_bytes + row, tl.load(host_bytes + row) + total)


def work_levels(levels: torch.Tensor, choice: Choice, held: Planes, certificate: Certificate) -> Work:
    """Return what to launch; see `certkv.fast.finish.finish_levels_twin`."""
    batch, heads, max_blocks = levels.shape
    key_bytes, value_bytes = held.block_bytes
    return Work(
        finish_levels_kernel,
        (batch * heads, 1, 1),
        (
            levels,
            choice.action,
            certificate.status,
            certificate.rung,
            certificate.finer,
            certificate.plane_bytes,
            certificate.host_bytes,
            max_blocks,
        ),
        {
            "KEY_BYTES": key_bytes,
            "VALUE_BYTES": value_bytes,
            "COUNT": certificate.finer.shape[-1],
            "HOST": held.place == "host",
            "N": min(BLOCKS, triton.next_power_of_2(max_blocks)),
        },
        {},
    )


def finish_levels(levels: torch.Tensor, choice: Choice, held: Planes, certificate: Certificate) -> None:
    """Launch; see `certkv.fast.finish.finish_levels_twin`."""
    work_levels(levels, choice, held, certificate).launch(4)


def mark(planes: Planes, pages: torch.Tensor) -> None:
    """Launch; see `certkv.fast.planes.Planes.mark`."""
    if len(pages):
        heads = planes.present.shape[1]
        mark_kernel[(len(pages), heads)](pages, planes.present, H=heads, num_warps=1)


def write_filled(planes: Planes, place: torch.Tensor, page: torch.Tensor, block: int) -> None:
    """Launch; see `certkv.fast.planes.Planes.write_filled`."""
    fields, heads = planes.fields(), planes.present.shape[1]
    write_filled_kernel[(len(page), heads)](
        patterns(fields),
        place,
        page,
        planes.sums,
        planes.pages.table.shape[1],
        H=heads,
        B=block,
        STARTS=starts(sizes(fields)),
        SIZES=sizes(fields),
        SHARES=(1,) * len(fields),
        N=LANES,
        num_warps=WARPS,
    )


def verify_planes(coded: Coded, planes: Planes, levels: torch.Tensor, offender: torch.Tensor) -> None:
    """Launch; see `certkv.fast.verify.verify_planes_twin`."""
    fields, heads = planes.fields(), planes.present.shape[1]
    batch, q_heads, max_blocks = levels.shape
    verify_kernel[(batch * heads, max_blocks)](
        patterns(fields),
        coded.page_table,
        coded.lengths,
        levels,
        planes.present,
        planes.sums,
        offender,
        max_blocks,
        H=heads,
        G=q_heads // heads,
        B=coded.block,
        STARTS=starts(sizes(fields)),
        SIZES=sizes(fields),
        SHARES=(1,) * len(fields),
        N=LANES,
        num_warps=WARPS,
    )
