"""The rotation's matrix at every head size, its factors, and every 16-bit number through every size of block."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, CheckFailed, Exhaustive, require_all, require_equal
from certkv.proofs.exhaustive.sixteen import TYPES, finite
from certkv.reference.formats import rotation

LARGEST = 256
SIZES = tuple(2**m for m in range(9))
V = 2.0**-24

Rotate = Callable[[Any], Array]


def signs(size: int) -> Array:
    """Sylvester's matrix of -1 and 1, from the definition; int64 [size, size]."""
    index = np.arange(size)
    both = index[:, None] & index
    parity = np.zeros((size, size), np.int64)
    for bit in range(size.bit_length()):
        parity ^= both >> bit & 1
    return np.asarray(1 - 2 * parity)


def blocks(head_dim: int) -> list[int]:
    """Powers of two that sum to the head size, the largest first, from its digits."""
    digits = f"{head_dim:b}"
    return [2 ** (len(digits) - 1 - i) for i, digit in enumerate(digits) if digit == "1"]


def orthogonal_rows(matrix: Callable[[int], Array] = signs) -> None:
    """Check ``S S^T = n I`` and ``S = S^T`` in integers."""
    for size in SIZES:
        s = matrix(size)
        row, column = np.arange(size)[:, None], np.arange(size)
        require_equal(s @ s.T, size * np.eye(size, dtype=np.int64), f"rows of size {size}", row=row, column=column)
        require_equal(s, s.T, f"symmetry of size {size}", row=row, column=column)


def every_head_size(rotate: Rotate = rotation.rotate) -> None:
    """Check that unit vectors come out as the columns, in both precisions, and that nothing leaves its block."""
    for head_dim in range(1, LARGEST + 1):
        wanted = np.zeros((head_dim, head_dim))
        start = 0
        for size in blocks(head_dim):
            part = slice(start, start + size)
            wanted[part, part] = signs(size) * rotation.factor(size)
            start += size
        cases = {"token": np.arange(head_dim)[:, None], "channel": np.arange(head_dim)}
        # a computed 0 of a block is +0.0 or -0.0, as its terms are
        require_equal(rotate(np.eye(head_dim)) + 0.0, wanted, f"H, d = {head_dim}", **cases)
        single = rotation.rotate_originals(np.eye(head_dim, dtype=np.float16)).astype(np.float64) + 0.0
        rounded = (wanted.astype(np.float32) * np.float32(2.0**rotation.EXPONENT)).astype(np.float64)
        require_equal(single, rounded, f"H in float32, d = {head_dim}", **cases)


def factors(factor: Callable[[int], float] = rotation.factor) -> None:
    """Check the factors in rational arithmetic: within one rounding of ``1/sqrt(n)``, exact for powers of 4."""
    for size in SIZES:
        root = int(size**0.5)
        for name, found, u in (
            ("float64", factor(size), Fraction(1, 2**53)),
            ("float32", float(np.float32(factor(size))), Fraction(1, 2**24)),
        ):
            square = Fraction(found) ** 2 * size
            if not (1 - u) ** 2 <= square <= (1 + u) ** 2 or (root * root == size and square != 1):
                raise CheckFailed(f"{name} factor of size {size}: {found!r} is not within one rounding")


def one_number(rotate: Rotate = rotation.rotate_originals) -> None:
    """Check every 16-bit x >= 0 as the only channel that is not 0, in every size: the factor, a rounding, underflow.

    The root and the product of float64 round by less than 2**-51 |x|, which is given away on the side of the claim.
    """
    unit = 2.0**rotation.EXPONENT
    for ft in TYPES:
        numbers, x = (part[part.astype(np.float64) >= 0] for part in finite(ft))
        for size in SIZES:
            # in blocks of a power of two every channel gets the same product, up to its sign: two channels show it
            token = np.zeros((len(numbers), size), ft.dtype)
            token[:, -1] = numbers
            y = rotate(token)[:, [0, -1]].astype(np.float64) / unit * (signs(size)[-1, [0, -1]] * np.sqrt(size))
            limit = (2 * V + V * V - 2.0**-50) * np.abs(x) + np.sqrt(size) * 2.0**-150 / unit * (1 - 2.0**-50)
            cases: dict[str, Any] = {"x": x[:, None], "got": y}
            require_all(np.abs(y - x[:, None]) <= limit[:, None], f"{ft.name}, size {size}", **cases)


def scaling(exponent: int = rotation.EXPONENT) -> None:
    """Check that ``2**EXPONENT x`` is exact in float32 for every finite 16-bit number."""
    for ft in TYPES:
        numbers, x = finite(ft)
        with np.errstate(under="ignore"):
            found = (numbers.astype(np.float32) * np.float32(2.0**exponent)).astype(np.float64)
        require_equal(found, np.ldexp(x, exponent), f"{ft.name} times 2^{exponent}", x=x)
        require_equal(rotation.scaled(numbers).astype(np.float64), np.ldexp(x, rotation.EXPONENT), ft.name, x=x)


def charges(roundings: Callable[[int], int] = rotation.roundings) -> None:
    """Check what steps charge for a rotation's r roundings, in rational arithmetic, for every head size.

    Scores: ``(1 + g_d)(1 + g_r) - 1 <= g_(d+r)``. Distances of all tokens: the three shares ``g_(d+4)`` that are left
    over cover what ``r + 1`` roundings of a decoded value move a squared distance, ``2 g + g^2``. Distance of one
    token: ``(1 + 2r) u`` covers ``g_(r+1)``, of the meaning, in terms of what was computed. Weighted sums of N values:
    ``g_(2 (N+r) + 6)`` for ``g_(2N+6)`` and the ``r + 1`` roundings of each.
    """
    u = Fraction(1, 2**53)

    def g(n: int) -> Fraction:
        return n * u / (1 - n * u)

    for d in range(1, 1025):
        # the number that is checked comes from the binary digits; the code's must be at least it
        r = min(len(f"{d:b}"), 9) + 1  # no block is larger than 256
        if roundings(d) < r:
            raise CheckFailed(f"head size {d}: {roundings(d)} roundings are counted, {r} are made")
        one = g(r + 1)
        holds = {
            "a score": (1 + g(d)) * (1 + g(r)) - 1 <= g(d + r),
            "squared distances": 2 * one + one * one <= 3 * g(d + 4),
            "one distance": one <= (1 + 2 * r) * u * (1 - one),
        }
        for n in (1, 64, 2**17, 2**30):
            holds[f"a sum of {n} values"] = (1 + g(2 * n + 6)) * (1 + one) - 1 <= g(2 * (n + r) + 6)
        for what, held in holds.items():
            if not held:
                raise CheckFailed(f"head size {d}: {what} is not covered")


def _unsorted(x: Any) -> Array:
    """Rotate with the smallest block first."""
    order = []
    start = 0
    for size in blocks(x.shape[-1]):
        order.append(rotation.rotate(x[..., start : start + size]))
        start += size
    return np.concatenate(order[::-1], axis=-1)


def _unsigned(size: int) -> Array:
    return np.asarray(np.abs(signs(size)))


FACTS = (
    Exhaustive(
        "rotation.signs",
        "rotation",
        "n = 1, 2, 4, ..., 256, in integers: S S^T = n I and S = S^T for S[i, j] = (-1)^popcount(i & j)",
        orthogonal_rows,
        partial(orthogonal_rows, matrix=_unsigned),
    ),
    Exhaustive(
        "rotation.head_sizes",
        "rotation",
        "every head size 1..256, float64 and float32: unit vectors give the columns of H, blocks as in the binary "
        "expansion, the largest first",
        every_head_size,
        partial(every_head_size, rotate=_unsorted),
    ),
    Exhaustive(
        "rotation.factors",
        "rotation",
        "n = 1..256, both precisions, in rational arithmetic: factor(n) within one rounding of 1/sqrt(n), exact for "
        "powers of 4",
        factors,
        partial(factors, factor=lambda size: 1.0 / round(size**0.5)),
    ),
    Exhaustive(
        "rotation.one_number",
        "rotation",
        "every 16-bit x >= 0 alone in a block of 1..256: within (2v + v^2)|x|/sqrt(n) + 2^-142 of x/sqrt(n)",
        one_number,
        partial(one_number, rotate=lambda x: rotation.rotate_originals(x) * np.float32(1 + 2.0**-22)),
    ),
    Exhaustive(
        "rotation.charges",
        "rotation",
        "head sizes 1..1024, in rational arithmetic: what a step charges scores, sums and distances covers the "
        "rotation's roundings",
        charges,
        partial(charges, roundings=lambda head_dim: rotation.roundings(head_dim) - 1),
    ),
    Exhaustive(
        "rotation.scaling",
        "rotation",
        "every 16-bit number times 2^-8 is exact in float32",
        scaling,
        partial(scaling, exponent=-20),
    ),
)
