"""An upper bound for the operator norm of a matrix H = diag(1/s) W, whose B rows W lie in memory.

``||H|| <= (tr G^8)^(1/16)``, G = H H^T scaled by a power of two, so that its trace is from 1 to 4::

    G = (W W^T)_ij / (s_i s_j)      off by at most gamma(d + 2) ||H||_F^2, because |w_i| |w_j| bounds every sum
    S = G G^T                       off by at most gamma(B) ||G||_F^2
    F = S S^T                       off by at most gamma(B) ||S||_F^2
    ||H||^2 <= ||G|| + lost,  ||G||^2 <= ||S|| + lost,  ||S||^2 <= ||F||_F + lost

in float64 (``mma.f64`` rounds as IEEE 754; gamma holds for any order, fused or not). W as computed is off by its own
rounding and by err, the rounding of decoding: their Frobenius norm over s is added. The twin is
`certkv.fast.annotate.rows_norm_ub`. W, G and S go through memory, since a product wants all of both operands; they are
small enough to stay in the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.numbers import U, gamma, outward

CHANNELS = 16
"""Columns of a tile of W, and terms of one step of a product."""

PANEL = 32
"""Rows of a product at a time."""

WARPS = {16: 4, 32: 4, 64: 4, 128: 8}
"""Warps by rows of a tile; other numbers of rows take 8."""

PROGRAMS_PER_MULTIPROCESSOR = 2


@triton.jit
def _product(
    a,
    N: tl.constexpr,
    unit,
    out,
    UNITS: tl.constexpr,
    STORE: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    K: tl.constexpr,
):
    """Form A A^T of A [R, N], over ``unit_i unit_j`` if UNITS (0 where one is 0); return the sum of squares of it."""
    row = tl.arange(0, R)
    term = tl.arange(0, K)
    total = tl.zeros((R,), tl.float64)
    for panel in range(0, R, RP):
        mine = panel + tl.arange(0, RP)
        product = tl.zeros((RP, R), tl.float64)
        for first in range(0, N, K):
            left = tl.load(a + mine[:, None] * N + first + term[None, :])
            right = tl.load(a + row[:, None] * N + first + term[None, :])
            product = tl.dot(left, tl.trans(right), product, out_dtype=tl.float64)
        if UNITS:
            over = tl.load(unit + mine)[:, None] * tl.load(unit + row)[None, :]
            product = tl.where(over > 0.0, product / tl.where(over > 0.0, over, 1.0), 0.0)
        if STORE:
            tl.store(out + mine[:, None] * R + row[None, :], product)
        total += tl.sum(product * product, 0)
    return tl.sum(total, 0)


@triton.jit
def rows_norm(
    w,
    gram,
    second,
    units,
    unit,
    squares,
    err_squares,
    R: tl.constexpr,
    RP: tl.constexpr,
    DP: tl.constexpr,
    C: tl.constexpr,
    GAMMA_D: tl.constexpr,
    GAMMA_R: tl.constexpr,
    UP: tl.constexpr,
    OWN: tl.constexpr,
):
    """Bound ``||diag(1/unit) W||``, W float64 [R, DP] in memory; rows whose unit is 0 count as 0.

    ``squares`` and ``err_squares`` are the rows' sums of squares of W and of what it is off by. G, S and the units are
    written, to [R, R], [R, R] and [R]; program by program, so that nobody else may use them.
    """
    # a product of two units is exact: 24 bits each; rows without a unit are zero
    over = tl.where(unit > 0.0, unit * unit, 1.0)
    frobenius = tl.sum(tl.where(unit > 0.0, squares / over, 0.0), 0)
    off = tl.sum(tl.where(unit > 0.0, err_squares / over, 0.0), 0)
    # 2**-(2 half), from bits: brings the trace to [1, 4); the units take its inverse root
    exponent = (frobenius.to(tl.int64, bitcast=True) >> 52) - 1023
    half = tl.where(frobenius > 0.0, exponent, 0) >> 1
    root = ((1023 + half) << 52).to(tl.float64, bitcast=True)
    trace = frobenius * ((1023 - 2 * half) << 52).to(tl.float64, bitcast=True)
    tl.store(units + tl.arange(0, R), unit * root)
    tl.debug_barrier()
    gram_squares = _product(w, DP, units, gram, True, True, R, RP, C)
    tl.debug_barrier()
    second_squares = _product(gram, R, units, second, False, True, R, RP, C)
    tl.debug_barrier()
    fourth_squares = _product(second, R, units, second, False, False, R, RP, C)
    norm = tl.sqrt(fourth_squares) * UP
    norm = tl.sqrt(norm + GAMMA_R * second_squares * UP) * UP
    norm = tl.sqrt(norm + GAMMA_R * gram_squares * UP) * UP
    norm = tl.sqrt(tl.minimum(norm + GAMMA_D * trace * UP, trace * UP)) * UP * root
    norm = (norm + (tl.sqrt(off) + OWN * tl.sqrt(frobenius)) * UP) * UP
    return norm


def programs_of(items: int, device: torch.device) -> int:
    """Programs that share the items; each has scratch of its own."""
    if device.type != "cuda":
        return min(items, 2)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return min(items, PROGRAMS_PER_MULTIPROCESSOR * multiprocessors)


def numbers(rows: int, padded: int) -> int:
    """Float64 numbers in memory that a program takes: W of so many rows and columns, G, S and units."""
    return rows * padded + 2 * rows * rows + rows


def constants(rows: int, padded: int) -> dict[str, float]:
    """Return the rounding constants of `rows_norm` for W of so many rows and columns."""
    up = outward(max(rows * rows, padded + rows) + 8)
    return {"GAMMA_D": gamma(padded + 3), "GAMMA_R": gamma(rows + 2), "UP": up, "OWN": 4.0 * U}
