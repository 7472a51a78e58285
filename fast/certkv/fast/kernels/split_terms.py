"""What the blocks of a split add to a head's bound: one block and head per lane, after the pass, read back from it.

    sum_b 2^(reference_b - m) A_b      and G, U, and the same with sizes of values; the worst numbers of any block

`certkv.fast.split_terms` has the twin and the formulas.
"""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE
from certkv.fast.coded import Coded
from certkv.fast.kernels.outward_fp32 import INFINITY, inflate, known, load16, not_negative, root_of_squares
from certkv.fast.kernels.pass_state import power_of_two, query_shift
from certkv.fast.kernels.shape import Shape
from certkv.fast.kernels.spectral import block_terms
from certkv.fast.split_terms import COLUMNS, LOOPS, PRODUCT, SUMS, TERMS, WIDTH, squares_up

LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)
PRODUCT_UP = tl.constexpr(PRODUCT)
STRIDE = tl.constexpr(WIDTH)
TERM_COLUMNS = tl.constexpr(TERMS)
SUM_COLUMNS = tl.constexpr(SUMS)
SQUARES = tl.constexpr(COLUMNS.index("query_squares"))
PEAK = tl.constexpr(COLUMNS.index("query_largest"))
TILES = tl.constexpr(LOOPS)


@triton.jit
def store_query_numbers(part_terms, row, split, states, query, largest, G: tl.constexpr, GP: tl.constexpr):
    """Write the sum of squares of a scaled query's numbers, and the largest number of the query as it is."""
    g = tl.arange(0, GP)
    squares = tl.zeros([GP], tl.float32)
    for k in tl.static_range(len(query)):
        squares += tl.sum(query[k] * query[k], 0)
    at = part_terms + ((row * G + g) * states + split) * STRIDE
    tl.store(at + SQUARES, squares, mask=g < G)
    tl.store(at + PEAK, largest, mask=g < G)


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
    part_terms, part_m, statistics, reference, pages, key_notes, value_notes, sizes, row, split, states, first, last,
    max_blocks, costs, H: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    GROUP: tl.constexpr, NOTES: tl.constexpr, NB: tl.constexpr, SQUARES_UP: tl.constexpr, BFLOAT: tl.constexpr
):  # fmt: skip
    """Write the terms of the blocks from ``first`` to before ``last``, of which the pass has written all else."""
    scale, floor, query_lost, product_lost, relative_charge, constant_charge, root_block, size_factor = costs
    none = tl.zeros([GP, NB], tl.int32)
    g = tl.arange(0, GP)[:, None] + none
    lane = tl.arange(0, NB)[None, :] + none
    page = tl.load(pages + first + lane, mask=first + lane < last, other=0)
    # what one thread of the program has stored another one reads
    tl.debug_barrier()
    live = g < G
    heads = row * G + g
    at = heads * states + split
    m = tl.load(part_m + at, mask=live, other=0.0)
    squared = tl.load(part_terms + at * STRIDE + SQUARES, mask=live, other=0.0)
    largest_q = tl.load(part_terms + at * STRIDE + PEAK, mask=live, other=0.0)
    norm_q, down = query_norm(squared, largest_q, D, BFLOAT)
    norm_q = tl.where(largest_q <= OPERAND, norm_q, INFINITY) + floor
    unit = scale * down
    slope = inflate(scale * norm_q)
    offset = inflate(scale * (norm_q * floor + query_lost * largest_q))
    nothing = tl.zeros([GP, NB], tl.float32)
    about, of, values, scales, total_size = nothing, nothing, nothing, nothing, nothing
    worst, largest, farthest, lossy = nothing, nothing, nothing, nothing
    for start in range(first, last, NB * TILES):
        # sums of sums: no path has more additions than `check_roundings` knows of
        about1, of1, values1, scales1, size1 = nothing, nothing, nothing, nothing, nothing
        for tile in range(start, tl.minimum(start + NB * TILES, last), NB):
            block = tile + lane
            valid = live & (block < last)
            place = page.to(tl.int64) * H + row % H
            page = tl.load(pages + block + NB, mask=block + NB < last, other=0)
            relative = not_negative(load16(key_notes + place * 4 + 1, valid, True))
            operator = not_negative(load16(key_notes + place * 4 + 2, valid, True))
            noted = value_notes + place * NOTES
            residual = not_negative(load16(noted, valid, True))
            anchored = not_negative(load16(noted + 2, valid, True))
            residual_operator = not_negative(load16(noted + 4, valid, True))
            anchored_operator = not_negative(load16(noted + 5, valid, True))
            mean = load16(noted + 6, valid, True)
            operand = tl.load(sizes + place * 2, mask=valid, other=0.0)
            if GROUP > 0:
                used = inflate(not_negative(load16(noted + 3, valid, True)) * size_factor)
            else:
                used = not_negative(tl.load(sizes + place * 2 + 1, mask=valid, other=0.0))
            seen = statistics + (heads * (max_blocks + 2) + block) * 4
            total = tl.load(seen, mask=valid, other=0.0)
            squares = tl.load(seen + 1, mask=valid, other=0.0)
            top = tl.load(seen + 2, mask=valid, other=0.0)
            steps = tl.load(seen + 3, mask=valid, other=0.0)
            shared = tl.load(reference + heads * max_blocks + block, mask=valid, other=0.0)

            mean = tl.where((mean >= 0.0) & (mean < INFINITY), mean, 0.0)
            size = slope * tl.where(operand <= OPERAND, operand, INFINITY) + offset
            eps = tl.where(size <= LARGEST, relative_charge * size + constant_charge, INFINITY)
            error = unit * (root_of_squares(steps, D) * PRODUCT_UP + product_lost)
            delta = inflate(error * relative + eps)
            omega = inflate(error * operator + root_block * eps)
            one, other, third = block_terms(
                total, squares, top, delta, omega, anchored, anchored_operator, residual, residual_operator, B,
                SQUARES_UP,
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
        (about, of, values, scales, total_size, worst, largest, farthest, lossy), 1, sums_and_maxima
    )  # fmt: skip
    column = tl.arange(0, STRIDE)[None, :]
    row_of = tl.zeros([GP, STRIDE], tl.float32)
    for i in tl.static_range(TERM_COLUMNS):
        row_of = tl.where(column == i, found[i][:, None], row_of)
    g = tl.arange(0, GP)[:, None]
    to = part_terms + ((row * G + g) * states + split) * STRIDE + column
    tl.store(to, row_of, mask=(g < G) & (column < TERM_COLUMNS))


def constants(shape: Shape, coded: Coded) -> dict[str, int | float]:
    """Return what the kernel is compiled for."""
    return {
        "NOTES": coded.pool.value_notes.shape[-1],
        "NB": max(8, 32 * shape.warps // shape.columns),
        "SQUARES_UP": squares_up(coded.block),
    }
