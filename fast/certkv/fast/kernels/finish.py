"""Begin and finish a step: one program per head; formulas in `certkv.fast.finish`.

Every program looks at all queries and outputs of its sequence, since what one head lacks leaves the whole sequence
without an output.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certificate import Status
from certkv.fast.choose import EXACT_HEAD, REFINE, Choice
from certkv.fast.coded import Coded
from certkv.fast.finish import LARGEST_HALF, NOWHERE, Flags, Result
from certkv.fast.kernels.outward_fp32 import INFINITY, known
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.totals import Totals

BLOCKS = 1024
"""Elements that are looked at at once."""

REFINED = tl.constexpr(REFINE)
GIVEN_UP = tl.constexpr(EXACT_HEAD)
OK = tl.constexpr(int(Status.OK))
NONFINITE_QUERY = tl.constexpr(int(Status.NONFINITE_QUERY))
HOST_MISSING = tl.constexpr(int(Status.HOST_MISSING))
CHECKSUM = tl.constexpr(int(Status.CHECKSUM))
NEEDS_DENSE = tl.constexpr(int(Status.NEEDS_DENSE))
NONE = tl.constexpr(NOWHERE)
HALF = tl.constexpr(LARGEST_HALF)


@triton.jit
def begin_kernel(
    levels,
    action,
    missing,
    dense,
    moved,
    max_blocks,
    HEADS: tl.constexpr,
    N: tl.constexpr,
    REOPEN: tl.constexpr,
    program=None,
):
    """Forget the last run, for a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    for start in range(0, max_blocks, N):
        block = start + tl.arange(0, N)
        tl.store(levels + row * max_blocks + block, tl.zeros((N,), tl.uint8), mask=block < max_blocks)
    if REOPEN:
        tl.store(action + row, REFINED)
    if row % HEADS == 0:
        tl.store(missing + row // HEADS, 0)
        tl.store(dense + row // HEADS, 0)
        tl.store(moved + row // HEADS, 0)


@triton.jit
def bfloat16_bits(x):
    """Round binary32 to bfloat16 bit patterns, to nearest even; NaN stays one."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
    return tl.where(x == x, rounded, tl.full(x.shape, 0x7FC0, tl.int16))


@triton.jit
def store_output(to, c, mask, OUT_BFLOAT: tl.constexpr):
    """Store outputs in their type; in binary16 within its range, which values of originals are in. NaN stays one."""
    if OUT_BFLOAT:
        tl.store(to, bfloat16_bits(c), mask=mask)
    else:
        if to.dtype.scalar.element_ty == tl.float16:
            c = tl.where(c > HALF, HALF, tl.where(c < -HALF, -HALF, c))
        tl.store(to, c, mask=mask)


@triton.jit
def finish_kernel(
    q,
    lengths,
    output,
    lse,
    exact_bound,
    bound,
    key,
    value,
    arithmetic,
    tolerance,
    levels,
    rungs,
    action,
    missing,
    dense,
    refused,
    refused_at,
    block_bytes,
    max_blocks,
    output_out,
    lse_out,
    bound_out,
    key_out,
    value_out,
    arithmetic_out,
    tolerance_out,
    rung_out,
    status_out,
    promoted_out,
    bytes_out,
    position_out,
    HEADS: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    N: tl.constexpr,
    LARGEST_BITS: tl.constexpr,
    SELECTED: tl.constexpr,
    OUT_BFLOAT: tl.constexpr,
    program=None,
):
    """Write what a head of all sequences' heads returns."""
    row = place_of(program)[0].to(tl.int64)
    sequence = row // HEADS
    first = tl.full((N,), HEADS * D, tl.int32)
    damaged = tl.zeros((N,), tl.int32)
    for start in range(0, HEADS * D, N):
        at = start + tl.arange(0, N)
        inside = at < HEADS * D
        bits = tl.load(q + sequence * (HEADS * D) + at, mask=inside, other=0).to(tl.int32) & 0x7FFF
        first = tl.minimum(first, tl.where(bits > LARGEST_BITS, at, HEADS * D))
        x = tl.load(output + sequence * (HEADS * D) + at, mask=inside, other=0.0)
        damaged = tl.maximum(damaged, tl.where(tl.abs(x) < INFINITY, 0, 1))
    position = tl.min(first, 0)
    status = tl.where(tl.max(damaged, 0) != 0, CHECKSUM, OK)
    status = tl.where(tl.load(dense + sequence) != 0, NEEDS_DENSE, status)
    status = tl.where(tl.load(missing + sequence) != 0, HOST_MISSING, status)
    status = tl.where(position < HEADS * D, NONFINITE_QUERY, status)
    why_refused = tl.load(refused + sequence)
    status = tl.where(why_refused != OK, why_refused, status)
    none = status != OK
    if row % HEADS == 0:
        at = tl.where(position < HEADS * D, position, NONE).to(tl.int64)
        tl.store(position_out + sequence, tl.where(why_refused != OK, tl.load(refused_at + sequence), at))

    exact = tl.load(action + row) == GIVEN_UP
    keys = tl.zeros((N,), tl.int32)
    values = tl.zeros((N,), tl.int32)
    for start in range(0, max_blocks, N):
        block = start + tl.arange(0, N)
        level = tl.load(levels + row * max_blocks + block, mask=block < max_blocks, other=0).to(tl.int32)
        keys += level & 1
        values += (level >> 1) & 1
    coded = tl.maximum(tl.load(lengths + sequence) // B - FIRST, 0)
    some_keys, some_values = tl.sum(keys, 0), tl.sum(values, 0)
    if SELECTED:
        rung = tl.load(rungs + row).to(tl.int32)
    else:
        rung = tl.where(some_values > 0, 2, tl.where(some_keys > 0, 1, 0))
    rung = tl.where(exact, 3, rung)
    some_keys = tl.where(none, 0, tl.where(exact, coded, some_keys))
    some_values = tl.where(none, 0, tl.where(exact, coded, some_values))
    of_exact = known(tl.load(exact_bound + row))
    whole = tl.where(exact, of_exact, known(tl.load(bound + row)))
    part = tl.where(exact, of_exact, tl.load(arithmetic + row))
    tl.store(bound_out + row, tl.where(none, INFINITY, whole))
    tl.store(key_out + row, tl.where(none, INFINITY, tl.where(exact, 0.0, tl.load(key + row))))
    tl.store(value_out + row, tl.where(none, INFINITY, tl.where(exact, 0.0, tl.load(value + row))))
    tl.store(arithmetic_out + row, tl.where(none, INFINITY, part))
    tl.store(tolerance_out + row, tl.where(none, INFINITY, tl.load(tolerance + row)))
    tl.store(rung_out + row, tl.where(none, 0, rung))
    tl.store(status_out + row, status)
    tl.store(promoted_out + row * 2, some_keys)
    tl.store(promoted_out + row * 2 + 1, some_values)
    tl.store(bytes_out + row, (some_keys + some_values).to(tl.int64) * block_bytes)
    tl.store(lse_out + row, tl.where(none, float("nan"), tl.load(lse + row)))
    channel = tl.arange(0, DP)
    live = channel < D
    c = tl.load(output + row * D + channel, mask=live, other=0.0)
    c = tl.where(none, float("nan"), c)
    store_output(output_out + row * D + channel, c, live, OUT_BFLOAT)


def work_begin(levels: torch.Tensor, choice: Choice, flags: Flags, moved: torch.Tensor, reopen: bool = True) -> Work:
    """Return what to launch; see `certkv.fast.finish.begin_twin`."""
    batch, heads, max_blocks = levels.shape
    arguments = (levels, choice.action, flags.missing, flags.dense, moved, max_blocks)
    constants = {"HEADS": heads, "N": BLOCKS, "REOPEN": reopen}
    return Work(begin_kernel, (batch * heads, 1, 1), arguments, constants, {})


def launch_begin(levels: torch.Tensor, choice: Choice, flags: Flags, moved: torch.Tensor, reopen: bool = True) -> None:
    """Launch; see `certkv.fast.finish.begin_twin`."""
    work_begin(levels, choice, flags, moved, reopen).launch(4)


def work(
    q: torch.Tensor,
    coded: Coded,
    output: torch.Tensor,
    lse: torch.Tensor,
    exact_bound: torch.Tensor,
    found: Totals,
    levels: torch.Tensor,
    selected: torch.Tensor | None,
    choice: Choice,
    flags: Flags,
    block_bytes: int,
    out: Result,
) -> Work:
    """Return what to launch; arguments as those of `certkv.fast.finish.finish_twin`, contiguous."""
    (batch, heads, head_dim), made = q.shape, out.certificate
    bfloat = out.output.dtype == torch.bfloat16
    return Work(
        finish_kernel,
        (batch * heads, 1, 1),
        (
            q.view(torch.int16),
            coded.lengths,
            output,
            lse,
            exact_bound,
            *found[:5],
            levels,
            choice.action if selected is None else selected,
            choice.action,
            flags.missing,
            flags.dense,
            flags.refused,
            flags.refused_at,
            block_bytes,
            levels.shape[-1],
            out.output.view(torch.int16) if bfloat else out.output,
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
        ),
        {
            "HEADS": heads,
            "B": coded.block,
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "FIRST": coded.first,
            "N": BLOCKS,
            "LARGEST_BITS": 0x7F7F if q.dtype == torch.bfloat16 else 0x7BFF,
            "SELECTED": selected is not None,
            "OUT_BFLOAT": bfloat,
        },
        {},
    )


def launch(
    q: torch.Tensor,
    coded: Coded,
    output: torch.Tensor,
    lse: torch.Tensor,
    exact_bound: torch.Tensor,
    found: Totals,
    levels: torch.Tensor,
    selected: torch.Tensor | None,
    choice: Choice,
    flags: Flags,
    block_bytes: int,
    out: Result,
) -> None:
    """Launch; arguments as those of `certkv.fast.finish.finish_twin`, contiguous."""
    work(q, coded, output, lse, exact_bound, found, levels, selected, choice, flags, block_bytes, out).launch(4)
