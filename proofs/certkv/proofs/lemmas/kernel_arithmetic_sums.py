"""Theorem ``kernel_arithmetic``: formats of the weights, what is lost, sums, the quotient and shares."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import FP16, FP32, RNE, chain, constant, exact, floats, rounded, value, widen
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals

ALL = ("z3", "cvc5", "bitwuzla")


def _absolute(x: Any) -> Any:
    return z3.If(x >= 0, x, -x)


def _two_parts(*, rest: bool = True) -> Goal:
    # hi within u of p, lo within u of what is left: together within u^2
    p, hi, lo, u = reals("p hi lo u")
    return real(
        at_most(hi + lo - p, u * u * p),
        p >= 0,
        at_most(hi - p, u * p),
        at_most(lo - (p - hi), u * _absolute(p - hi)) if rest else at_most(lo - (p - hi), u * p),
        between(0, u),
        u < 1,
    )


def _two_parts_size(*, four: int = 4) -> Goal:
    # |hi| + |lo| <= (1 + 4u)(hi + lo)
    p, hi, lo, u = reals("p hi lo u")
    return real(
        _absolute(hi) + _absolute(lo) <= (1 + four * u) * (hi + lo),
        p >= 0,
        at_most(hi - p, u * p),
        at_most(lo, u * p * (1 + u)),
        hi + lo >= p * (1 - u * u),
        between(0, u),
        16 * u <= 1,
    )


def _factor_lost(*, both: bool = True) -> Goal:
    # |A B - a b| <= |A - a| B + a |B - b| for what a lost factor becomes on its way
    A, B, a, b, first, second, most = reals("A B a b first second most")
    return real(
        at_most(A * B - a * b, first * most + (second * most if both else 0)),
        at_most(A - a, first),
        at_most(B - b, second),
        between(0, A, most),
        between(0, B, most),
        between(0, a, most),
        between(0, b, most),
    )


def _far(*, factor: int = 2) -> Goal:
    # both weights of a far token are below f: they differ by at most 2f whatever they are
    w, p, f = reals("w p f")
    return real(at_most(w - p, factor * f), between(0, w, f), between(-f, p, f))


def _lost_output(*, twice: int = 2) -> Goal:
    # L (c_A - O) = sum (A - w)(v - O), `arithmetic.swap_weights`: one token more, ||v - O|| <= 2 max||v||
    total, n, a, A, w, v, out, most = reals("total n a A w v out most")
    return real(
        at_most(total + (A - w) * (v - out), (n + 1) * a * twice * most),
        at_most(total, n * a * twice * most),
        at_most(A - w, a),
        at_most(v, most),
        at_most(out, most),
        n >= 0,
    )


def _centre(*, outside: bool = True) -> Goal:
    # one coordinate: L (c - O) = error of o + division - (l - L) c
    c, out, o, L, sum_, N, rounding = reals("c out o L l N rounding")
    return real(
        L * (c - out) == (o - N) + rounding - ((sum_ - L) * c if outside else 0),
        out * L == N,
        sum_ * c == o + rounding,
    )


def _division(*, below: bool = True) -> Goal:
    # c = (o/l)(1 + t), |t| <= e: |l c - o| <= e/(1-e) l |c|
    c, o, sum_, t, e, share = reals("c o l t e share")
    return real(
        at_most(sum_ * c - o, share * sum_ * _absolute(c)),
        sum_ > 0,
        sum_ * c == o * (1 + t),
        at_most(t, e),
        e >= 0,
        e < 1,
        share * (1 - e) == e if below else share == e,
        share >= 0,
    )


def _accumulation(*, denominator: bool = True) -> Goal:
    # norms: L||c - O|| <= E_o M + e' l ||c|| + E_l L ||c||, l <= (1 + E_l) L
    apart, L, M, mean, c, sum_, E_o, E_l, e = reals("apart L M mean c l E_o E_l e")
    quotient = E_l + (1 + E_l) * e if denominator else e
    return real(
        apart <= E_o * mean + quotient * c,
        L > 0,
        mean * L == M,
        apart * L <= E_o * M + e * sum_ * c + E_l * L * c,
        between(0, sum_, (1 + E_l) * L),
        between(0, c),
        E_o >= 0,
        E_l >= 0,
        e >= 0,
    )


def _unrounded_sum(*, charged: bool = True) -> Goal:
    # l sums p, o sums P: |P - p| <= u p moves o by u M
    total, M, P, p, v, u = reals("total M P p v u")
    return real(
        at_most(total + (P - p) * v, (u if charged else 0) * (M + p * _absolute(v))),
        at_most(total, u * M if charged else 0 * M),
        at_most(P - p, u * p),
        p >= 0,
        u >= 0,
        M >= 0,
    )


def _largest_weight(*, small: bool = True) -> Goal:
    # the token of the maximum: exponent at least -1/2 (h = 2^-1/2, h^2 = 1/2), exp2 and P rounded
    L, h, e, u, w = reals("L h e u w")
    return real(
        2 * L >= 1,
        h > 0,
        2 * h * h == 1,
        between(0, e, z3.RealVal(1) / 64 if small else z3.RealVal(1) / 2),
        between(0, u, z3.RealVal(1) / 64 if small else z3.RealVal(1) / 2),
        w >= h * (1 - e) * (1 - u),
        w <= L,
    )


def _share_ub(*, absolute: int = 4) -> Goal:
    # rho = (P + h)/(L + H), |h|, |H| <= lost <= L/4 (L >= 1/2): rho <= P/L + 8 lost
    rho, share, P, L, h, H, lost = reals("rho share P L h H lost")
    return real(
        rho <= share + 2 * absolute * lost,
        rho * (L + H) == P + h,
        share * L == P,
        between(0, P, L),
        2 * L >= 1,
        at_most(h, lost),
        at_most(H, lost),
        8 * lost <= 1,
    )


def _share_lb(*, absolute: int = 4) -> Goal:
    rho, share, P, L, h, H, lost = reals("rho share P L h H lost")
    return real(
        rho >= share - 2 * absolute * lost,
        rho * (L + H) == P + h,
        share * L == P,
        between(0, P, L),
        2 * L >= 1,
        at_most(h, lost),
        at_most(H, lost),
        8 * lost <= 1,
    )


def _split_share(*, flushed: bool = True) -> Goal:
    # a weight w in the unit of its split, at most x and r, meets f, of which F is computed, or 0: s is what F lacks
    w, x, f, F, s, r, lost, t, most = reals("w x f F s r lost t most")
    return real(
        w * f <= x * F + lost + (most * t if flushed else 0),
        w == x + r,
        f == F + s,
        r <= lost,
        s <= t,
        between(0, w, most),
        between(0, F, 1),
        x >= 0,
        lost >= 0,
        t >= 0,
    )


def _cast(*, absolute: bool = True) -> Goal:
    # relative where normal, half the smallest number where not
    x, y, u, s = reals("x y u s")
    return real(
        at_most(y - x, u * _absolute(x) + (s if absolute else 0)),
        z3.Or(at_most(y - x, u * _absolute(x)), at_most(y - x, s)),
        u >= 0,
        s >= 0,
    )


def _subnormal_half(*, half: int = 25) -> Goal:
    """Round binary32 below 2^-14 to binary16: absolute error 2^-25, the difference being exact."""
    x = constant("x", FP32)
    y = widen(rounded(x, FP16), FP32)
    return floats(
        chain(z3.fpAbs(z3.fpSub(RNE, y, x)), value(2.0**-half, FP32)),
        chain(value(0, FP32), x, value(2.0**-14, FP32)),
    )


def _bias(*, most: float = 2.0) -> Goal:
    """Multiply a normal weight by 2^14: exact."""
    p = constant("p", FP32)
    return floats(
        exact(lambda mode, a: z3.fpMul(mode, a, value(2.0**14, FP32)), p),
        chain(value(2.0**-126, FP32), p, value(most, FP32)),
    )


def _fits(*, bias: int = 14) -> Goal:
    """Store a weight of at most 1.5 with bias 14: a finite binary16 number."""
    p = constant("p", FP32)
    y = rounded(z3.fpMul(RNE, p, value(2.0**bias, FP32)), FP16)
    return floats(z3.Not(z3.fpIsInf(y)), chain(value(2.0**-126, FP32), p, value(1.5, FP32)))


LEMMAS = (
    Lemma(
        "kernel_arithmetic.two_parts",
        "hi within u of p, lo within u of p - hi: hi + lo within u²",
        _two_parts,
        partial(_two_parts, rest=False),
    ),
    Lemma(
        "kernel_arithmetic.two_parts_size",
        "|hi| + |lo| <= (1 + 4u)(hi + lo)",
        _two_parts_size,
        partial(_two_parts_size, four=0),
    ),
    Lemma(
        "kernel_arithmetic.factor_lost",
        "|AB - ab| <= |A-a| max + |B-b| max",
        _factor_lost,
        partial(_factor_lost, both=False),
    ),
    Lemma("kernel_arithmetic.far", "two weights below f differ by at most 2f", _far, partial(_far, factor=1)),
    Lemma(
        "kernel_arithmetic.lost_output",
        "Σ(A-ω)(v-Ô): lost weights move the output by at most 2Na max‖v‖/L",
        _lost_output,
        partial(_lost_output, twice=1),
    ),
    Lemma(
        "kernel_arithmetic.centre", "L(c - Ô) = (o - N) + (lc - o) - (l - L)c", _centre, partial(_centre, outside=False)
    ),
    Lemma(
        "kernel_arithmetic.division",
        "c = (o/l)(1+θ), |θ| <= e: |lc - o| <= e/(1-e) l|c|",
        _division,
        partial(_division, below=False),
    ),
    Lemma(
        "kernel_arithmetic.accumulation",
        "‖c - Ô‖ <= E_o mean + (E_l + (1+E_l)e)‖c‖",
        _accumulation,
        partial(_accumulation, denominator=False),
    ),
    Lemma(
        "kernel_arithmetic.unrounded_sum",
        "l from p, o from P: induction, |Σ(P-p)v| <= u Σp|v|",
        _unrounded_sum,
        partial(_unrounded_sum, charged=False),
    ),
    Lemma(
        "kernel_arithmetic.largest_weight",
        "exponent >= -1/2, errors <= 1/64: L >= 1/2",
        _largest_weight,
        partial(_largest_weight, small=False),
    ),
    Lemma("kernel_arithmetic.share_ub", "(P+h)/(L+H) <= P/L + 8 lost", _share_ub, partial(_share_ub, absolute=0)),
    Lemma("kernel_arithmetic.share_lb", "(P+h)/(L+H) >= P/L - 8 lost", _share_lb, partial(_share_lb, absolute=0)),
    Lemma(
        "kernel_arithmetic.split_share",
        "w <= x + lost, f <= F + t: wf <= xF + lost + most t, a weight through the factor of its split",
        _split_share,
        partial(_split_share, flushed=False),
    ),
    Lemma("kernel_arithmetic.cast", "relative or absolute: |y - x| <= u|x| + s", _cast, partial(_cast, absolute=False)),
    Lemma(
        "kernel_arithmetic.subnormal_float16",
        "float32 0 <= x <= 2^-14: |rne16(x) - x| <= 2^-25",
        _subnormal_half,
        partial(_subnormal_half, half=26),
        ALL,
    ),
    Lemma(
        "kernel_arithmetic.bias", "float32 2^-126 <= p <= 2: p 2^14 is exact", _bias, partial(_bias, most=2.0**120), ALL
    ),
    Lemma(
        "kernel_arithmetic.fits",
        "float32 p <= 1.5: p 2^14 rounds to a finite float16",
        _fits,
        partial(_fits, bias=16),
        ALL,
    ),
)
