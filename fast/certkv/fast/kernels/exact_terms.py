"""Certify rung 3: one program per head that was computed by it; formulas in `certkv.fast.exact_terms`.

bound  =  min( ( (e^eps - 1) R + eps_acc ) e^eps,  R )  +  cast
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.charges import LARGEST_OPERAND, LARGEST_QUERY, LARGEST_SIZE, LARGEST_STEP, Charges, ScoreCharge
from certkv.fast.coded import Coded
from certkv.fast.kernels.certify import distance_ub
from certkv.fast.kernels.choose import over
from certkv.fast.kernels.outward_fp32 import (
    FACTOR,
    INFINITY,
    exp_minus_lb,
    expm1_ub,
    inflate,
    known,
    load16,
    not_negative,
)
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.outward_fp32 import above
from certkv.fast.resident import Resident

BLOCKS = 256
"""Blocks of a sequence that are looked at at once."""

LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
QUERY = tl.constexpr(LARGEST_QUERY)
STEP = tl.constexpr(LARGEST_STEP)


@triton.jit
def exact_terms_kernel(
    q,
    resident_keys,
    resident_norms,
    present,
    size,
    value_notes,
    page_table,
    lengths,
    flags,
    output,
    bound,
    missing,
    dense,
    magnitude,
    floor,
    relative,
    constant,
    of_mean,
    of_output,
    absolute,
    cast_relative,
    cast_absolute,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    BP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    N: tl.constexpr,
    BFLOAT: tl.constexpr,
    ORIGINALS: tl.constexpr,
    FEW_BITS: tl.constexpr,
    FLAG: tl.constexpr,
    program=None,
):
    """Bound a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    if tl.load(flags + row) == FLAG:
        kv = row // G
        sequence, head = kv // H, kv % H
        tokens = tl.load(lengths + sequence)
        blocks = tokens // B
        lost = tl.zeros((N,), tl.int32)
        sizes = tl.zeros((N,), tl.float32)
        norms = tl.zeros((N,), tl.float32)
        for start in range(0, blocks, N):
            block = start + tl.arange(0, N)
            coded = (block >= FIRST) & (block < blocks)
            # a pinned block is read where it lies on the device
            there = tl.load(present + kv * max_blocks + block, mask=coded, other=1)
            lost = tl.maximum(lost, tl.where(there == 0, 1, 0))
            page = tl.load(page_table + sequence * max_blocks + block, mask=coded, other=0).to(tl.int64)
            norm = not_negative(load16(value_notes + (page * H + head) * 7 + 1, coded, True))
            norms = tl.maximum(norms, tl.where(coded, norm, 0.0))
            sizes = tl.maximum(sizes, known(tl.load(size + row * max_blocks + block, mask=coded, other=0.0)))
        if ORIGINALS and tl.max(lost, 0) != 0:
            tl.store(missing + sequence, 1)
        channel = tl.arange(0, DP)
        live = channel < D
        token = tl.arange(0, BP)
        query = tl.abs(load16(q + row * D + channel, live, BFLOAT))[None, :]
        largest_size = tl.max(sizes, 0)
        largest = tl.max(norms, 0)
        for slot in range(0, 2):
            count = tl.where(slot == 0, tl.where(blocks > 0, B * FIRST, 0), tokens % B)
            if count > 0:
                mask = (token < count)[:, None] & live[None, :]
                keys = tl.abs(
                    load16(resident_keys + ((kv * 2 + slot) * B + token[:, None]) * D + channel, mask, BFLOAT)
                )
                products = tl.where(mask, tl.maximum(keys, floor) * tl.maximum(query, floor), 0.0)
                fits = (keys <= OPERAND) & (query <= OPERAND)
                dots = tl.max(tl.sum(tl.where(fits, products, INFINITY), 1), 0)
                largest_size = tl.maximum(largest_size, known(inflate(magnitude * dots)))
                largest = tl.maximum(largest, tl.load(resident_norms + (kv * 2 + slot) * 4))
        c = tl.load(output + row * D + channel, mask=live, other=0.0)[None, :]
        norm = tl.sum(distance_ub(c, 0.0, D), 0)
        finite = tl.max(tl.where(tl.abs(c) < INFINITY, 0, 1)) == 0
        beyond = (largest_size > LARGEST) | (largest > OPERAND)
        if not ORIGINALS and not BFLOAT:
            beyond = beyond | (tl.max(query) > QUERY)
            if FEW_BITS:
                norm_q = tl.sqrt_rn(tl.sum(query * query))
                beyond = beyond | (largest_size > STEP * magnitude * norm_q)
        if not finite and beyond:
            tl.store(dense + sequence, 1)
        eps = tl.where(largest_size <= LARGEST, inflate(relative * largest_size + constant), INFINITY)
        radius = largest + norm
        accumulation = of_mean * largest + of_output * norm + absolute
        theorem = over(inflate(known(expm1_ub(eps) * radius) + accumulation), exp_minus_lb(eps))
        cast = (cast_relative * norm + cast_absolute) * FACTOR
        tl.store(bound + row, known((tl.minimum(theorem, known(inflate(radius))) + cast) * FACTOR))


def work(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    present: torch.Tensor,
    size: torch.Tensor,
    scale: float,
    charge: ScoreCharge,
    charges: Charges,
    flags: torch.Tensor,
    output: torch.Tensor,
    bound: torch.Tensor,
    missing: torch.Tensor | None,
    dense: torch.Tensor,
    flag: int = 1,
) -> Work:
    """Return what to launch, for heads whose flag is ``flag``; arguments as those of the twin, contiguous."""
    (batch, heads, head_dim), kv_heads = q.shape, coded.anchor.shape[1]
    return Work(
        exact_terms_kernel,
        (batch * heads, 1, 1),
        (
            q.view(torch.int16),
            resident.keys.view(torch.int16),
            resident.norms,
            present,
            size,
            coded.pool.value_notes.view(torch.int16),
            coded.page_table,
            coded.lengths,
            flags,
            output,
            bound,
            dense if missing is None else missing,
            dense,
            above(abs(scale)),
            charges.floor,
            charge.relative,
            charge.constant,
            above(charges.of_mean + charges.of_largest),
            charges.of_output,
            charges.absolute,
            charges.cast_relative,
            charges.cast_absolute,
            present.shape[-1],
        ),
        {
            "H": kv_heads,
            "G": heads // kv_heads,
            "B": coded.block,
            "BP": triton.next_power_of_2(coded.block),
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "FIRST": coded.first,
            "N": BLOCKS,
            "BFLOAT": q.dtype == torch.bfloat16,
            "ORIGINALS": missing is not None,
            "FEW_BITS": coded.key_bits < 8,
            "FLAG": flag,
        },
        {},
    )


def launch(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    present: torch.Tensor,
    size: torch.Tensor,
    scale: float,
    charge: ScoreCharge,
    charges: Charges,
    flags: torch.Tensor,
    output: torch.Tensor,
    bound: torch.Tensor,
    missing: torch.Tensor | None,
    dense: torch.Tensor,
) -> None:
    """Launch the kernel; arguments as those of `certkv.fast.exact_terms.exact_terms_twin`, contiguous."""
    made = work(q, coded, resident, present, size, scale, charge, charges, flags, output, bound, missing, dense)
    made.launch(4 if q.shape[-1] <= 128 else 8)
