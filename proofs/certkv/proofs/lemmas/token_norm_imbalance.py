"""Theorem ``token_norm_imbalance``: tokens of different norms force large steps, in any orthonormal basis.

One channel of a group at a time: ``lo`` and ``hi`` its extremes, D its step, L the largest code; m and n two tokens.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _range(*, whole: bool = True) -> Goal:
    # codes 0..L reach from lo to hi, and both tokens lie between
    D, L, lo, hi, m, n = reals("D L lo hi m n")
    return real(
        (m - n) * (m - n) <= (L * D) * (L * D),
        hi - lo <= L * D if whole else hi - lo <= 2 * L * D,
        between(lo, m, hi),
        between(lo, n, hi),
    )


def _channels(*, squared: bool = True) -> Goal:
    # sums of squares over the channels: one more
    steps, distance, D, d, L = reals("steps distance D d L")
    factor = L * L if squared else L
    return real(
        distance + d * d <= factor * (steps + D * D), distance <= factor * steps, d * d <= (L * D) * (L * D), L >= 2
    )


def _reverse(*, square: bool = True) -> Goal:
    # (||m|| - ||n||)^2 <= ||m - n||^2; the inner product is bounded by `norms.cross`
    mm, nn, mn, M, N = reals("mm nn mn M N")
    return real(
        mm - 2 * mn + nn >= (M - N) * (M - N),
        mm == M * M,
        nn == N * N,
        mn <= (M * N if square else 2 * M * N),
        M >= 0,
        N >= 0,
    )


def _stored(*, lost: bool = True) -> Goal:
    # a stored step: two roundings of the range, one of the step, and h where it is too small for its type
    D, s, x, L, u, v, h = reals("D s x L u v h")
    return real(
        L * (D + h) >= (1 - u) * (1 - v) * (1 - v) * x,
        L * s >= (1 - v) * (1 - v) * x,
        (1 - u) * s - (h if lost else 2 * h) <= D,
        between(0, u),
        u <= 1,
        h >= 0,
        L >= 1,
    )


def _rotated(*, both: bool = True) -> Goal:
    # tokens that were rotated with errors a and b are at least so far apart
    distance, computed, a, b = reals("distance computed a b")
    return real(
        computed >= distance - a - (b if both else 0), distance <= computed + a + b, a >= 0, b >= 0, computed >= 0
    )


def _two(*, extremes: bool = True) -> Goal:
    # two tokens are the extremes of every channel: with exact steps the first inequality is an equality
    D, L, m, n = reals("D L m n")
    span = z3.If(m >= n, m - n, n - m)
    return real((m - n) * (m - n) == (L * D) * (L * D), span == L * D if extremes else span <= L * D)


def _scaled(*, unit: bool = True) -> Goal:
    # after scaling both norms are 1, and the second bound is 0: what is left is the angle
    mm, nn, mn, c = reals("mm nn mn c")
    return real(mm - 2 * mn + nn == 2 - 2 * c, mm == 1, nn == 1 if unit else nn >= 1, mn == c)


def _norm(*, root: bool = True) -> Goal:
    # n squared is within g of the sum of squares; the root and the conversion round by w
    S, T, r, n, w, g = reals("S T r n w g")
    return real(
        z3.And(n * n <= (1 + w) * (1 + w) * (1 + g) * S, n * n >= (1 - w) * (1 - w) * (1 - g) * S),
        between((1 - g) * S, T, (1 + g) * S),
        r * r == T if root else r == T,
        between((1 - w) * r, n, (1 + w) * r),
        r >= 0,
        between(0, g, 1),
        between(0, w, 1),
    )


def _element(*, own: bool = True) -> Goal:
    # an element over its token's norm is at most 1, but for rounding; so no range is wasted on the token's size
    y, n, q, f, v = reals("y n q f v")
    return real(
        at_most(q, (1 + v) * f),
        at_most(y, f * n if own else 2 * f * n),
        n > 0,
        at_most(q * n - y, v * y),
        y >= 0,
        v >= 0,
    )


LEMMAS = (
    Lemma(
        "token_norm_imbalance.range",
        "lo <= m, n <= hi, LD >= hi - lo: (m - n)² <= (LD)² in every channel",
        _range,
        partial(_range, whole=False),
    ),
    Lemma(
        "token_norm_imbalance.channels",
        "induction: ‖m - n‖² <= L² ΣD² survives a channel",
        _channels,
        partial(_channels, squared=False),
    ),
    Lemma(
        "token_norm_imbalance.reverse",
        "m·n <= ‖m‖‖n‖ gives (‖m‖ - ‖n‖)² <= ‖m - n‖²",
        _reverse,
        partial(_reverse, square=False),
    ),
    Lemma(
        "token_norm_imbalance.stored",
        "a stored step D >= (1-u)s - h, Ls >= (1-v)² range: L(D + h) >= (1-u)(1-v)² range",
        _stored,
        partial(_stored, lost=False),
    ),
    Lemma(
        "token_norm_imbalance.rotated",
        "computed rotations are at least ‖m - n‖ less both errors apart",
        _rotated,
        partial(_rotated, both=False),
    ),
    Lemma(
        "token_norm_imbalance.two",
        "two tokens, LD = |m - n|: equality in every channel",
        _two,
        partial(_two, extremes=False),
    ),
    Lemma(
        "token_norm_imbalance.scaled",
        "norms 1: ‖m - n‖² = 2 - 2 cos, whatever the tokens' norms were",
        _scaled,
        partial(_scaled, unit=False),
    ),
    Lemma(
        "token_norm_imbalance.norm",
        "a sum of squares within g, its root within w: n² within (1 ± w)²(1 ± g) of Σy²",
        _norm,
        partial(_norm, root=False),
    ),
    Lemma(
        "token_norm_imbalance.element",
        "|y| <= fn: the rounded quotient y/n is at most (1 + v)f",
        _element,
        partial(_element, own=False),
    ),
)
