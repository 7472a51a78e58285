"""What the blocks of a split add to a head's bound: one block and head per lane, after the pass, read back from it.

    sum_b 2^(reference_b - m) A_b      and G, U, and the same with sizes of values; the worst numbers of any block

What a turn of the loop needs is loaded in the turn before: on an H200, where splits have 136 blocks, it took 7 us of
534 to wait for it.

`certkv.fast.split_terms` has the twin and the formulas.
"""
# ruff: noqa: SIM108 (Triton branches on constants)

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE
from certkv.fast.coded import Coded
from certkv.fast.kernels.operands import widen
from certkv.fast.kernels.outward_fp32 import INFINITY, inflate, known, not_negative, root_of_squares
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.shape import Shape
from certkv.fast.kernels.spectral import block_terms
from certkv.fast.split_terms import ANY_LOST, ANY_UP, COLUMNS, LOOPS, PRODUCT, SUMS, TERMS, squares_up
from certkv.fast.workspace import PART_TERMS

LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
PRODUCT_UP = tl.constexpr(PRODUCT)
HELD = tl.constexpr(PART_TERMS)
SUMMED, BOUNDED = tl.constexpr(SUMS), tl.constexpr(TERMS)
STATE_L, SQUARES, PEAK = (tl.constexpr(COLUMNS.index(name)) for name in ("l", "query_squares", "query_largest"))
TILES = tl.constexpr(LOOPS)
TOP_UP, TOP_LOST = tl.constexpr(ANY_UP), tl.constexpr(ANY_LOST)


@triton.jit
def store_query_numbers(part_terms, row, split, splits, query, largest, G: tl.constexpr, GP: tl.constexpr):
    """Write the sum of squares of a scaled query's numbers, and the largest number of the query as it is."""
    g = tl.arange(0, GP)
    squares = query[0] * query[0]
    for k in tl.static_range(1, len(query)):
        squares = tl.fma(query[k], query[k], squares)
    squares = tl.sum(squares, 0)
    at = part_terms + (row * (G * splits) + split) * HELD + g * (splits * HELD)
    tl.store(at + SQUARES, squares, mask=g < G)
    tl.store(at + PEAK, largest, mask=g < G)


@triton.jit
def first_pages(pages, first, last, GP: tl.constexpr, NB: tl.constexpr):
    """Load where the first of a split's blocks are, as `split_terms` wants it."""
    block = first + tl.arange(0, GP * NB) % NB
    return tl.load(pages + block, mask=block < last, other=0)


@triton.jit
def load_notes(key_notes, value_notes, sizes, place, valid, GROUP: tl.constexpr, NOTES: tl.constexpr):
    """Load what is known of blocks at ``place = page * H + head``."""
    of_keys = key_notes + place * 4
    noted = value_notes + place * NOTES
    size = sizes + place * 2
    if GROUP > 0:
        used = tl.load(noted + 3, mask=valid, other=0)
    else:
        used = tl.load(size + 1, mask=valid, other=0.0)
    return (
        tl.load(of_keys + 1, mask=valid, other=0), tl.load(of_keys + 2, mask=valid, other=0),
        tl.load(noted, mask=valid, other=0), tl.load(noted + 2, mask=valid, other=0),
        tl.load(noted + 4, mask=valid, other=0), tl.load(noted + 5, mask=valid, other=0),
        tl.load(noted + 6, mask=valid, other=0), tl.load(size, mask=valid, other=0.0), used,
    )  # fmt: skip


@triton.jit
def load_seen(seen, shared, block, valid, G: tl.constexpr):
    """Load statistics and references of blocks."""
    at = seen + block * (G * 4)
    return (
        tl.load(at, mask=valid, other=0.0), tl.load(at + 1, mask=valid, other=0.0),
        tl.load(at + 2, mask=valid, other=0.0), tl.load(at + 3, mask=valid, other=0.0),
        tl.load(shared + block * G, mask=valid, other=0.0),
    )  # fmt: skip


@triton.jit
def query_norm(squares, largest, D: tl.constexpr, BFLOAT: tl.constexpr):
    """Upper bound of ``||q||``, ``+inf`` where q is not finite, and one over the power of two of its numbers."""
    down = power_of_two(-query_shift(largest, BFLOAT))
    return known(inflate(root_of_squares(squares, D) * down)), down


@triton.jit
def sums_and_maxima(a, b, c, d, e, f, g, h, i, a2, b2, c2, d2, e2, f2, g2, h2, i2):
    """Join what lanes hold: five sums, four maxima."""
    return (
        a + a2, b + b2, c + c2, d + d2, e + e2,
        tl.maximum(f, f2), tl.maximum(g, g2), tl.maximum(h, h2), tl.maximum(i, i2),
    )  # fmt: skip


@triton.jit
def split_terms(
    part_terms, part_m, statistics, reference, pages, page, key_notes, value_notes, sizes, row, split, splits, first,
    last, max_blocks, state_l, costs, H: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, B: tl.constexpr,
    D: tl.constexpr, GROUP: tl.constexpr, NOTES: tl.constexpr, NB: tl.constexpr, SQUARES_UP: tl.constexpr,
    BFLOAT: tl.constexpr
):  # fmt: skip
    """Write the terms of the blocks from ``first`` to before ``last``, of which the pass has written all else."""
    scale, floor, query_lost, product_lost, relative_charge, constant_charge, root_block, size_factor = costs
    i = tl.arange(0, GP * NB)
    g, lane = i // NB, i % NB
    # one address per KV head, in 64 bits, and what is behind it in 32
    own = part_terms + (row * (G * splits) + split) * HELD
    states = part_m + row * (G * (splits + 1)) + split
    shared_here = reference + row * (G * max_blocks) + g
    seen_here = statistics + row * (G * max_blocks * 4) + g * 4
    head = (row % H).to(tl.int32)
    there = (g < G) & (first + lane < last)
    noted = load_notes(key_notes, value_notes, sizes, page * H + head, there, GROUP, NOTES)
    page = tl.load(pages + first + NB + lane, mask=first + NB + lane < last, other=0)
    # what one thread of the program has stored another one reads
    tl.debug_barrier()
    seen = load_seen(seen_here, shared_here, first + lane, there, G)
    m = tl.load(states + g * (splits + 1), mask=g < G, other=0.0)
    squared = tl.load(own + g * (splits * HELD) + SQUARES, mask=g < G, other=0.0)
    largest_q = tl.load(own + g * (splits * HELD) + PEAK, mask=g < G, other=0.0)
    norm_q, down = query_norm(squared, largest_q, D, BFLOAT)
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor
    slope = inflate(scale * norm_q)
    offset = inflate(scale * (norm_q * floor + query_lost * largest_q))
    down = scale * down
    nothing = tl.zeros([GP * NB], tl.float32)
    about, of, values, scales, total_size = nothing, nothing, nothing, nothing, nothing
    worst, largest, farthest, lossy = nothing, nothing, nothing, nothing
    for start in range(first, last, NB * TILES):
        # sums of sums: no path has more additions than `check_roundings` knows of
        about1, of1, values1, scales1, size1 = nothing, nothing, nothing, nothing, nothing
        for tile in range(start, tl.minimum(start + NB * TILES, last), NB):
            block = tile + lane
            valid = (g < G) & (block < last)
            notes = noted
            total, squares, top, steps, shared = seen[0], seen[1], seen[2], seen[3], seen[4]
            # those of the next turn are on their way while this one's are computed with
            there = (g < G) & (block + NB < last)
            noted = load_notes(key_notes, value_notes, sizes, page * H + head, there, GROUP, NOTES)
            page = tl.load(pages + block + 2 * NB, mask=block + 2 * NB < last, other=0)
            seen = load_seen(seen_here, shared_here, block + NB, there, G)
            relative, operator = widen(notes[0], True), widen(notes[1], True)
            residual, anchored = not_negative(widen(notes[2], True)), not_negative(widen(notes[3], True))
            residual_operator = not_negative(widen(notes[4], True))
            anchored_operator = not_negative(widen(notes[5], True))
            mean = widen(notes[6], True)
            operand = notes[7]
            if GROUP > 0:
                used = inflate(not_negative(widen(notes[8], True)) * size_factor)
            else:
                used = not_negative(notes[8])
            mean = tl.where((mean >= 0.0) & (mean < INFINITY), mean, 0.0)
            size = slope * tl.where(operand <= OPERAND, operand, INFINITY) + offset
            eps = tl.where(size <= LARGEST, relative_charge * size + constant_charge, INFINITY)
            error = down * (root_of_squares(steps, D) * PRODUCT_UP + product_lost)
            delta = inflate(error * not_negative(relative) + eps)
            omega = inflate(error * not_negative(operator) + root_block * eps)
            one, other, third = block_terms(
                total, squares, top, delta, omega, anchored, anchored_operator, residual, residual_operator, B,
                SQUARES_UP, TOP_UP, TOP_LOST,
            )  # fmt: skip
            weight = tl.where(valid, tl.exp2(shared - m), 0.0)
            about1 = tl.fma(weight, one, about1)
            of1 = tl.fma(weight, other, of1)
            values1 = tl.fma(weight, third, values1)
            total = weight * total
            scales1 = tl.fma(total, mean, scales1)
            size1 = tl.fma(total, used, size1)
            worst = tl.maximum(worst, tl.where(valid, known(delta), 0.0))
            largest = tl.maximum(largest, tl.where(valid, used, 0.0))
            farthest = tl.maximum(farthest, anchored)
            lossy = tl.maximum(lossy, residual)
        about, of, values, scales, total_size = (
            about + about1, of + of1, values + values1, scales + scales1, total_size + size1
        )  # fmt: skip
    found = tl.reduce(
        (
            tl.reshape(about, [GP, NB]), tl.reshape(of, [GP, NB]), tl.reshape(values, [GP, NB]),
            tl.reshape(scales, [GP, NB]), tl.reshape(total_size, [GP, NB]), tl.reshape(worst, [GP, NB]),
            tl.reshape(largest, [GP, NB]), tl.reshape(farthest, [GP, NB]), tl.reshape(lossy, [GP, NB]),
        ), 1, sums_and_maxima,
    )  # fmt: skip
    g = tl.arange(0, GP)
    to = own + g * (splits * HELD)
    tl.store(to + STATE_L, state_l, mask=g < G)
    for i in tl.static_range(BOUNDED):
        if i != STATE_L:
            tl.store(to + i, found[i if i < STATE_L else i - 1], mask=g < G)


def constants(shape: Shape, coded: Coded) -> dict[str, int | float]:
    """Return what the kernel is compiled for."""
    return {
        "NOTES": coded.pool.value_notes.shape[-1],
        "NB": max(8, 32 * shape.warps // shape.columns),
        "SQUARES_UP": squares_up(coded.block),
    }
