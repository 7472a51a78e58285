"""Score errors of coded keys in binary32: one program per sequence, KV head and a few blocks.

    Delta = |scale| min( z sum_c |q_c| s_c,  y ||s o q|| )     Omega = |scale| x ||s o q||
    size  = |scale| sum_c max(|q_c|, floor) max( |minimum_c| + (255 + z) s_c, floor )

For keys with groups of tokens every s_c is 1, and ``size = |scale| (||q|| + f) (K + y + f)``.
`certkv.fast.score_error` explains the letters and has the twin.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.charges import LARGEST_OPERAND
from certkv.fast.coded import Coded
from certkv.fast.finer_errors import FinerErrors
from certkv.fast.kernels.outward_fp32 import INFINITY, LOST, inflate, known, load16, not_negative, root_of_squares
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.outward_fp32 import above
from certkv.fast.score_error import LARGEST_CODE, ScoreErrors, root_floor

BLOCKS = 16
"""Blocks of a program."""

OPERAND = tl.constexpr(LARGEST_OPERAND)


@triton.jit
def score_error_kernel(
    query,
    key_step,
    key_minimum,
    key_notes,
    key_sizes,
    page_table,
    lengths,
    delta,
    omega,
    size,
    scale,
    floor,
    lost,
    max_blocks,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    N: tl.constexpr,
    GROUPED: tl.constexpr,
    BFLOAT: tl.constexpr,
    QUERY: tl.constexpr,
    LEVELS: tl.constexpr,
    BATCH: tl.constexpr,
    CODE: tl.constexpr,
    program=None,
):
    """N blocks of a KV head of a sequence; of the levels above the base, one after another's sequences."""
    chunk, head, place_deep = place_of(program)
    level, sequence = place_deep // BATCH, place_deep % BATCH
    block = chunk * N + tl.arange(0, N)
    inside = block < max_blocks
    valid = inside & (block >= FIRST) & (block < tl.load(lengths + sequence) // B)
    page = tl.load(page_table + sequence * max_blocks + block, mask=valid, other=0).to(tl.int64)
    place = page * H + head
    channel = tl.arange(0, DP)
    live = channel < D
    mask = valid[:, None] & live[None, :]
    notes = key_notes + (place * LEVELS + level) * 4
    z = not_negative(load16(notes, valid, True))
    y = not_negative(load16(notes + 1, valid, True))
    x = not_negative(load16(notes + 2, valid, True))
    if GROUPED:
        step = tl.where(mask, 1.0, 0.0)
        operand = known(tl.load(key_sizes + place * 2, mask=valid, other=0.0) + y)
    else:
        step = load16(key_step + place[:, None] * D + channel[None, :], mask, BFLOAT)
        offset = tl.abs(load16(key_minimum + place[:, None] * D + channel[None, :], mask, BFLOAT))
        operand = offset + (CODE + z[:, None]) * step
    for g in range(G):
        row = (sequence * H + head) * G + g
        if QUERY == 2:
            q = tl.abs(tl.load(query + row * D + channel, mask=live, other=0.0))
        else:
            q = tl.abs(load16(query + row * D + channel, live, QUERY == 1))
        products = q[None, :] * step
        some = tl.max(tl.where((q[None, :] != 0.0) & (step != 0.0), 1, 0), 1) > 0
        l1 = tl.where(some, tl.sum(products, 1) + LOST, 0.0)
        l2 = tl.where(some, root_of_squares(tl.sum(products * products, 1), D), 0.0)
        # a NaN makes its comparison false
        if GROUPED:
            norm_q = inflate(root_of_squares(tl.sum(q * q, 0), D))
            sizes = (norm_q + lost) * (operand + lost)
            fits = (tl.max(tl.where(q <= OPERAND, 0, 1), 0) == 0) & (operand <= OPERAND)
        else:
            sizes = tl.where(mask, tl.maximum(q, floor)[None, :] * tl.maximum(operand, floor), 0.0)
            sizes = tl.sum(sizes, 1) + lost * tl.max(q, 0)
            fits = tl.min(tl.where((q[None, :] <= OPERAND) & (operand <= OPERAND) | ~mask, 1, 0), 1) > 0
        largest = tl.minimum(known(scale * (l1 * z)), known(scale * (l2 * y)))
        norm = known(scale * (l2 * x))
        total = tl.where(fits, known(scale * sizes), INFINITY)
        tiny = tl.where(some, LOST, 0.0)
        to = (level * BATCH * (H * G) + row).to(tl.int64) * max_blocks + block
        largest = tl.where(largest == 0.0, tiny, inflate(largest))
        norm = tl.where(norm == 0.0, tiny, inflate(norm))
        tl.store(delta + to, tl.where(valid, largest, INFINITY), mask=inside)
        tl.store(omega + to, tl.where(valid, norm, INFINITY), mask=inside)
        tl.store(size + to, tl.where(valid, inflate(total), INFINITY), mask=inside)


def work(q: torch.Tensor, coded: Coded, scale: float, floor: float, out: ScoreErrors, lost: float = 0.0) -> Work:
    """Return what to launch; arguments as those of the twin, contiguous."""
    pool, (batch, heads, head_dim) = coded.pool, q.shape
    kv_heads, max_blocks = coded.anchor.shape[1], coded.page_table.shape[1]
    query = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}[q.dtype]
    return Work(
        score_error_kernel,
        (triton.cdiv(max_blocks, BLOCKS), kv_heads, batch),
        (
            q if query == 2 else q.view(torch.int16),
            pool.key_step.view(torch.int16),
            pool.key_minimum.view(torch.int16),
            pool.key_notes.view(torch.int16),
            pool.sizes,
            coded.page_table,
            coded.lengths,
            *out,
            above(abs(scale)),
            floor,
            root_floor(floor, head_dim) if coded.key_group else lost,
            max_blocks,
        ),
        {
            "H": kv_heads,
            "G": heads // kv_heads,
            "B": coded.block,
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "FIRST": coded.first,
            "N": BLOCKS,
            "GROUPED": coded.key_group > 0,
            "BFLOAT": pool.key_step.dtype == torch.bfloat16,
            "QUERY": query,
            "LEVELS": 1,
            "BATCH": batch,
            # a divided format's numbers are within its largest code and one more
            "CODE": 2.0**coded.key_bits if coded.key_offset else LARGEST_CODE,
        },
        {},
    )


def finer_work(q: torch.Tensor, coded: Coded, scale: float, out: FinerErrors) -> Work:
    """Return what to launch for the levels above the base, from their notes; no places where there are none."""
    made, levels = work(q, coded, scale, 0.0, ScoreErrors(*out)), len(out.delta)
    notes = coded.pool.finer_key_notes.view(torch.int16)
    blocks, heads, batch = made.grid
    return made._replace(
        grid=(blocks, heads, batch * levels) if levels else (0, 0, 0),
        arguments=(*made.arguments[:3], notes, *made.arguments[4:]),
        constants=made.constants | {"LEVELS": max(1, levels)},
    )


def finer_score_error(q: torch.Tensor, coded: Coded, scale: float, out: FinerErrors) -> None:
    """Launch for the levels above the base; arguments as those of the twin, contiguous."""
    if out.delta.numel():
        finer_work(q, coded, scale, out).launch(4)


def score_error(q: torch.Tensor, coded: Coded, scale: float, floor: float, out: ScoreErrors, lost: float = 0.0) -> None:
    """Launch; arguments as those of the twin, contiguous."""
    work(q, coded, scale, floor, out, lost).launch(4)
