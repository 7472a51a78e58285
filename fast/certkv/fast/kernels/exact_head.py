"""Rung 3: attention of the originals, for flagged heads only, by the same online softmax as `attend`.

    x_t = c q . k_t      m' = max(m, max_t x_t - 14)      P_t = fp16(2^(x_t - m'))      o = o 2^(m - m') + sum_t P_t V_t

The tail, and the first block where it is pinned, are read from their resident slots; other blocks from scratch where
it holds them, else where the originals are, in device memory or through the pointer of pinned host memory. A program
whose query heads are all unflagged leaves at once; the heads of a group that are not flagged are computed along and not
stored. It is one kernel with scratch and without, so that both give the same bits. The twin is
`certkv.fast.exact_head.exact_head_twin`.
"""
# ruff: noqa: E741 (l is the softmax state's name)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.arithmetic import signed_constant
from certkv.fast.coded import Coded
from certkv.fast.host import Originals
from certkv.fast.kernels.pass_state import exact_block, load_query, store_state
from certkv.fast.kernels.shape import Shape, bits
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.resident import Resident
from certkv.fast.scratch import Scratch
from certkv.fast.workspace import BIAS, Workspace


@triton.jit(do_not_specialize=["slots", "splits", "max_blocks"])
def exact_head_kernel(
    q,
    sign,
    c2,
    keys,
    values,
    pool,
    table,
    slots,
    moved,
    block_bytes,
    lengths,
    resident_keys,
    resident_values,
    flags,
    part_m,
    part_l,
    part_o,
    splits,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    VC: tl.constexpr,
    B: tl.constexpr,
    RP: tl.constexpr,
    PINNED: tl.constexpr,
    BFLOAT: tl.constexpr,
    BIAS: tl.constexpr,
    INTERPRET: tl.constexpr,
    FLAG: tl.constexpr,
    program=None,
):
    """One KV head of one sequence and one split of its blocks; the last split is the tail."""
    kv, split, _batch = place_of(program)
    row = kv.to(tl.int64)
    g = tl.arange(0, GP)
    flagged = tl.load(flags + row * G + g, mask=g < G, other=0) == FLAG
    if tl.max(flagged.to(tl.int32), 0) != 0:
        tokens = tl.load(lengths + row // H)
        query, c, _largest = load_query(q, row * (G * D), sign, c2, G, GP, D, BFLOAT)
        m = tl.full([GP], float("-inf"), tl.float32)
        l = tl.zeros([GP], tl.float32)
        o = ()
        for _v in tl.static_range((D + VC - 1) // VC):
            o = o + (tl.zeros([VC, GP], tl.float32),)  # noqa: RUF005
        if split == splits:
            if tokens % B > 0:
                start = (row * 2 + 1) * (B * D)
                _, m, l, o = exact_block(
                    resident_keys,
                    resident_values,
                    start,
                    tokens % B,
                    query,
                    c,
                    m,
                    l,
                    o,
                    G,
                    GP,
                    D,
                    VC,
                    B,
                    RP,
                    BFLOAT,
                    BIAS,
                    INTERPRET,
                )
        else:
            blocks = (tokens // B).to(tl.int64)
            first = (split * blocks // splits).to(tl.int32)
            last = ((split + 1) * blocks // splits).to(tl.int32)
            fetched = tl.full((), 0, tl.int32)
            for block in range(first, last):
                which = row * max_blocks + block
                key_slot = tl.load(table + which * 2, mask=slots > 0, other=-1).to(tl.int64)
                value_slot = tl.load(table + which * 2 + 1, mask=slots > 0, other=-1).to(tl.int64)
                key_at = tl.where(key_slot >= 0, pool + key_slot * (B * D), keys + which * (B * D))
                value_at = tl.where(value_slot >= 0, pool + value_slot * (B * D), values + which * (B * D))
                away = tl.where(key_slot < 0, 1, 0) + tl.where(value_slot < 0, 1, 0)
                if PINNED:
                    held = row * 2 * (B * D)
                    key_at = tl.where(block < PINNED, resident_keys + held, key_at)
                    value_at = tl.where(block < PINNED, resident_values + held, value_at)
                    away = tl.where(block < PINNED, 0, away)
                fetched += away
                _, m, l, o = exact_block(
                    key_at, value_at, 0, B, query, c, m, l, o, G, GP, D, VC, B, RP, BFLOAT, BIAS, INTERPRET
                )
            tl.atomic_add(moved + row // H, fetched.to(tl.int64) * block_bytes, mask=fetched > 0, sem="relaxed")
        live = (g < G) & flagged
        store_state(part_m, part_l, part_o, row, split, splits + 1, live, m, l, o, G, GP, D, VC)


def work(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    scale: float,
    out: Workspace,
    flags: torch.Tensor,
    flag: int = 1,
) -> Work:
    """Return what to launch, for heads whose flag is ``flag``; see `certkv.fast.exact_head.exact_head`."""
    shape = Shape.of(q, coded)
    return Work(
        exact_head_kernel,
        (q.shape[0] * shape.kv_heads, out.splits + 1, 1),
        (
            bits(q),
            *signed_constant(scale),
            bits(originals.keys),
            bits(originals.values),
            bits(scratch.pool),
            scratch.table,
            scratch.slots,
            moved,
            originals.host_block_bytes,
            coded.lengths,
            bits(resident.keys),
            bits(resident.values),
            flags,
            out.part_m,
            out.part_l,
            out.part_o,
            out.splits,
            originals.keys.shape[2],
        ),
        {
            "H": shape.kv_heads,
            **shape.constants(),
            "PINNED": coded.first,
            "BFLOAT": originals.keys.dtype == torch.bfloat16,
            "BIAS": BIAS,
            "INTERPRET": triton.knobs.runtime.interpret,
            "FLAG": flag,
        },
        {},
    )


def launch(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    scale: float,
    out: Workspace,
) -> None:
    """Launch the kernel; see `certkv.fast.exact_head.exact_head`."""
    work(q, coded, resident, originals, scratch, moved, scale, out, out.flags).launch(4, num_stages=1)
