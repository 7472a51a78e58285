"""Theorem ``outward_fp32``: a certificate evaluated in binary32 that is still an upper bound.

Every accumulator of the certificate is made of sums, products, minima, maxima, roots and quotients of non-negative
numbers, each correctly rounded. With at most K roundings on a path to the numerator and as many to the denominator, a
value that is lambda in real arithmetic comes out as at least ``lambda (1-u)^K / (1+u)^K``, u = 2^-24. So it is
multiplied by ``1 + 2^-12``, where

    (1 + 2^-12) (1 - 2 K' u) (1 - 2^-14)  >=  1      for K' = K + 1 <= MOST_ROUNDINGS,

the last factor being left to elementary functions. Their *arguments* are upper bounds first (`inflate`): an error of
the argument would grow with it. The only subtraction, ``||beta||^2 - beta_1^2``, is replaced by ``max(q2 - beta_1^2, 0)
+ 2^-16 q2`` (`beta_perp_ub`). What underflows is charged absolutely: ``LOST`` covers 2^26 results flushed to zero,
`TINY` the last quotient.

On a device: ``+ - *`` round to nearest without contraction that would *lower* a result, quotients and roots by
``div_rn`` and ``sqrt_rn`` (approximate ones have other errors), exp and expm1 within the allowances below.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.errors import SettingError
from certkv.reference.numbers.types import Float32Array

U32 = 2.0**-24
"""Unit roundoff of binary32."""

MOST_ROUNDINGS = 1000
"""Largest K' for which the factor is proved (lemma ``outward_fp32.budget``)."""

FACTOR = np.float32(1.0 + 2.0**-12)
"""What a result of at most that many roundings is multiplied by."""

ELEMENTARY = 2.0**-14
"""Relative error that elementary functions may add to numerator and denominator together."""

EXP_ALLOWANCE = 2.0**-17
"""Assumed relative accuracy of exp and expm1 in binary32 from `PSI_SWITCH` to 80. Tested for NumPy; ``ex2(x log2 e)``
and ``ex2(x log2 e) - 1`` with 2 ulp have it too: the product's rounding, ``80 u``, is the larger part."""

EXP_UP, EXP_DOWN = np.float32(1.0 + 2.0**-16), np.float32(1.0 - 2.0**-16)
"""Lemma ``outward_fp32.exp``: ``(1 - 2^-17) (1 + 2^-16) (1 - u) >= 1``, ``(1 + 2^-17) (1 - 2^-16) (1 + u) <= 1``."""

LOST = np.float32(2.0**-100)
"""At least 2^26 results below 2^-126."""

LEAST_DENOMINATOR = np.float32(2.0**-60)
"""Below this a denominator counts as 0."""

MOST_DENOMINATOR = np.finfo(np.float32).max
"""Above this a denominator counts as 0: a sum that overflowed says nothing of its real value."""

PERP_GUARD = np.float32(2.0**-16)
"""Share of q2 that the subtraction may lose."""

SQUARE_LOST = 2.0**-125
"""Twice what a result can lose by being flushed: a square, and its place in the sum."""

PERP_BLOCK = 254
"""Largest block for which the guard is proved (lemma ``outward_fp32.perp``)."""

PSI_SWITCH = np.float32(0.1)
"""Where psi changes from a polynomial to expm1."""

UP = np.float32(1.0 + 2.0**-20)
"""Covers up to 8 roundings (lemma ``outward_fp32.few``)."""

TINY = np.float32(2.0**-126)
"""Smallest normal number: more than a result loses by being subnormal, and all of it where it is flushed to zero."""


def roundings(tokens: int, block: int, splits: int) -> int:
    """Return K: roundings on any path to a sum of the certificate.

    Within a block at most ``block`` (a sum over its tokens) plus 16 (a term: products with annotations, psi, roots);
    over the blocks of a split a sum and a rescaling each, ``2 ceil(N / (S B))``; a product and a sum per split; 8 at
    the end (`finish`). Quantities that enter as bounds of their own, already inflated, bring no roundings with them.

    Raises
    ------
    SettingError
        If K is too large for the factor: more splits or larger blocks are needed.
    """
    if min(tokens, block, splits) < 1:
        raise SettingError(f"tokens {tokens}, block {block} and splits {splits} must be at least 1")
    k = block + 2 * -(-tokens // (splits * block)) + 2 * splits + 24
    if k + 1 > MOST_ROUNDINGS:
        raise SettingError(
            f"{k} roundings on a path ({tokens} tokens, blocks of {block}, {splits} splits); the factor 1 + 2^-12 is "
            f"proved for {MOST_ROUNDINGS - 1}: use more splits, or other blocks"
        )
    return k


def inflate(x: Float32Array) -> Float32Array:
    """Upper bound of a number that was computed from non-negative ones in at most ``MOST_ROUNDINGS - 1`` roundings."""
    with np.errstate(over="ignore"):
        return np.asarray(x * FACTOR + LOST, dtype=np.float32)


def psi_ub(x: Float32Array) -> Float32Array:
    """Upper bound of ``psi(x) = (e^x - 1 - x) / x^2``, x >= 0, at most 1.01 times it.

    NaN stays, ``+inf`` gives ``+inf``. Up to 0.1: ``1/2 + x/6 + x^2/22``, because ``1/24 + x/120 / (1 - x/6) <= 1/22``.
    Above: expm1, rounded up before x is taken off; the difference is at least 1/21 of it, so that 2^-15 become 2^-10.
    """
    x = np.asarray(x, dtype=np.float32)
    large = np.maximum(x, PSI_SWITCH)
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = (np.expm1(large) * EXP_UP - large) / (large * large) * UP
        # where e^x overflows or x^2 does
        quotient = np.where(np.isnan(quotient) & ~np.isnan(x), np.float32(np.inf), quotient)
    return np.asarray(np.where(x <= PSI_SWITCH, _polynomial(x), quotient), dtype=np.float32)


def _polynomial(x: Float32Array) -> Float32Array:
    """Upper bound of psi up to 0.1."""
    small = np.minimum(x, PSI_SWITCH)
    with np.errstate(under="ignore"):
        return np.asarray((np.float32(0.5) + small * (np.float32(1 / 6) + small * np.float32(1 / 22))) * UP)


def expm1_ub(x: Float32Array) -> Float32Array:
    """Upper bound of ``e^x - 1 = x + x^2 psi(x)``, x >= 0; ``+inf`` where it overflows."""
    x = np.asarray(x, dtype=np.float32)
    small = np.minimum(x, PSI_SWITCH)
    with np.errstate(over="ignore", under="ignore"):
        near = (small + small * small * _polynomial(x)) * UP + TINY
        return np.asarray(np.where(x <= PSI_SWITCH, near, np.expm1(x) * EXP_UP), dtype=np.float32)


def exp_minus_lb(x: Float32Array) -> Float32Array:
    """Lower bound of ``e^-x``, x >= 0; 0 from 80 on, where the result would soon leave the normal range."""
    x = np.asarray(x, dtype=np.float32)
    near = np.exp(-np.minimum(x, np.float32(80.0))) * EXP_DOWN
    return np.asarray(np.where(x < 80.0, near, np.float32(0.0)), dtype=np.float32)


def beta_perp_ub(q2: Float32Array, top: Float32Array, block: int) -> Float32Array:
    """Upper bound of ``(||beta||^2 - beta_1^2)^(1/2)``.

    Parameters
    ----------
    q2 : float32
        The sum of the squares of at most ``block`` numbers ``beta >= 0``, in binary32, in any order.
    top : float32
        The largest of them (or a number that was used in its place, no larger).
    block : int

    Returns
    -------
    float32
        At least the exact root for the numbers whose squares were summed.

    Raises
    ------
    SettingError
        If the guard is not proved for such a block.
    """
    if not 1 <= block <= PERP_BLOCK:
        raise SettingError(f"block {block}: the guard 2^-16 covers sums of 1 to {PERP_BLOCK} squares")
    flushed = np.float32((block + 1) * SQUARE_LOST)  # every square and sum may have been flushed to zero, and two here
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        apart = np.maximum(q2 - top * top, np.float32(0.0)) + PERP_GUARD * q2
        # q2 itself may be too small by the same share
        square = np.minimum(apart, q2 + PERP_GUARD * q2) + flushed
        root = np.sqrt(square) * UP
    return np.asarray(np.where(np.isnan(root), np.float32(np.inf), root), dtype=np.float32)


def finish(
    A: Float32Array,
    G: Float32Array,
    U: Float32Array,
    eps: Float32Array,
    D: Float32Array,
    gamma: Float32Array,
) -> Float32Array:
    """Upper bound of ``(A + gamma G + U + eps) / D`` from accumulators in binary32.

    Parameters
    ----------
    A, G, U, D : float32 [heads]
        Non-negative, each from at most ``K - 8`` roundings, K = ``roundings(...)``; all relative to the same maximum.
    eps : float32 [heads]
        ``l eps_acc``: above the denominator, in the units of A.
    gamma : float32 [heads]
        Upper bound of ``||c - mu||`` (inflated: its roundings are not counted again).

    Returns
    -------
    float32 [heads]
        ``+inf`` where anything is NaN, where D is infinite or below 2^-60, or where the bound overflows; never below
        2^-126.
    """
    A, G, U, eps, D, gamma = (np.asarray(x, dtype=np.float32) for x in (A, G, U, eps, D, gamma))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        numerator = A + gamma * (G + LOST) + U + eps + LOST
        # a quotient below the normal range lost less than TINY, which leaves the others no smaller
        bound = (numerator / D + TINY) * FACTOR
    # below 2^-60 gradual underflow of its terms could have raised the sum by more than its roundings did
    known = ~np.isnan(bound) & (D >= LEAST_DENOMINATOR) & (D <= MOST_DENOMINATOR)
    return np.asarray(np.where(known, bound, np.float32(np.inf)), dtype=np.float32)
