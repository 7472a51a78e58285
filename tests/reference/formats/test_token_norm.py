"""The norm of a token: order of summation, scope, and its corners."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from certkv.reference.formats import rotation
from certkv.reference.formats.token_norm import LARGEST, divide, sum_of_squares, token_norm, unscaled
from certkv.reference.numbers import BFLOAT16, FloatType

from .corners import CORNER_IDS, CORNERS, TYPES, AnyArray
from .oscar_definition import norm as defined_norm
from .oscar_definition import sum_of_squares as defined_sum


def rows(x: AnyArray) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in x]


def test_by_hand_heads_of_5_and_12_make_13() -> None:
    """(3, 4, 0, 0) and (0, 0, 0, 12), rotated: (7, -1, 7, -1)/2 and (6, -6, -6, 6).

    Squares: 49/4 + 1/4 + 49/4 + 1/4 = 25 and 4 36 = 144; jointly 169 = 13**2.
    """
    x = np.array([[[3, 4, 0, 0]], [[0, 0, 0, 12]]], np.float16)
    y = rotation.rotate_originals(x)
    assert unscaled(token_norm(y, "joint")).tolist() == [[13.0], [13.0]]
    assert unscaled(token_norm(y, "head")).tolist() == [[5.0], [12.0]]


def test_by_hand_four_heads_of_two() -> None:
    """(1, 1, 1, 1) -> (2, 0, 0, 0), norm 2; four such heads have 16 = 4**2, and u = 1/2."""
    y = rotation.rotate_originals(np.ones((4, 1, 4), np.float16))
    joint = token_norm(y, "joint")
    assert unscaled(joint).tolist() == [[4.0]] * 4
    assert divide(y, joint)[:, 0].tolist() == [[0.5, 0, 0, 0]] * 4
    assert divide(y, token_norm(y, "head"))[:, 0].tolist() == [[1.0, 0, 0, 0]] * 4


def test_by_hand_the_order_of_halves() -> None:
    """Squares a, 1, 1, a, a, 1, 0, a with a = 2**52; even numbers from 2**53 on, multiples of 4 from 2**54 on.

    Halves: (2a, 2, 1, 2a); again: (2a + 1, 2a + 2), the first a tie that goes down; 4a + 2 is a tie that goes down: 4a.
    From left to right: a + 2, 2a + 2, 3a + 2; 3a + 3 is a tie that goes up to 3a + 4; 4a + 4.
    """
    y = np.array([2.0**26, 1, 1, 2.0**26, 2.0**26, 1, 0, 2.0**26], np.float32)
    assert float(sum_of_squares(y)) == 2.0**54
    assert float(np.cumsum(np.square(y.astype(np.float64)))[-1]) == 2.0**54 + 4


@pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
def test_is_the_definition(ft: FloatType, name: str, x: AnyArray) -> None:
    y = rotation.rotate_originals(x)  # the leading axis stands for KV heads
    joint, alone = token_norm(y, "joint"), token_norm(y, "head")
    for t in range(x.shape[-2]):
        assert [defined_sum(row) for row in rows(y[:, t])] == sum_of_squares(y[:, t]).tolist()
        want = defined_norm(rows(y[:, t]))
        assert [Fraction(float(n)) for n in joint[:, t]] == [want] * len(x)
        assert [Fraction(float(n)) for n in alone[:, t]] == [defined_norm([row]) for row in rows(y[:, t])]


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_a_token_of_zeros_and_no_other_has_norm_zero(ft: FloatType) -> None:
    x = np.zeros((1, 3, 8), ft.dtype)
    x[0, 1, 5] = ft.smallest_subnormal
    y = rotation.rotate_originals(x)
    assert (token_norm(y, "joint") > 0).tolist() == [[False, True, False]]
    assert not divide(y, token_norm(y, "joint"))[0, 0].any()


def test_a_norm_beyond_fp32_is_the_largest_number() -> None:
    y = rotation.rotate_originals(np.full((8, 1, 64), BFLOAT16.max, BFLOAT16.dtype))
    norm = unscaled(token_norm(y, "joint"))
    assert (norm == LARGEST).all()
    assert np.isfinite(divide(y, token_norm(y, "joint"))).all()


def test_one_head_needs_no_axis() -> None:
    y = rotation.rotate_originals(np.random.default_rng(1).standard_normal((5, 16)).astype(np.float16))
    assert np.array_equal(token_norm(y, "joint"), token_norm(y, "head"))
