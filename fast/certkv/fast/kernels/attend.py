"""Attend: one pass over the coded blocks and the resident originals, split over tokens.

With step s, minimum z, codes k and v of a block, and scores x in bits::

    x_t = c ( sum_c (q_c s_c) (k_tc - 128) + sum_c q_c (z_c + 128 s_c) )        c = |scale| log2 e
    m'  = max(m, max_t x_t - 14)      P_t = fp16(2^(x_t - m'))      a = 2^(m - m')
    l   = l a + sum_t P_t
    o_c = o_c a + s_c sum_t P_t (v_tc - h) + (z_c + h s_c) sum_t P_t            h = 8 or 128

Metadata never touch a code: the query is scaled once per block, as the exact sum of two binary16 numbers in columns
side by side, and values are scaled after their dot product, which starts from zero in every block. Codes are centred,
so that what is rounded is small. A program is one warp: it shares nothing, and waits for nobody; where it has many
blocks, the codes of the next ones are on their way while it computes. Formats with groups,
of tokens or of channels, take another way (`certkv.fast.kernels.two_passes`).

Powers of two: the largest number of a query is brought to [32, 64), if it was smaller or is bfloat16. Its products with
binary16 steps, at most 514, are then below 65504; those of a larger query may be infinite, and its output NaN. In
bfloat16 the scaled query of every block is brought below 2^15. The twin is `certkv.fast.attend.attend_twin`.
"""
# ruff: noqa: E741, RUF005 (l is the softmax state's name; Triton adds tuples and branches on constants)
# mypy: disable-error-code="assignment"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from certkv.fast.arithmetic import signed_constant
from certkv.fast.coded import Coded
from certkv.fast.errors import SettingError
from certkv.fast.kernels.coded_block import coded_block
from certkv.fast.kernels.early import early
from certkv.fast.kernels.pass_state import load_query, store_four, store_state
from certkv.fast.kernels.resident_block import ask_for, resident_block
from certkv.fast.kernels.score_block import token_of
from certkv.fast.kernels.shape import Shape, bits, format_constants
from certkv.fast.kernels.split_terms import constants, first_pages, split_terms, store_query_numbers
from certkv.fast.kernels.two_passes import two_passes
from certkv.fast.pool import VALUE_NOTES
from certkv.fast.resident import Resident
from certkv.fast.split_terms import costs
from certkv.fast.workspace import BIAS, Workspace

if TYPE_CHECKING:
    from certkv.fast.rounding import Rounding

HALVES_REGISTERS = 168
"""Limit per thread where keys are taken in halves: twelve programs then share a multiprocessor. On an H200 a pass over
131,072 tokens of `oscar` took 84 us with it and 92 without."""

NO_COSTS = (1.0,) * 8
"""In the place of what rounding costs, where nobody asks."""


@triton.jit(do_not_specialize=["splits", "max_blocks"])
def attend_kernel(
    q,
    sign,
    c2,
    key_codes,
    key_step,
    key_minimum,
    key_norm,
    value_codes_,
    value_step,
    value_minimum,
    value_norms,
    page_table,
    lengths,
    resident_keys,
    resident_values,
    weights,
    reference,
    resident_weights,
    resident_reference,
    resident_sums,
    part_m,
    part_l,
    part_o,
    part_terms,
    statistics,
    key_notes,
    value_notes,
    value_sizes,
    costs,
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
    DP: tl.constexpr,
    NP: tl.constexpr,
    KEY_BITS: tl.constexpr,
    KEY_GROUP: tl.constexpr,
    NORMS: tl.constexpr,
    KEY_OFFSET: tl.constexpr,
    KEYS_ROTATED: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_OFFSET: tl.constexpr,
    VALUES_ROTATED: tl.constexpr,
    SEPARATE: tl.constexpr,
    STAGES: tl.constexpr,
    HALVES: tl.constexpr,
    BFLOAT: tl.constexpr,
    BIAS: tl.constexpr,
    STATISTICS: tl.constexpr,
    NOTES: tl.constexpr,
    NB: tl.constexpr,
    SQUARES_UP: tl.constexpr,
    EARLY: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """One KV head of one sequence (``program_id(0)``) and one split (``program_id(1)``); split 0 here is the residents.

    It is the last one of the workspace, and starts first because it is the longest. With ``STATISTICS``, every other
    program adds up what its blocks add to the bound.
    """
    BP: tl.constexpr = 2 * RP
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    sequence = row // H
    tokens = tl.load(lengths + sequence)
    blocks = tokens // B
    g = tl.arange(0, GP)
    i = tl.arange(0, BP)
    query, c, largest = load_query(q, row * (G * D), sign, c2, G, GP, D, BFLOAT)
    where = tl.where(split == 0, splits, split - 1)
    if STATISTICS and split > 0:
        store_query_numbers(part_terms, row, where, splits, query, largest, G, GP)
    table = page_table + sequence * max_blocks
    first = tl.zeros((), tl.int32)
    last = tl.zeros((), tl.int32)
    found = tl.zeros([GP * NB], tl.int32)
    m = tl.full([GP], float("-inf"), tl.float32)
    l = tl.zeros([GP], tl.float32)
    o = ()
    for _v in tl.static_range((D + VC - 1) // VC):
        o = o + (tl.zeros([VC, GP], tl.float32),)
    if split == 0:
        # both slots of a KV head lie together, 64 numbers per line
        ask_for(resident_keys + row * 2 * (B * D), 2 * B * D, B * D // 32, 64, INTERPRET)
        ask_for(resident_values + row * 2 * (B * D), 2 * B * D, B * D // 32, 64, INTERPRET)
        for slot in range(0, 2):
            count = tl.where(slot == 0, tl.where(blocks > 0, B * PINNED, 0), tokens % B)
            at = (row * G + g) * 2 + slot
            p = tl.zeros([BP, GP], tl.float16)
            ref = tl.full([GP], float("-inf"), tl.float32)
            total = tl.zeros([GP], tl.float32)
            if count > 0:
                start = (row * 2 + slot) * (B * D)
                p, total, m, l, o = resident_block(
                    resident_keys,
                    resident_values,
                    start,
                    count,
                    query,
                    c,
                    m,
                    l,
                    o,
                    G,
                    GP,
                    D,
                    VC,
                    RP,
                    BFLOAT,
                    BIAS,
                    INTERPRET,
                )
                ref = m
            tl.store(resident_weights + at[None, :] * B + i[:, None], p, mask=(g < G)[None, :] & (i < B)[:, None])
            tl.store(resident_reference + at, ref, mask=g < G)
            if STATISTICS:
                tl.store(resident_sums + at, total, mask=g < G)
    else:
        coded = tl.maximum(blocks - PINNED, 0)
        # 32 bits hold the product: there are no more than 2^11 splits, and 2^20 blocks
        first = PINNED + (((split - 1) * coded).to(tl.uint32) // splits.to(tl.uint32)).to(tl.int32)
        last = PINNED + ((split * coded).to(tl.uint32) // splits.to(tl.uint32)).to(tl.int32)
        found = first_pages(table, first, last, GP, NB)
        if SEPARATE:
            m, l, o = two_passes(
                q, sign, c2, query, c, key_codes, key_step, key_minimum, key_norm, value_codes_, value_step,
                value_minimum, value_norms, page_table, weights, reference, statistics, part_o, row, split - 1,
                splits + 1, first, last, max_blocks, H, G, GP, D, DP, VC, B, RP, NP, KEY_BITS, KEY_GROUP, NORMS,
                KEY_OFFSET, KEYS_ROTATED, BITS, GROUP, VALUE_OFFSET, VALUES_ROTATED, STAGES, HALVES, BFLOAT,
                BIAS, STATISTICS, INTERPRET,
            )  # fmt: skip
        else:
            token, there = token_of(i, B, RP)
            for block in range(first, last):
                page = tl.load(page_table + sequence * max_blocks + block).to(tl.int64)
                p, m, l, o, seen = coded_block(
                    key_codes,
                    key_step,
                    key_minimum,
                    value_codes_,
                    value_step,
                    value_minimum,
                    page * H + row % H,
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
                    BITS,
                    BFLOAT,
                    BIAS,
                    STATISTICS,
                    INTERPRET,
                )
                at = (row * max_blocks + block) * G + g
                stored = (g < G)[None, :] & there[:, None]
                tl.store(weights + at[None, :] * B + token[:, None], p, mask=stored)
                tl.store(reference + at, m, mask=g < G)
                if STATISTICS:
                    store_four(statistics + at * 4, seen, g < G)
    if EARLY:
        # not before: programs of the first tier would take the places of those that end early, and be slow there
        gdc_launch_dependents()
    store_state(part_m, part_l, part_o, row, where, splits + 1, g < G, m, l, o, G, GP, D, VC)
    if STATISTICS and split > 0:
        split_terms(
            part_terms, part_m, statistics, reference, table, found, key_notes, value_notes, value_sizes, row, where,
            splits, first, last, max_blocks, l, costs, H, G, GP, B, D, GROUP, NOTES, NB, SQUARES_UP, BFLOAT,
        )  # fmt: skip


def launch(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    scale: float,
    out: Workspace,
    rounding: Rounding | None = None,
) -> None:
    """Launch the kernel; see `certkv.fast.attend.attend`.

    Raises
    ------
    SettingError
        Values whose base codes stand for a middle, with a step per channel: no kernel adds that up (`plan` refuses
        them on a GPU).
    """
    if coded.value_offset > 0.0 and coded.value_group == 0:
        raise SettingError(f"kernels do not read values of {coded.values}; use a cache on the CPU, or another format")
    statistics = rounding is not None
    pool, shape = coded.pool, Shape.of(q, coded)
    bfloat16 = pool.key_step.dtype == torch.bfloat16
    blocks = coded.page_table.shape[1]
    grouped = coded.key_bits < 8 or coded.value_group > 0
    halves = coded.in_halves and shape.warps == 1
    stages = shape.stages(-(-blocks // out.splits), coded)
    value_notes = bits(pool.value_notes)
    attend_kernel[(q.shape[0] * shape.kv_heads, out.splits + 1)](
        bits(q),
        *signed_constant(scale),
        pool.key_codes.view(torch.int32),
        bits(pool.key_step),
        bits(pool.key_minimum),
        pool.key_norm,
        pool.value_codes.view(torch.int32),
        bits(pool.value_step),
        bits(pool.value_minimum),
        value_notes[..., VALUE_NOTES.index("decoded_norm_ub")],
        coded.page_table,
        coded.lengths,
        bits(resident.keys),
        bits(resident.values),
        out.weights,
        out.reference,
        out.resident_weights,
        out.resident_reference,
        out.resident_sums,
        out.part_m,
        out.part_l,
        out.part_o,
        out.part_terms,
        out.statistics,
        bits(pool.key_notes),
        value_notes,
        pool.sizes,
        NO_COSTS if rounding is None else costs(q, coded, scale, rounding),
        out.splits,
        blocks,
        **shape.constants(),
        H=shape.kv_heads,
        PINNED=coded.first,
        **format_constants(coded),
        SEPARATE=grouped,
        STAGES=stages,
        HALVES=halves,
        BFLOAT=bfloat16,
        BIAS=BIAS,
        STATISTICS=statistics,
        **constants(shape, coded),
        EARLY=statistics and early(),
        INTERPRET=triton.knobs.runtime.interpret,
        num_warps=shape.warps,
        num_stages=1 if grouped else stages,
        maxnreg=HALVES_REGISTERS if halves else None,
        enable_fp_fusion=False,
    )
