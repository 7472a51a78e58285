"""Device functions of theorem ``spectral``; formulas as in `certkv.fast.spectral`, one row per block.

Weights of a block enter by five numbers: sum l1, root of squares l2, largest top, root of squares of the rest.
"""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    INFINITY,
    SIXTH,
    exp_minus_lb,
    exp_ub,
    expm1_ub,
    inflate,
    known,
    psi_ub,
    root_of_squares,
)

THIRD = tl.constexpr(1.0 / 3.0)


@triton.jit
def sums(w, column, BLOCK: tl.constexpr):
    """Return l1, l2, top, rest of every row of w [rows, columns]; columns beyond the block hold 0."""
    squares = w * w
    top, at = tl.max(w, 1, return_indices=True)
    l2 = root_of_squares(tl.sum(squares, 1), BLOCK)
    rest = root_of_squares(tl.sum(tl.where(column == at[:, None], 0.0, squares), 1), BLOCK)
    return tl.sum(w, 1), l2, top, rest


@triton.jit
def first_order(l1, l2, top, rest, delta, omega):
    """Bound ``sum w_t |delta_t|``."""
    least = tl.minimum(known(omega * l2), known(top * delta + rest * omega))
    return tl.minimum(known(delta * l1), least)


@triton.jit
def root_order(l2, top, delta, omega):
    """Bound ``||(w_t delta_t)_t||``."""
    return tl.minimum(known(top * omega), known(delta * l2))


@triton.jit
def second_order(l1, l2, top, delta, omega):
    """Bound ``sum w_t delta_t^2``."""
    product = tl.minimum(known(omega * omega * top), known(delta * omega * l2))
    return tl.minimum(known(delta * delta * l1), product)


@triton.jit
def alike(a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, largest, operator, gamma, delta, omega):
    """``C`` with all tokens alike, before it is inflated: a of the shares, b of shares times relative distances."""
    curve = psi_ub(delta)
    root = known(operator * root_order(b2, b_top, delta, omega))
    first = tl.minimum(first_order(b1, b2, b_top, b_rest, delta, omega), root)
    about = largest * (first + curve * second_order(b1, b2, b_top, delta, omega))
    of = first_order(a1, a2, a_top, a_rest, delta, omega) + curve * second_order(a1, a2, a_top, delta, omega)
    return known(about + gamma * of)


@triton.jit
def value_term(l1, l2, top, rest, largest, operator):
    """``U`` from the sums of shares times relative residuals."""
    least = tl.minimum(known(l1), known(operator * l2))
    least = tl.minimum(least, known(top + operator * rest))
    return tl.where(largest == 0.0, 0.0, inflate(known(largest * least)))


@triton.jit
def weight_lb(a1, a2, a_top, a_rest, mass_lb, delta, omega):
    """``D``."""
    moved = first_order(a1, a2, a_top, a_rest, delta, omega)
    some = mass_lb > 0.0
    exponent = known(inflate(tl.div_rn(moved, tl.where(some, mass_lb, 1.0))))
    least = tl.minimum(exponent, delta)
    return tl.where(some, mass_lb * exp_minus_lb(least) * DOWN, 0.0)


@triton.jit
def key_term(
    a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, c1, c2, c_top, c_rest, d1, d2, d_top, d_rest,
    largest, operator, gamma, share, distance, radius, delta, omega,
):  # fmt: skip
    """``C``: a, b of all tokens' shares and shares times relative distances; c, d of the same without token h."""
    smaller = tl.minimum(delta, omega)
    growth = expm1_ub(smaller)
    whole = alike(a1, a2, a_top, a_rest, b1, b2, b_top, b_rest, largest, operator, gamma, smaller, omega)
    others = alike(c1, c2, c_top, c_rest, d1, d2, d_top, d_rest, largest, operator, gamma, smaller, omega)
    least = tl.minimum(whole, known(share * growth * distance + others))
    least = tl.minimum(least, known(a1 * growth * radius))
    return tl.where(smaller == 0.0, 0.0, inflate(least))


@triton.jit
def share_factor(reference, maximum, denominator):
    """``2^(reference - M) / l``; ``+inf`` where a reference, M or l is not a number."""
    shift = reference - maximum
    below = denominator + tl.zeros_like(shift)
    usable = (shift > -INFINITY) & (below > 0.0) & (below < INFINITY)
    return tl.where(usable, tl.div_rn(tl.exp2(shift), below), INFINITY)


@triton.jit
def mass_lb(mass, mass_down, mass_lost):
    """Lower bound of the effective mass from a computed one; 0 where that is not finite."""
    finite = tl.where(mass < INFINITY, mass, 0.0)
    return tl.maximum(finite * mass_down * DOWN - mass_lost, 0.0) * DOWN


@triton.jit
def block_terms(
    total, squares, top, delta, omega, anchored, anchored_operator, residual, residual_operator,
    BLOCK: tl.constexpr, SQUARES_UP: tl.constexpr, TOP_UP: tl.constexpr, TOP_LOST: tl.constexpr,
):  # fmt: skip
    """Return A, G and U of blocks from one number per block; linear in the weights, so in any unit of theirs.

    Nothing is inflated. What is undefined is NaN, which a minimum with what is defined drops.
    """
    squares = squares * SQUARES_UP
    l2 = root_of_squares(squares, BLOCK)
    rest = root_of_squares(tl.maximum(squares - top * top, 0.0), BLOCK)
    delta = tl.minimum(delta, omega)
    by_sum, by_norm, by_top = delta * total, delta * l2, omega * (top * TOP_UP + TOP_LOST)
    first = tl.minimum(tl.minimum(by_sum, omega * l2), delta * top + omega * rest)
    root = anchored_operator * tl.minimum(by_top, by_norm)
    square = tl.minimum(delta * by_sum, omega * tl.minimum(by_top, by_norm))
    second = (exp_ub(delta) * SIXTH + THIRD) * square
    values = tl.minimum(tl.minimum(total, residual_operator * l2), top + residual_operator * rest)
    return anchored * (tl.minimum(first, root) + second), first + second, residual * values
