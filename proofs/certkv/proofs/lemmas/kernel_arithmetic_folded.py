"""Theorem ``kernel_arithmetic``: rotated queries and outputs, norms after a score, weights with steps folded in.

Norms are numbers: Q of a query, K of a token's size, M of what a sum's addends have together.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.lemmas.floats_terms import bits, vector
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals

ALL = ("z3", "cvc5", "bitwuzla")


def _turned_query(*, mixed: bool = True) -> Goal:
    # the dot product is within e of the computed query's, which is within g of the query's
    score, inner, exact, Y, Q, K, e, g = reals("score inner exact Y Q K e g")
    return real(
        at_most(score - exact, (e + g + (e * g if mixed else 0)) * (Q * K)),
        at_most(score - inner, e * (Y * K)),
        at_most(inner - exact, g * (Q * K)),
        (1 + g) * Q >= Y,
        between(0, Q),
        between(0, K),
        between(0, Y),
        e >= 0,
        g >= 0,
    )


def _turned_output(*, carried: bool = True) -> Goal:
    # a sum that is off by e M, rotated: its own error, and that of the sum carried through, as long as before
    error, turned, sum_error, norm, M, e, g, lost = reals("error turned sum_error norm M e g lost")
    return real(
        error <= ((1 + e) * (1 + g) - 1) * M + lost,
        error <= turned + (sum_error if carried else 2 * sum_error),
        turned <= g * norm + lost,
        norm <= M + sum_error,
        sum_error <= e * M,
        between(0, sum_error),
        M >= 0,
        e >= 0,
        g >= 0,
        lost >= 0,
    )


def _norm_after(*, once: bool = True) -> Goal:
    # n times a score that is within e S: one rounding more
    x, exact, out, n, S, e, u = reals("x exact out n S e u")
    return real(
        at_most(out - n * exact, ((1 + e) * (1 + (u if once else 0)) - 1) * (n * S)),
        at_most(x - exact, e * S),
        at_most(exact, S),
        z3.Or(at_most(out - n * x, u * (n * x)), at_most(out - n * x, -u * (n * x))),
        n >= 0,
        S >= 0,
        e >= 0,
        u >= 0,
    )


def _folded(*, product: bool = True) -> Goal:
    # w = fl(p s), w = hi + lo up to v: what multiplies a code is within (1 + u)(1 + v) - 1 of p s
    weight, w, parts, u, v = reals("weight w parts u v")
    return real(
        at_most(parts - weight, (u + v + (u * v if product else 0)) * weight),
        at_most(w - weight, u * weight),
        at_most(parts - w, v * w),
        weight >= 0,
        u >= 0,
        v >= 0,
        u < 1,
    )


def _fields_apart(*, carried: bool = True) -> Goal:
    # off by (g-1)V + h, V the sum of absolute values; a step errs by t (|c| + F), F the sizes of its products alone
    off, error, V, v, F, g, h, t = reals("off error V v F g h t")
    return real(
        off + error <= (g * (1 + t) - 1) * (V + v) + (h * (1 + t) if carried else h) + t * F,
        off <= (g - 1) * V + h,
        error <= t * (g * V + h + F),
        v >= 0,
        t >= 0,
        g >= 1,
        h >= 0,
        V >= 0,
    )


def _small_codes(*, shift: int = 10) -> Goal:
    """Take a code's bits as a binary16 number: ``code 2^-24``, of the field of 2^-14, which is 2^10 such units."""
    code = vector("code", 16)
    field = z3.LShR(code, 10) & 31
    unit = z3.BitVecVal(1 << shift, 16)
    return bits(z3.And(field == 0, code & 0x3FF == code, z3.ULE(code, unit)), z3.ULE(code, 0x3FF))


LEMMAS = (
    Lemma(
        "kernel_arithmetic.turned_query",
        "score within e‖y‖K, ‖y - Hq‖ <= g‖q‖: within ((1+e)(1+g) - 1)‖q‖K",
        _turned_query,
        partial(_turned_query, mixed=False),
    ),
    Lemma(
        "kernel_arithmetic.turned_output",
        "sum within eM, rotated within g of its norm: within ((1+e)(1+g) - 1)M + lost",
        _turned_output,
        partial(_turned_output, carried=False),
    ),
    Lemma(
        "kernel_arithmetic.norm_after",
        "|x̂ - x| <= eS: |fl(n x̂) - n x| <= ((1+e)(1+u) - 1)nS",
        _norm_after,
        partial(_norm_after, once=False),
    ),
    Lemma(
        "kernel_arithmetic.folded",
        "w = fl(p s) in two parts: within (1+u)(1+v) - 1 of p s",
        _folded,
        partial(_folded, product=False),
    ),
    Lemma(
        "kernel_arithmetic.fields_apart",
        "induction: |c - x| <= (g-1)V + h becomes (g(1+τ) - 1)(V + v) + (1+τ)h + τF, F the sizes of the step alone",
        _fields_apart,
        partial(_fields_apart, carried=False),
    ),
    Lemma(
        "kernel_arithmetic.small_codes",
        "a code's bits as a binary16 number have the field of 2^-14, 2^10 units of 2^-24, and no code passes it",
        _small_codes,
        partial(_small_codes, shift=8),
        ALL,
    ),
)
