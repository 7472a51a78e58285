"""Theorem ``rotation``: Sylvester's matrix is orthogonal, and a butterfly computes it with an error that is known.

Signs are facts of bits: entry (i, k) is ``(-1)^popcount(i & k)``, indices below 256. Norms are numbers, ``X`` of an
exact vector, ``E`` of an error; R stands for the root of 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import bits, vector
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals

ALL = ("z3", "cvc5", "bitwuzla")
WIDTH = 8
"""Bits of an index: sizes up to 256."""


def _parity(x: Any) -> Any:
    """Lowest bit of ``popcount(x)``, as one bit."""
    bit = z3.Extract(0, 0, x)
    for i in range(1, WIDTH):
        bit = bit ^ z3.Extract(i, i, x)
    return bit


def _rows(*, difference: bool = True) -> Goal:
    """Signs of two rows multiply to the sign of the row ``i ^ j``."""
    i, j, k = (vector(name, WIDTH) for name in "ijk")
    row = i ^ j if difference else i | j
    return bits(_parity(i & k) ^ _parity(j & k) == _parity(row & k))


def _pairs(*, lowest: bool = True) -> Goal:
    """Columns k and ``k ^ b`` have opposite signs in row x, b the lowest bit of x; both are below the size n."""
    x, k, n = (vector(name, WIDTH + 1) for name in "xkn")
    b = x & -x if lowest else z3.BitVecVal(1, WIDTH + 1)
    row, column, other = (z3.Extract(WIDTH - 1, 0, term) for term in (x, k, k ^ b))
    return bits(
        z3.And(_parity(row & column) != _parity(row & other), z3.ULT(k ^ b, n), k ^ b != k),
        n & (n - 1) == 0,
        z3.ULE(n, 256),
        z3.ULT(x, n),
        z3.ULT(k, n),
        x != 0,
    )


def _level(*, both: bool = True) -> Goal:
    """Turn the sign of all other bits where both indices have bit h: what one level does."""
    i, k, h = (vector(name, WIDTH) for name in "ikh")
    turned = z3.And(i & h != 0, k & h != 0) if both else i & h != 0
    rest = _parity((i & ~h) & (k & ~h))
    return bits(_parity(i & k) == z3.If(turned, ~rest, rest), h & (h - 1) == 0, h != 0)


def _above(p: Any, d: Any) -> Any:
    """Offset of the block of size p: the bits of d above p."""
    return d & ~(p | (p - 1))


def _in_block(c: Any, p: Any, d: Any) -> Any:
    offset = _above(p, d)
    return z3.And(d & p != 0, z3.ULE(offset, c), z3.ULT(c, offset + p))


def _covered(*, highest: bool = True) -> Goal:
    """Every channel lies in the block of the highest bit in which it differs from d."""
    c, d = vector("c", 16), vector("d", 16)
    smeared = c ^ d
    for shift in (1, 2, 4, 8) if highest else (1, 2, 4):
        smeared = smeared | z3.LShR(smeared, shift)
    p = smeared ^ z3.LShR(smeared, 1)
    return bits(_in_block(c, p, d), z3.ULT(c, d), z3.ULE(d, 0x7FFF))


def _apart(*, powers: bool = True) -> Goal:
    """No channel lies in two blocks; a block's offset is a multiple of its size and it ends within d."""
    c, d, p, r = (vector(name, 16) for name in "cdpr")
    power = [p & (p - 1) == 0, r & (r - 1) == 0] if powers else []
    inside = z3.And(_above(p, d) & (p - 1) == 0, z3.ULE(_above(p, d) + p, d))
    return bits(
        z3.And(z3.Not(z3.And(_in_block(c, p, d), _in_block(c, r, d))), inside),
        z3.ULE(d, 0x7FFF),
        d & p != 0,
        d & r != 0,
        p != r,
        *power,
    )


def _energy(*, sign: int = 1) -> Goal:
    # a pair of a level: its norm grows by the root of 2
    a, b = reals("a b")
    return real((a + b) * (a + b) + (a - b) * (a - b) == 2 * (a * a + sign * b * b))


def _inner(*, turned: int = -1) -> Goal:
    # inner products of two vectors, pair by pair
    a, b, c, d = reals("a b c d")
    return real((a + b) * (c + d) + (a - b) * (c + turned * d) == 2 * (a * c + b * d))


def _rounded(*, both: bool = True) -> Goal:
    # a pair's two roundings, as a norm
    x, y, s, t, u = reals("x y s t u")
    return real(
        (s * x) * (s * x) + (t * y) * (t * y) <= u * u * (x * x + y * y),
        s * s <= u * u,
        t * t <= (u * u if both else 2 * u * u),
    )


def _grows(*, rounding: bool = True) -> Goal:
    # one level: errors and vector grow by R, and each of the new elements rounds once
    X, E, new, P, R, u = reals("X E new P R u")
    return real(
        new <= (P * (1 + u) - 1) * (R * X),
        E <= (P - 1) * X,
        new <= R * E + u * (R * (X + E)) if rounding else new <= R * E + 2 * u * (R * (X + E)),
        X >= 0,
        R >= 0,
        P >= 1,
        u >= 0,
    )


def _scaled(*, factor: bool = True) -> Goal:
    # the last product: a factor r (1 + w), one rounding, and l lost to underflow
    X, E, new, P, r, F, lost = reals("X E new P r F lost")
    return real(
        new <= ((1 + F) * P - 1) * (r * X) + lost,
        E <= (P - 1) * X,
        new <= F * (r * (X + E)) + r * E + (lost if factor else 2 * lost),
        X >= 0,
        P >= 1,
        F >= 0,
        r >= 0,
        lost >= 0,
    )


def _factors(*, mixed: bool = True) -> Goal:
    # |(1 + w)(1 + t) - 1| <= (1 + u)^2 - 1
    w, t, u = reals("w t u")
    return real(at_most((1 + w) * (1 + t) - 1, 2 * u + (u * u if mixed else 0)), at_most(w, u), at_most(t, u))


def _fits(*, exponent: int = 8) -> Goal:
    # 256 of the largest bfloat16 numbers times 2^-8, and 8 roundings: below the largest binary32 number
    largest, brain, total, P, v = reals("largest brain total P v")
    return real(
        P * total < largest,
        v * 2**24 == 1,
        P * (1 - 8 * v) <= 1,
        P >= 1,
        brain * 2**7 == 2**8 - 1,
        largest == 2 - 2 * v,
        between(0, total * 2**exponent, 256 * brain),
    )


def _lost(*, counted: bool = True) -> Goal:
    # n elements that each lose at most e: one more
    squares, x, n, e = reals("squares x n e")
    return real(
        squares + x * x <= (n + (1 if counted else 0)) * (e * e), squares <= n * (e * e), x * x <= e * e, n >= 0
    )


def _twice(*, again: bool = True) -> Goal:
    # rotating the computed rotation: its own error, and that of the first carried through exactly
    K, first, Y, second, g, lost = reals("K first Y second g lost")
    return real(
        first + second <= (2 * g + (g * g if again else 0)) * K + (2 + (g if again else 0)) * lost,
        first <= g * K + lost,
        K + first >= Y,
        second <= g * Y + lost,
        between(0, first),
        between(0, K),
        g >= 0,
        lost >= 0,
    )


def _norm_kept(*, once: bool = True) -> Goal:
    # the computed rotation is as long as the original, up to its error
    K, Y, error, g, lost = reals("K Y error g lost")
    return real(at_most(Y - K, g * K + lost), at_most(Y - K, error), error <= (g if once else 2 * g) * K + lost)


def _overflow(*, every: bool = True) -> Goal:
    # elements of a level, by the sums of magnitudes they are made of
    x, y, A, B, t, u, P = reals("x y A B t u P")
    return real(
        at_most((x + y) * (1 + t), P * (1 + u) * (A + B)),
        at_most(x, P * A),
        at_most(y, P * B if every else 2 * P * B),
        at_most(t, u),
        u >= 0,
        P >= 0,
        A >= 0,
        B >= 0,
    )


LEMMAS = (
    Lemma(
        "rotation.rows",
        "signs (-1)^popcount of rows i and j multiply to those of row i ^ j, indices below 256",
        _rows,
        partial(_rows, difference=False),
        ALL,
    ),
    Lemma(
        "rotation.pairs",
        "row x != 0 of any size 2^m <= 256: columns k and k ^ (x & -x) are two, below the size, of opposite signs",
        _pairs,
        partial(_pairs, lowest=False),
        ALL,
    ),
    Lemma(
        "rotation.level",
        "a sign is that of the other bits, turned where both indices have bit h: the sum and difference of one level",
        _level,
        partial(_level, both=False),
        ALL,
    ),
    Lemma(
        "rotation.covered",
        "every channel c < d is in the block of the highest bit of c ^ d, whatever d",
        _covered,
        partial(_covered, highest=False),
        ALL,
    ),
    Lemma(
        "rotation.apart",
        "blocks of two bits of d share no channel, start at a multiple of their size, and end within d",
        _apart,
        partial(_apart, powers=False),
        ALL,
    ),
    Lemma("rotation.energy", "(a+b)² + (a-b)² = 2(a² + b²)", _energy, partial(_energy, sign=-1)),
    Lemma("rotation.inner", "(a+b)(c+d) + (a-b)(c-d) = 2(ac + bd)", _inner, partial(_inner, turned=1)),
    Lemma(
        "rotation.rounded",
        "|s|, |t| <= u: (sx)² + (ty)² <= u²(x² + y²)",
        _rounded,
        partial(_rounded, both=False),
    ),
    Lemma(
        "rotation.grows",
        "E <= (P-1)X gives RE + uR(X+E) <= (P(1+u) - 1)RX: one level more",
        _grows,
        partial(_grows, rounding=False),
    ),
    Lemma(
        "rotation.two_factors",
        "|w|, |t| <= u: |(1+w)(1+t) - 1| <= (1+u)² - 1",
        _factors,
        partial(_factors, mixed=False),
    ),
    Lemma(
        "rotation.scaled",
        "E <= (P-1)X gives Fr(X+E) + rE + l <= ((1+F)P - 1)rX + l: the last product",
        _scaled,
        partial(_scaled, factor=False),
    ),
    Lemma(
        "rotation.fits",
        "(1+v)^8 256 max_bfloat16 2^-8 < max_float32 (both in units of 2^127): nothing overflows",
        _fits,
        partial(_fits, exponent=0),
    ),
    Lemma(
        "rotation.lost",
        "n elements lose at most e each: ‖lost‖² <= ne²; one more keeps it so",
        _lost,
        partial(_lost, counted=False),
    ),
    Lemma(
        "rotation.twice",
        "‖fl(H fl(Hk)) - k‖ <= (2g + g²)‖k‖ + (2 + g)l",
        _twice,
        partial(_twice, again=False),
    ),
    Lemma(
        "rotation.norm_kept",
        "|‖fl(Hk)‖ - ‖k‖| <= g‖k‖ + l",
        _norm_kept,
        partial(_norm_kept, once=False),
    ),
    Lemma(
        "rotation.overflow",
        "|x| <= PA, |y| <= PB: |fl(x ± y)| <= P(1+u)(A+B), so no element passes (1+u)^m Σ|k|",
        _overflow,
        partial(_overflow, every=False),
    ),
)
