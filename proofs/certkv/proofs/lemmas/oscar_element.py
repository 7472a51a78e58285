"""Theorem ``oscar_element``: how far codes of 2 and 4 bits are from what was quantized, and what that does to scores.

``s`` is the step before it is stored, D the stored one, ``z`` the zero point, ``S = -z s``, Z the stored offset, L the
largest code. Roundings: u of the originals' type, v of binary32; h is half the smallest number of the originals' type,
and what binary32 loses to underflow is part of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _abs(x: Any) -> Any:
    return z3.If(x >= 0, x, -x)


def _span(*, twice: bool = True) -> Goal:
    # half range and quotient round once each: the range is little more than L steps
    x, s, L, v, e = reals("x s L v e")
    return real(
        x <= L * (s + e) * (1 + (3 if twice else 1) * v),
        x * (1 - v) * (1 - v) <= L * (s + e),
        x >= 0,
        L > 0,
        between(0, 8 * v, 1),
        s > 0,
        e >= 0,
    )


def _ratio(*, spacing: bool = True) -> Goal:
    # 16-bit numbers are a share 2^-p of their size apart, so a minimum is no more than so many steps from 0
    lo, x, s, P, L, v, e = reals("lo x s P L v e")
    return real(
        1024 * lo <= 1025 * P * L * s,
        lo <= P * x if spacing else lo <= 2 * P * x,
        x <= L * (s + e) * (1 + 3 * v),
        4096 * e <= s,
        v * 2**24 == 1,
        s > 0,
        e >= 0,
        L >= 1,
        P >= 1,
    )


def _zero(*, free: bool = True) -> Goal:
    # the zero point is the integer nearest to -lo/s, wherever that is: the offset is half a step from the minimum
    lo, s, X, Y, z, e = reals("lo s X Y z e")
    return real(
        at_most(2 * (lo + z * s), s * (1 + 2 * e)),
        X * s == lo,
        at_most(Y + X, e),
        at_most(2 * (z - Y), 1) if free else z == 0,
        s > 0,
        e >= 0,
    )


def _shift(*, both: bool = True) -> Goal:
    # two roundings of the offset, in terms of the stored one
    S, Z, w, h, u = reals("S Z w h u")
    return real(
        at_most(Z - S, u * (1 + 4 * u) * _abs(Z) + (1 + 2 * u) * h),
        at_most(Z - S, w * _abs(S) + h),
        2 * w <= 2 * u + u * u if both else w <= 4 * u,
        between(0, w),
        h >= 0,
        between(0, 64 * u, 1),
    )


def _two_roundings(*, fine: bool = True) -> Goal:
    # u + v + uv <= u + u^2/2: binary32 is much finer than either type of originals
    u, v = reals("u v")
    return real(2 * (u + v + u * v) <= 2 * u + u * u, (4 if fine else 1) * v <= u * u, u >= 0, v >= 0, u <= 1)


def _clipped(*, inside: bool = True) -> Goal:
    # an offset beyond the largest number is stored as that: nearer to the minimum, and no lower
    S, c, lo, hi, M = reals("S c lo hi M")
    larger = z3.If(lo <= S, S - lo, 0)
    above = z3.If(hi >= S, hi - S, 0)
    return real(
        z3.And(c - lo <= larger, hi - c <= above),
        c == z3.If(S < -M, -M, z3.If(S > M, M, S)),
        between(-M, lo, hi),
        *([hi <= M] if inside else []),
        M > 0,
    )


def _below(*, covered: bool = True) -> Goal:
    # a number below the offset has code 0
    x, lo, Z, S, s, e, r = reals("x lo Z S s e r")
    return real(
        at_most(x - Z, s * (0.5 + e) + r),
        between(lo if covered else lo - s, x, Z),
        at_most(lo - S, s * (0.5 + e)),
        at_most(Z - S, r),
        s > 0,
        e >= 0,
        r >= 0,
    )


def _above(*, step: bool = True) -> Goal:
    # a number above the last code, which may be a step rounded down L times too low
    x, lo, hi, Z, S, s, D, L, e, r, f, q = reals("x lo hi Z S s D L e r f q")
    return real(
        at_most(x - Z - L * D, s * (0.5 + e) + r + f + (L * q if step else q)),
        between(Z + L * D, x, hi),
        hi - lo <= L * s + f,
        s - q <= D,
        at_most(lo - S, s * (0.5 + e)),
        at_most(Z - S, r),
        L >= 1,
        s > 0,
        between(0, e),
        between(0, r),
        between(0, f),
        between(0, q),
    )


def _inside(*, half: int = 4) -> Goal:
    # not clamped: from the computed half difference d to the exact one, t = (x - Z)/2
    t, d, c, D, L, v = reals("t d c D L v")
    return real(
        at_most(2 * t - c * D, D * (0.5 + (L + 0.5) * v)),
        at_most(t - d, v * _abs(d)),
        at_most(half * (d - c * D / 2), D),
        between(0, c, L),
        D > 0,
        between(0, v),
    )


def _figure(bits: int, unit: int, *, room: int = 2) -> Goal:
    """All of it together, for one number of bits and one type."""
    error, s, D, Z, h, u, v = reals("error s D Z h u v")
    L = 2**bits - 1
    slack = z3.RealVal(1) / 2 ** (10 if bits == 2 else 9)
    offset = u * (1 + 4 * u) * Z + (1 + 2 * u) * h
    # `oscar_element.ratio`; 2^unit is 1/u. Binary32 loses at most 2^-150 here and there, less than h/2^14
    e = v * 2**unit * L * (1 + z3.RealVal(1) / 2**10) + v * v
    least = (D * (0.5 + slack + L * u) + u * Z) * (1 + 4 * u) + (L + room) * h
    return real(
        error <= least,
        error <= s * (0.5 + e) + offset + 4 * L * v * s + h / 2**10 + L * (u * s + h),
        s * (1 - u) <= D + h,
        u * 2**unit == 1,
        v * 2**24 == 1,
        D >= 0,
        Z >= 0,
        h >= 0,
        s >= 0,
    )


def _published(unit: int, *, carried: bool = True) -> Goal:
    """Codes from the numbers before they were stored, a rounded decode: everything that storing moves is carried."""
    error, s, D, Z, top, h, u, v = reals("error s D Z top h u v")
    slack = z3.RealVal(1) / 2**10
    carry = 3 * u if carried else 0
    least = (D * (0.5 + slack + carry) + u * Z + u * top) * (1 + 4 * u) + 6 * h
    moved = 3 * (u * s + h) + u * (1 + 4 * u) * Z + (1 + 2 * u) * h
    e = 2 * v * 2**unit * 3 + 16 * v
    return real(
        error <= least,
        error <= s * (0.5 + e) + moved + u * top + h,
        s * (1 - u) <= D + h,
        u * 2**unit == 1,
        v * 2**24 == 1,
        *(x >= 0 for x in (D, Z, top, h, s)),
    )


def _divided(*, absolute: bool = True) -> Goal:
    # a token over its norm, rounded to binary32 and to the type of the originals, and multiplied back
    y, n, q, x, u, v, h = reals("y n q x u v h")
    size = (u + v + u * v) * y
    return real(
        at_most(n * x - y, size + (n * h if absolute else h)),
        at_most(n * q - y, v * y),
        at_most(x - q, u * q + h),
        y >= 0,
        q >= 0,
        n > 0,
        between(0, u),
        between(0, v),
        h >= 0,
    )


def _score(*, each: bool = True) -> Goal:
    # |sum q e| <= sum |q| e survives a channel, each with its own bound
    total, size, q, d, e = reals("total size q d e")
    return real(at_most(total + q * d, size + _abs(q) * e), at_most(total, size), at_most(d, e if each else 2 * e))


def _norm_outside(*, magnitude: bool = True) -> Goal:
    # the norm multiplies the score, never the key
    n, total, size = reals("n total size")
    return real(at_most(n * total, n * size), at_most(total, size), n >= 0 if magnitude else n <= 1)


def _token(*, scaled: bool = True) -> Goal:
    # Hk - n x_hat = (Hk - y) + (y - n x) + n (x - x_hat), as norms
    a, b, c, n, whole, error = reals("a b c n whole error")
    return real(
        whole <= a + b + (n * c if scaled else c),
        whole <= a + b + error,
        error <= n * c,
        n >= 0,
        c >= 0,
        between(0, error),
    )


def _zero_token(*, zero: bool = True) -> Goal:
    # a token of norm 0 means 0, whatever its codes are
    n, Z, D, c = reals("n Z D c")
    return real(n * (Z + D * c) == 0, n == 0 if zero else n >= 0)


FIGURES = tuple(
    Lemma(
        f"oscar_element.figure{bits}_{kind}",
        f"{kind}, L = {2**bits - 1}: all of it is at most (1 + 4u)(D(1/2 + 2^-{10 if bits == 2 else 9} + Lu) + u|Z|) "
        f"+ (L + 2)h",
        partial(_figure, bits, unit),
        partial(_figure, bits, unit, room=-2),
    )
    for bits in (2, 4)
    for kind, unit in (("float16", 11), ("bfloat16", 8))
)

PUBLISHED = tuple(
    Lemma(
        f"oscar_element.published_{kind}",
        f"{kind}: codes from s and z before storing, decoded with rounding: "
        "(1 + 4u)(D(1/2 + 2^-10 + 3u) + u|Z| + u max) + 6h",
        partial(_published, unit),
        partial(_published, unit, carried=False),
    )
    for kind, unit in (("float16", 11), ("bfloat16", 8))
)

LEMMAS = (
    Lemma(
        "oscar_element.span",
        "(hi - lo)(1-v)² <= L(s + e) gives hi - lo <= L(s + e)(1 + 3v)",
        _span,
        partial(_span, twice=False),
    ),
    Lemma(
        "oscar_element.ratio",
        "|lo| <= 2^p(hi - lo) gives |lo| <= 2^p L s (1 + 2^-10)",
        _ratio,
        partial(_ratio, spacing=False),
    ),
    Lemma(
        "oscar_element.zero",
        "z the integer nearest to -lo/s, not clamped: |lo + zs| <= s(1/2 + e)",
        _zero,
        partial(_zero, free=False),
    ),
    Lemma(
        "oscar_element.two_roundings",
        "v <= u²/4, u <= 1: u + v + uv <= u + u²/2",
        _two_roundings,
        partial(_two_roundings, fine=False),
    ),
    Lemma(
        "oscar_element.shift",
        "|Z - S| <= w|S| + h, w <= u + u²/2: at most u(1 + 4u)|Z| + (1 + 2u)h",
        _shift,
        partial(_shift, both=False),
    ),
    Lemma(
        "oscar_element.clipped",
        "an offset cut at the largest number is no farther above the minimum, and no farther below the maximum",
        _clipped,
        partial(_clipped, inside=False),
    ),
    Lemma("oscar_element.below", "lo <= x <= Z: |x - Z| <= s(1/2 + e) + r", _below, partial(_below, covered=False)),
    Lemma(
        "oscar_element.above",
        "Z + LD <= x <= hi: |x - Z - LD| <= s(1/2 + e) + r + f + Lq",
        _above,
        partial(_above, step=False),
    ),
    Lemma(
        "oscar_element.inside",
        "a code that was not clamped: |x - Z - cD| <= D(1/2 + (L + 1/2)v), x on either side of Z",
        _inside,
        partial(_inside, half=3),
    ),
    *FIGURES,
    *PUBLISHED,
    Lemma(
        "oscar_element.divided",
        "y over n, rounded twice, times n: within (u + v + uv)|y| + nh of y",
        _divided,
        partial(_divided, absolute=False),
    ),
    Lemma("oscar_element.score", "induction: |Σqd| <= Σ|q|e survives a channel", _score, partial(_score, each=False)),
    Lemma(
        "oscar_element.norm_outside",
        "n >= 0: |nΣqd| <= nΣ|q|e",
        _norm_outside,
        partial(_norm_outside, magnitude=False),
    ),
    Lemma(
        "oscar_element.token",
        "‖Hk - n x̂‖ <= ‖Hk - y‖ + ‖y - nx‖ + n‖x - x̂‖",
        _token,
        partial(_token, scaled=False),
    ),
    Lemma(
        "oscar_element.zero_token", "n = 0: n(Z + Dc) = 0 for any code", _zero_token, partial(_zero_token, zero=False)
    ),
)
