"""Theorem ``operator_norm``: ``||X|| <= (tr (X X^T)^8)^(1/16)``, in float64.

Matrices have two rows and two columns: an entry of a product of larger ones is a longer sum, and sums are inductions
(`norms`). What a solver sees is each step from one power of the Gram matrix to the next.
"""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, real, reals


def _adjoint(*, transposed: bool = True) -> Goal:
    # ||H^T y||^2 = y . (H H^T y)
    h, y = reals("h11 h12 h21 h22"), reals("y1 y2")
    t = [h[0] * y[0] + h[2] * y[1], h[1] * y[0] + h[3] * y[1]]
    back = [h[0] * t[0] + h[1] * t[1], h[2] * t[0] + h[3] * t[1]]
    if not transposed:
        back = [h[0] * t[0] + h[2] * t[1], h[1] * t[0] + h[3] * t[1]]
    return real(t[0] * t[0] + t[1] * t[1] == y[0] * back[0] + y[1] * back[1])


def _square(*, root: bool = True) -> Goal:
    # ||H^T y||^2 = y . (H H^T y) <= ||y|| ||H H^T y|| <= r^2 ||y||^2
    image, inner, Y, Z, p, r = reals("image inner Y Z p r")
    return real(
        image <= r * Y,
        image * image == inner,
        inner <= Y * Z,
        between(0, Z, p * Y),
        Y >= 0,
        p <= (r * r if root else r),
        r >= 0,
    )


def _row(*, both: bool = True) -> Goal:
    # one row of H: (h . y)^2 <= ||h||^2 ||y||^2
    h1, h2, y1, y2 = reals("h1 h2 y1 y2")
    inner = h1 * y1 + h2 * y2
    return real(inner * inner <= (h1 * h1 + (h2 * h2 if both else 0)) * (y1 * y1 + y2 * y2))


def _entries(*, all_rows: bool = True) -> Goal:
    # entries of A B are bounded by norms of rows and of columns, so the Frobenius norm by the Frobenius norms
    e, rows, columns = reals("e11 e12 e21 e22"), reals("r1 r2"), reals("c1 c2")
    of = [(rows[0], columns[0]), (rows[0], columns[1]), (rows[1], columns[0]), (rows[1], columns[1])]
    return real(
        sum(e[1:], e[0]) <= (rows[0] + (rows[1] if all_rows else 0)) * (columns[0] + columns[1]),
        *(x <= r * c for x, (r, c) in zip(e, of, strict=True)),
        *(x >= 0 for x in (*rows, *columns)),
    )


def _lost(*, added: bool = True) -> Goal:
    # H H^T = fl(H H^T) + E with ||fl(H H^T) y|| <= P ||y|| and ||E y|| <= L ||y||
    exact, computed, rounding, P, L, Y = reals("exact computed rounding P L Y")
    return real(
        exact <= (P + (L if added else 0)) * Y,
        exact <= computed + rounding,
        computed <= P * Y,
        rounding <= L * Y,
        between(0, rounding),
        L >= 0,
        P >= 0,
        Y >= 0,
    )


def _looseness(*, counted: bool = True) -> Goal:
    # one more eigenvalue y in [0, x]: the sum of squares is at most n + 1 times the largest
    n, total, x, y = reals("n total x y")
    return real(total + y * y <= (n + (1 if counted else 0)) * x * x, total <= n * x * x, between(0, y, x), n >= 1)


def _larger(*, smaller: int = 0) -> Goal:
    # squares of eigenvalues are ordered as they are: applied three times, lambda^8
    x, y = reals("x y")
    return real(y * y <= x * x, between(smaller, y, x))


def _slack(*, doubled: int = 2) -> Goal:
    # what a quotient r/s can be off by, times s: the decode error, u |r| of the difference and u |r| of the quotient
    err, r, m, u = reals("err r m u")
    return real(
        err + doubled * u * r <= (m - r) + 4 * u * m,
        m >= (r + err) * (1 - u),
        err >= 0,
        r >= 0,
        between(0, u),
        8 * u <= 1,
    )


LEMMAS = (
    Lemma(
        "operator_norm.adjoint",
        "2 x 2: ‖Hᵀy‖² = y·(HHᵀy)",
        _adjoint,
        partial(_adjoint, transposed=False),
    ),
    Lemma(
        "operator_norm.square",
        "‖Hᵀy‖² = y·z, y·z <= ‖y‖‖z‖, ‖z‖ <= p‖y‖, p <= r² gives ‖Hᵀy‖ <= r‖y‖",
        _square,
        partial(_square, root=False),
    ),
    Lemma(
        "operator_norm.row",
        "one row of two: (h·y)² <= ‖h‖²‖y‖², so ‖Hy‖ <= ‖H‖_F‖y‖ by adding rows",
        _row,
        partial(_row, both=False),
    ),
    Lemma(
        "operator_norm.entries",
        "2 x 2: (AB)_ij² <= R_i C_j gives ‖AB‖_F² <= ‖A‖_F²‖B‖_F²",
        _entries,
        partial(_entries, all_rows=False),
    ),
    Lemma(
        "operator_norm.lost",
        "‖fl(HHᵀ)y‖ <= P‖y‖, ‖Ey‖ <= L‖y‖ for the rounding E gives ‖HHᵀy‖ <= (P + L)‖y‖",
        _lost,
        partial(_lost, added=False),
    ),
    Lemma(
        "operator_norm.looseness",
        "n squares are at most n times the largest: one more keeps it so",
        _looseness,
        partial(_looseness, counted=False),
    ),
    Lemma("operator_norm.larger", "0 <= y <= x gives y² <= x²", _larger, partial(_larger, smaller=-1)),
    Lemma(
        "operator_norm.slack",
        "m >= (|r| + err)(1 - u), u <= 1/8: err + 2u|r| <= (m - |r|) + 4um",
        _slack,
        partial(_slack, doubled=4),
    ),
)
