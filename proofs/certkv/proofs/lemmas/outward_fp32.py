"""Theorem ``outward_fp32``: the budget of the factor, the guarded subtraction, psi's polynomial.

u is 2^-24 where a number is needed. Powers ``(1-u)^n >= 1 - n u`` are `arithmetic.power`; one sum, product, quotient or
root, bit by bit, is `rounding.sum_outward_float32` and its neighbours.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _power_of_two(exponent: int) -> Any:
    return z3.RealVal(1) / z3.RealVal(2**exponent)


U = _power_of_two(24)


def _budget(*, most: int = 1000) -> Goal:
    # K' roundings each way and the elementary functions
    low, e = reals("low e")
    factor = 1 + _power_of_two(12)
    return real(factor * low * (1 - e) >= 1, low >= 1 - 2 * most * U, low <= 1, between(0, e, _power_of_two(14)))


def _quotient(*, factor: int = 1) -> Goal:
    # computed N >= n P, D <= d / P: (N/D) F >= n/d where P^2 F >= 1
    n, d, N, D, P, F, value, result = reals("n d N D P F value result")
    return real(
        result >= value,
        n >= 0,
        d > 0,
        D > 0,
        P > 0,
        n * P <= N,
        d >= D * P,
        factor <= P * P * F,
        F >= 1,
        value * d == n,
        result * D == N * F,
        *([] if factor == 1 else [P <= 1]),
    )


def _few(*, count: int = 8) -> Goal:
    # (1 + 2^-20)(1 - 8u) >= 1
    (low,) = reals("low")
    return real((1 + _power_of_two(20)) * low >= 1, low >= 1 - count * U, low <= 1)


def _exp(*, guard: int = 16) -> Goal:
    # from above and from below
    e, t = reals("e t")
    g = _power_of_two(guard)
    return real(
        z3.And((1 - e) * (1 + g) * (1 - t) >= 1, (1 + e) * (1 - g) * (1 + t) <= 1),
        between(0, e, _power_of_two(17)),
        between(0, t, U),
    )


def _psi_polynomial(*, last: int = 22) -> Goal:
    # x^2/24 + x^3/120 + ... <= x^2 (1/24 + (x/120)/(1 - x/6)), as every ratio of terms is at most x/6
    x, tail = reals("x tail")
    return real(1 / z3.RealVal(24) + tail <= 1 / z3.RealVal(last), between(0, x), 8 * x <= 1, 20 * tail * (6 - x) == x)


def _psi_tail(*, ratio: int = 6) -> Goal:
    # induction: sum <= first/(1 - x/6) survives a further term at the end, term <= (x/ratio) previous
    x, rest, term, whole = reals("x rest term whole")
    return real(
        (term + rest) * (6 - x) <= 6 * term,
        between(0, x, 1),
        term >= 0,
        rest * (6 - x) <= 6 * whole,
        whole * ratio <= x * term,
        whole >= 0,
    )


def _expm1_from_psi(*, square: bool = True) -> Goal:
    # e^x - 1 = x + x^2 psi; the computed one from above
    x, psi, psi_ub = reals("x psi psi_ub")
    return real(
        x + x * x * psi <= x + (x * x if square else x * x * x) * psi_ub, between(0, x, 1), between(0, psi, psi_ub)
    )


def _difference(*, share: int = 20) -> Goal:
    # e^x - 1 - x >= (e^x - 1)/21 where x <= (20/21)(e^x - 1): a relative guard g of e^x - 1 becomes at most 21 g
    grown, x, g, above = reals("grown x g above")
    return real(
        above - x <= (grown - x) * (1 + 21 * g),
        grown > 0,
        between(0, x),
        21 * x <= share * grown,
        g >= 0,
        above <= grown * (1 + g),
    )


def _perp(*, block: int = 254) -> Goal:
    # q is computed from Q, t = top^2 <= Q, d and the sum as rounded: the guard covers q's own error
    Q, q, t, ft, d, apart = reals("Q q t ft d apart")
    guard = _power_of_two(16) * q
    return real(
        apart * (1 + 8 * U) >= Q - t,
        between(0, t, Q),
        q >= Q * (1 - block * U),
        ft <= t * (1 + U),
        d >= 0,
        d >= (q - ft) * (1 - U),
        apart >= (d + guard) * (1 - U),
    )


def _perp_whole(*, guarded: bool = True) -> Goal:
    # the other side of the minimum: q with its guard is at least Q
    Q, q, t = reals("Q q t")
    return real((q * (1 + _power_of_two(16)) if guarded else q) >= Q - t, between(0, t, Q), q >= Q * (1 - 254 * U))


def _perp_minimum(*, smaller: bool = True) -> Goal:
    # beta_1 delta_1 <= beta_1 Delta and the rest by the root: D_1 with a larger root is larger
    top, Delta, op, root, root_ub = reals("top Delta op root root_ub")
    low, high = (root, root_ub) if smaller else (root_ub, root)
    return real(
        top * Delta + low * op <= top * Delta + high * op, top >= 0, Delta >= 0, op >= 0, between(0, root, root_ub)
    )


def _inflated_argument(*, above: bool = True) -> Goal:
    # e^-y <= e^-x for y >= x, as products: with E = e^(y-x) >= 1
    low, exact, E = reals("low exact E")
    return real(low <= exact, exact > 0, low * E == exact, E >= 1 if above else E > 0)


def _flushed(*, charged: bool = True) -> Goal:
    # what n results lost, each at most f, is at most the charge
    exact, computed, lost, n, f = reals("exact computed lost n f")
    return real(
        computed + (lost if charged else 0) >= exact,
        computed >= exact - n * f,
        at_most(n, 2**26),
        between(0, f, _power_of_two(126)),
        lost == _power_of_two(100),
    )


def _last_quotient(*, charged: bool = True) -> Goal:
    # x = N/D exactly; q rounded by a factor g, or anything where x is below the normal range; s = fl(q + tiny)
    x, q, s, g, tiny = reals("x q s g tiny")
    return real(
        s >= g * x,
        x >= 0,
        q >= 0,
        between(0, g, 1),
        tiny > 0,
        z3.Or(q >= g * x, x < tiny),
        s >= q,
        *([s >= tiny] if charged else []),
    )


def _last_product(*, inside: bool = True) -> Goal:
    # what is at least tiny and multiplied by F stays above F times a quotient below tiny; added after F it would not
    x, F, tiny, result = reals("x F tiny result")
    return real(result >= x * F, between(0, x, tiny), F >= 1, tiny > 0, result >= (tiny * F if inside else tiny))


LEMMAS = (
    Lemma(
        "outward_fp32.budget",
        "K' <= 1000: (1 + 2^-12)(1 - 2K'u)(1 - 2^-14) >= 1",
        _budget,
        partial(_budget, most=2000),
    ),
    Lemma(
        "outward_fp32.quotient",
        "N >= nP, D <= d/P, P²F >= 1: (N/D)F >= n/d",
        _quotient,
        partial(_quotient, factor=0),
    ),
    Lemma("outward_fp32.few", "(1 + 2^-20)(1 - 8u) >= 1", _few, partial(_few, count=32)),
    Lemma(
        "outward_fp32.exp",
        "(1 - 2^-17)(1 + 2^-16)(1 - u) >= 1 and (1 + 2^-17)(1 - 2^-16)(1 + u) <= 1",
        _exp,
        partial(_exp, guard=18),
    ),
    Lemma(
        "outward_fp32.psi_tail",
        "induction: terms that shrink by x/6 sum to at most first/(1 - x/6)",
        _psi_tail,
        partial(_psi_tail, ratio=3),
    ),
    Lemma(
        "outward_fp32.psi_polynomial",
        "0 <= x <= 1/8: 1/24 + (x/120)/(1 - x/6) <= 1/22",
        _psi_polynomial,
        partial(_psi_polynomial, last=24),
    ),
    Lemma(
        "outward_fp32.expm1_from_psi",
        "ψ <= ψ_ub: x + x²ψ <= x + x²ψ_ub",
        _expm1_from_psi,
        partial(_expm1_from_psi, square=False),
    ),
    Lemma(
        "outward_fp32.difference",
        "x <= (20/21)(e^x - 1): raising e^x - 1 by a share g raises e^x - 1 - x by at most 21g",
        _difference,
        partial(_difference, share=21),
    ),
    Lemma(
        "outward_fp32.perp",
        "B <= 254, q >= Q(1 - Bu): (max(q - t, 0) + 2^-16 q)(1 + 8u) >= Q - t, every operation rounded",
        _perp,
        partial(_perp, block=280),
    ),
    Lemma("outward_fp32.perp_whole", "q(1 + 2^-16) >= Q - t", _perp_whole, partial(_perp_whole, guarded=False)),
    Lemma(
        "outward_fp32.perp_used",
        "a larger β_⊥ does not lower β₁Δ + β_⊥Δ^op",
        _perp_minimum,
        partial(_perp_minimum, smaller=False),
    ),
    Lemma(
        "outward_fp32.inflated_argument",
        "y >= x: e^-y <= e^-x, so an inflated argument leaves exp its own error only",
        _inflated_argument,
        partial(_inflated_argument, above=False),
    ),
    Lemma(
        "outward_fp32.flushed",
        "2^26 results flushed below 2^-126 lose at most 2^-100",
        _flushed,
        partial(_flushed, charged=False),
    ),
    Lemma(
        "outward_fp32.last_quotient",
        "q >= g x, or x < t: s >= q and s >= t are at least g x, however much q lost below t = 2^-126",
        _last_quotient,
        partial(_last_quotient, charged=False),
    ),
    Lemma(
        "outward_fp32.last_product",
        "x <= t: t F >= x F; t added after F was multiplied is not enough",
        _last_product,
        partial(_last_product, inside=False),
    ),
)
