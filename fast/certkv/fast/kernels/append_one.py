"""Append one token per sequence: what comes before its block is encoded, and what comes after.

    admit    tail[t] = k, v      norm = max(norm, ||v||), and so on (`Resident.norms`)
             mu = fl( (v_0 + ... + v_{B-1}) / B )  in float64, in order
    turn     originals[b] = tail     tail = NaN     n = n + 1

One program per sequence and KV head. Every program of a sequence looks at all of its key and value, since one element
that is not finite leaves all heads as they were. The twins are `certkv.fast.append_one.admit_twin` and ``turn_twin``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.append_one import Held, Work
from certkv.fast.certificate import Status
from certkv.fast.kernels.rounding import up_single, widen
from certkv.fast.numbers import norm_factor
from certkv.fast.resident import FIRST, NORMS, TAIL

ROWS = 16
"""Tokens that a tail is moved by at once."""

OK = tl.constexpr(int(Status.OK))
NONFINITE_KEY = tl.constexpr(int(Status.NONFINITE_KEY))
NONFINITE_VALUE = tl.constexpr(int(Status.NONFINITE_VALUE))
FULL = tl.constexpr(int(Status.CAPACITY))
FIRST_SLOT = tl.constexpr(FIRST)
TAIL_SLOT = tl.constexpr(TAIL)
LARGEST_VALUE, LARGEST_KEY, MEAN, SUM = (
    tl.constexpr(NORMS.index(name)) for name in ("largest_value", "largest_key", "mean_value", "sum_of_values")
)
NORMS_HELD = tl.constexpr(len(NORMS))


@triton.jit
def _first_bad(x, head_stride, LARGEST_BITS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):
    """Index of the first element of [H, D] that is not finite, H D where all are."""
    channel = tl.arange(0, DP)
    first = tl.full((DP,), H * D, tl.int32)
    for head in range(H):
        bits = tl.load(x + head * head_stride + channel, mask=channel < D, other=0).to(tl.int32) & 0x7FFF
        first = tl.minimum(first, tl.where(bits > LARGEST_BITS, head * D + channel, H * D))
    return tl.min(first, 0)


# one variant for whatever k and v are views of, so that none has to be compiled while a graph is captured
@triton.jit(
    do_not_specialize=["k_stride", "k_head_stride", "v_stride", "v_head_stride", "capacity", "max_blocks"],
    do_not_specialize_on_alignment=["k", "v", "active"],
)
def admit_kernel(
    k,
    k_stride,
    k_head_stride,
    v,
    v_stride,
    v_head_stride,
    active,
    lengths,
    page_table,
    anchor,
    tail_keys,
    tail_values,
    norms,
    status,
    position,
    place,
    page_out,
    capacity,
    max_blocks,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BFLOAT: tl.constexpr,
    LARGEST_BITS: tl.constexpr,
    NORM: tl.constexpr,
):
    """Admit the token of sequence ``program_id(0)``, for head ``program_id(1)``."""
    s = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    n = tl.load(lengths + s)
    # programs of one sequence may see what its first one writes here, which is what they would find themselves
    open_ = (tl.load(active + s) != 0) & (tl.load(status + s) == OK)
    room = n < capacity
    t = n % B
    filling = t == B - 1
    page = tl.load(page_table + s * max_blocks + n // B, mask=filling & room, other=-1)
    room = room & ((page >= 0) | (t != B - 1))
    my_k = k + s * k_stride
    my_v = v + s * v_stride
    bad_key = _first_bad(my_k, k_head_stride, LARGEST_BITS, H, D, DP)
    bad_value = _first_bad(my_v, v_head_stride, LARGEST_BITS, H, D, DP)
    why = tl.where(room, OK, FULL)
    why = tl.where(bad_value < H * D, NONFINITE_VALUE, why)
    why = tl.where(bad_key < H * D, NONFINITE_KEY, why)
    good = open_ & (why == OK)
    if head == 0:
        tl.store(place + s, tl.where(good, n, -1))
        tl.store(page_out + s, tl.where(good, page, -1))
        if open_ & (why != OK):
            at = tl.where(bad_key < H * D, bad_key, tl.where(bad_value < H * D, bad_value, -1))
            tl.store(position + s, at.to(tl.int64))
            tl.store(status + s, why)
    if good:
        channel = tl.arange(0, DP)
        live = channel < D
        key = tl.load(my_k + head * k_head_stride + channel, mask=live, other=0)
        value = tl.load(my_v + head * v_head_stride + channel, mask=live, other=0)
        slot = (s * H + head) * 2 + TAIL_SLOT
        tl.store(tail_keys + (slot * B + t) * D + channel, key, mask=live)
        tl.store(tail_values + (slot * B + t) * D + channel, value, mask=live)
        x = widen(value, BFLOAT)
        y = widen(key, BFLOAT)
        norm = up_single(tl.sqrt(tl.sum(x * x, 0)) * NORM)
        of_key = up_single(tl.sqrt(tl.sum(y * y, 0)) * NORM)
        held = norms + slot * NORMS_HELD
        total = tl.load(held + SUM) + norm
        mean = (total.to(tl.float64) / (t + 1).to(tl.float64)).to(tl.float32)
        tl.store(held + LARGEST_VALUE, tl.maximum(tl.load(held + LARGEST_VALUE), norm))
        tl.store(held + LARGEST_KEY, tl.maximum(tl.load(held + LARGEST_KEY), of_key))
        tl.store(held + MEAN, mean)
        tl.store(held + SUM, total)
        if n == B - 1:
            added = tl.zeros((DP,), tl.float64)
            for token in range(B - 1):
                old = tl.load(tail_values + (slot * B + token) * D + channel, mask=live, other=0)
                added += widen(old, BFLOAT)
            added += x
            count = tl.full((), B, tl.float64)
            tl.store(anchor + (s * H + head) * D + channel, (added / count).to(tl.float32), mask=live)


@triton.jit
def _move(
    tail,
    original,
    head_slots,
    first_block,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    N: tl.constexpr,
    NAN_BITS: tl.constexpr,
):
    """Copy the tail of a head to its originals, and to its first slot if so; leave NaN."""
    channel = tl.arange(0, DP)
    for start in range(0, B, N):
        token = start + tl.arange(0, N)
        inside = (token < B)[:, None] & (channel < D)[None, :]
        at = token[:, None] * D + channel[None, :]
        x = tl.load(tail + (head_slots + TAIL_SLOT) * (B * D) + at, mask=inside, other=0)
        tl.store(original + at, x, mask=inside)
        tl.store(tail + (head_slots + FIRST_SLOT) * (B * D) + at, x, mask=inside & first_block)
        tl.debug_barrier()  # what is loaded is loaded before another thread clears it
        nothing = tl.full((N, DP), NAN_BITS, tl.int16)
        tl.store(tail + (head_slots + TAIL_SLOT) * (B * D) + at, nothing, mask=inside)


@triton.jit(do_not_specialize=["max_blocks"])
def turn_kernel(
    place,
    page,
    keys,
    values,
    present,
    tail_keys,
    tail_values,
    norms,
    lengths,
    max_blocks,
    H: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    N: tl.constexpr,
    NAN_BITS: tl.constexpr,
):
    """Turn over head ``program_id(1)`` of sequence ``program_id(0)``."""
    s = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    n = tl.load(place + s)
    if n < 0:
        return
    if tl.load(page + s) >= 0:
        block = n // B
        row = s * H + head
        original = (row * max_blocks + block) * (B * D)
        _move(tail_keys, keys + original, row * 2, block == 0, B, D, DP, N, NAN_BITS)
        _move(tail_values, values + original, row * 2, block == 0, B, D, DP, N, NAN_BITS)
        i = tl.arange(0, NORMS_HELD)
        tail = norms + (row * 2 + TAIL_SLOT) * NORMS_HELD + i
        norm = tl.load(tail)
        tl.store(norms + (row * 2 + FIRST_SLOT) * NORMS_HELD + i, norm, mask=(block == 0) & (i < NORMS_HELD))
        tl.debug_barrier()  # as above
        tl.store(tail, tl.zeros((NORMS_HELD,), tl.float32))
        tl.store(present + row * max_blocks + block, 1)
    if head == 0:
        tl.store(lengths + s, n + 1)


def admit(k: torch.Tensor, v: torch.Tensor, active: torch.Tensor, held: Held, work: Work) -> None:
    """Launch; see `certkv.fast.append_one.admit_twin`."""
    batch, heads, head_dim = k.shape
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    admit_kernel[(batch, heads)](
        k.view(torch.int16),
        *k.stride()[:2],
        v.view(torch.int16),
        *v.stride()[:2],
        active,
        held.lengths,
        held.page_table,
        held.anchor,
        held.resident.keys.view(torch.int16),
        held.resident.values.view(torch.int16),
        held.resident.norms,
        held.refusals.status,
        held.refusals.position,
        work.place,
        work.page,
        held.capacity,
        held.page_table.shape[1],
        H=heads,
        B=held.block,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        BFLOAT=k.dtype == torch.bfloat16,
        LARGEST_BITS=0x7F7F if k.dtype == torch.bfloat16 else 0x7BFF,
        NORM=norm_factor(head_dim),
        num_warps=1,
        enable_fp_fusion=False,
    )


def turn(held: Held, work: Work) -> None:
    """Launch; see `certkv.fast.append_one.turn_twin`."""
    batch, heads, max_blocks, block, head_dim = held.originals.keys.shape
    turn_kernel[(batch, heads)](
        work.place,
        work.page,
        held.originals.keys.view(torch.int16),
        held.originals.values.view(torch.int16),
        held.originals.present,
        held.resident.keys.view(torch.int16),
        held.resident.values.view(torch.int16),
        held.resident.norms,
        held.lengths,
        max_blocks,
        H=heads,
        B=block,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        N=ROWS,
        NAN_BITS=0x7FC0 if held.resident.keys.dtype == torch.bfloat16 else 0x7E00,
        num_warps=4,
        enable_fp_fusion=False,
    )
