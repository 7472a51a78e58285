"""Softmax states (m, l, o) under merging: a commutative monoid, and what it represents is additive.

A maximum m enters as ``M = e^m``, positive, or 0 for the empty state; x stands for l or any coordinate of o. The
merge of (M1, x1) and (M2, x2) is ``M = max(M1, M2)`` with ``x M = x1 M1 + x2 M2``, x = 0 where M = 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, real, reals


def _max(x: Any, y: Any) -> Any:
    return z3.If(x >= y, x, y)


def _merged(M: Any, x: Any, M1: Any, x1: Any, M2: Any, x2: Any) -> list[z3.BoolRef]:
    """(M, x) is the merge of (M1, x1) and (M2, x2), none of them empty."""
    return [_max(M1, M2) == M, x * M == x1 * M1 + x2 * M2]


def _commutative(*, same: bool = True) -> Goal:
    M1, x1, M2, x2, M, x, N, y = reals("M1 x1 M2 x2 M x N y")
    other = _merged(N, y, M2, x2, M1, x1) if same else [_max(M1, M2) == N, y * N == x1 * M1 + x2]
    return real(z3.And(M == N, x == y), M1 > 0, M2 > 0, *_merged(M, x, M1, x1, M2, x2), *other)


def _associative_maximum(*, all_three: bool = True) -> Goal:
    a, b, c = reals("M1 M2 M3")
    return real(_max(_max(a, b), c) == (_max(a, _max(b, c)) if all_three else _max(b, c)))


def _associative(*, rescaled: bool = True) -> Goal:
    # x12 = (1 2), x123 = (12) 3; x23 = (2 3), y123 = 1 (23)
    M1, x1, M2, x2, M3, x3 = reals("M1 x1 M2 x2 M3 x3")
    M12, x12, M23, x23, M, x, y = reals("M12 x12 M23 x23 M x y")
    right = x1 * M1 + x23 * M23 if rescaled else x1 * M1 + x23
    return real(
        x == y,
        M12 > 0,
        M23 > 0,
        M > 0,
        x12 * M12 == x1 * M1 + x2 * M2,
        x * M == x12 * M12 + x3 * M3,
        x23 * M23 == x2 * M2 + x3 * M3,
        y * M == right,
    )


def _identity(*, empty: bool = True) -> Goal:
    M1, x1, M2, x2, M, x = reals("M1 x1 M2 x2 M x")
    return real(
        z3.And(M == M1, x == x1),
        M1 > 0,
        M2 == 0 if empty else M2 >= 0,
        x2 == 0,
        *_merged(M, x, M1, x1, M2, x2),
    )


def _homogeneous(*, same: bool = True) -> Goal:
    # scaling both contents by g scales the merge by g
    M1, x1, M2, x2, M, x, y, g = reals("M1 x1 M2 x2 M x y g")
    return real(
        y == g * x,
        M > 0,
        x * M == x1 * M1 + x2 * M2,
        y * M == g * x1 * M1 + (g if same else 1) * x2 * M2,
    )


def _shifted(*, both: bool = True) -> Goal:
    # adding a constant to every score multiplies every M by g > 0 and leaves l and o alone
    M1, x1, M2, x2, M, x, y, g = reals("M1 x1 M2 x2 M x y g")
    return real(
        x == y,
        g > 0,
        M > 0,
        x * M == x1 * M1 + x2 * M2,
        y * g * M == x1 * g * M1 + x2 * (g * M2 if both else M2),
    )


def _token(*, rescaled: bool = True) -> Goal:
    # l M = sum e^s survives a token of score s (e^s = w), whatever the new maximum
    left, M, N, w, new, total = reals("l M N w l_new total")
    old = left * M if rescaled else left * N
    return real(new * N == total + w, M > 0, w > 0, _max(M, w) == N, left * M == total, new * N == old + w)


def _factors(*, largest: bool = True) -> Goal:
    # e^{m_i - m} lies in (0, 1]: merging never overflows
    M1, M2, M, f1, f2 = reals("M1 M2 M f1 f2")
    return real(
        z3.And(f1 > 0, f1 <= 1, f2 > 0, f2 <= 1),
        M1 > 0,
        M2 > 0,
        _max(M1, M2) == M if largest else M1 == M,
        f1 * M == M1,
        f2 * M == M2,
    )


def _at_least_one(*, largest: bool = True) -> Goal:
    # the token of the maximum contributes 1 to l
    left, rest, M, w = reals("l rest M w")
    return real(left >= 1, M > 0, rest >= 0, w == M if largest else w <= M, w > 0, left * M == w + rest)


def _output(*, both: bool = True) -> Goal:
    # o/l of the merge is the mean of the parts' outputs under their masses
    c, c1, c2, o1, o2, l1, l2, f1, f2 = reals("c c1 c2 o1 o2 l1 l2 f1 f2")
    return real(
        c * (f1 * l1 + f2 * l2) == c1 * (f1 * l1) + c2 * ((f2 if both else 1) * l2),
        *[between(0, f) for f in (f1, f2)],
        c * (f1 * l1 + f2 * l2) == f1 * o1 + f2 * o2,
        c1 * l1 == o1,
        c2 * l2 == o2,
        l1 >= 1,
        l2 >= 1,
        f1 > 0,
        f2 > 0,
    )


LEMMAS = (
    Lemma("softmax_state.commutative", "1 ⊕ 2 = 2 ⊕ 1", _commutative, partial(_commutative, same=False)),
    Lemma(
        "softmax_state.associative_maximum",
        "max(max(M1, M2), M3) = max(M1, max(M2, M3))",
        _associative_maximum,
        partial(_associative_maximum, all_three=False),
    ),
    Lemma(
        "softmax_state.associative",
        "(1 ⊕ 2) ⊕ 3 = 1 ⊕ (2 ⊕ 3), for l and each coordinate of o",
        _associative,
        partial(_associative, rescaled=False),
    ),
    Lemma("softmax_state.identity", "1 ⊕ empty = 1", _identity, partial(_identity, empty=False)),
    Lemma(
        "softmax_state.homogeneous",
        "contents times g: the merge times g",
        _homogeneous,
        partial(_homogeneous, same=False),
    ),
    Lemma(
        "softmax_state.shifted",
        "a constant added to every score leaves l and o alone",
        _shifted,
        partial(_shifted, both=False),
    ),
    Lemma(
        "softmax_state.token",
        "induction: l e^m = Σe^s survives a token, the old l rescaled to the new maximum",
        _token,
        partial(_token, rescaled=False),
    ),
    Lemma("softmax_state.factors", "rescale factors lie in (0, 1]", _factors, partial(_factors, largest=False)),
    Lemma("softmax_state.at_least_one", "l >= 1", _at_least_one, partial(_at_least_one, largest=False)),
    Lemma(
        "softmax_state.output",
        "the merged output is the mean of the parts' outputs under their masses",
        _output,
        partial(_output, both=False),
    ),
)
