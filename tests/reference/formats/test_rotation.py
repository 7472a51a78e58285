"""The rotation: its matrix, its bits in FP32, and what float64 loses of it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import ShapeError
from certkv.reference.formats import rotation
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, gamma

from .corners import TYPES, random_patterns
from .oscar_definition import BITS, blocks, butterflies, root_below, rotated_sums, sign
from .scalar_definition import F32

SIZES = [1, 2, 4, 8, 20, 33, 64, 80, 96, 128, 192, 240, 248, 256, 264, 520]


def fractions(x: object) -> list[Fraction]:
    return [Fraction(float(v)) for v in np.asarray(x).ravel()]


@pytest.mark.parametrize("head_dim", [*range(8, 257, 8), 1, 20, 33, 512, 520])
def test_blocks_are_the_binary_expansion(head_dim: int) -> None:
    assert list(rotation.sizes(head_dim)) == blocks(head_dim)
    assert sum(rotation.sizes(head_dim)) == head_dim


def test_a_head_of_no_channel_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        rotation.sizes(0)


@pytest.mark.parametrize("size", [2**m for m in range(9)])
def test_the_matrix_is_sylvesters(size: int) -> None:
    """In integers: the butterflies of unit vectors are the signs; rows are orthogonal, and H is its own transpose."""
    found = np.array([[int(v) for v in row] for row in rotation._butterflies(np.eye(size))])
    signs = np.array([[sign(i, j) for j in range(size)] for i in range(size)])
    assert np.array_equal(found, signs)
    assert np.array_equal(signs, signs.T)
    assert np.array_equal(signs @ signs, size * np.eye(size))


@pytest.mark.parametrize("head_dim", range(8, 257, 8))
def test_every_head_size_is_its_own_inverse(head_dim: int) -> None:
    """Twice the rotation is the identity: exactly in real numbers, within twice the error in float64."""
    x = np.random.default_rng(head_dim).standard_normal((3, head_dim))
    back = rotation.rotate(rotation.rotate(x))
    # the error of the first, carried by an orthonormal matrix, and that of the second of a vector (1 + gamma) as long
    limit = gamma(2 * rotation.roundings(head_dim) + 1) * np.linalg.norm(x, axis=-1)
    assert (np.linalg.norm(back - x, axis=-1) <= limit * (1 + 1e-9)).all()


@pytest.mark.parametrize("bits", range(9))
def test_the_factor_is_rounded_correctly(bits: int) -> None:
    """``1/sqrt(n)`` to nearest, in float64 and, rounded once more, in FP32."""
    exact = root_below(Fraction(1, 2**bits))  # below by less than 2**-200, and no root here is near a tie
    c = rotation.factor(2**bits)
    assert abs(Fraction(c) - exact) <= Fraction(np.spacing(c)) / 2
    assert Fraction(float(np.float32(c))) == F32.nearest(exact)


def example(x: list[float], expected: list[float], scale: Fraction = Fraction(1)) -> None:
    """``rotate_originals`` of x is ``2**-8`` times ``scale * expected``, in FP16 and BF16."""
    for ft in TYPES:
        found = rotation.rotate_originals(np.array(x).astype(ft.dtype))
        assert fractions(found) == [Fraction(v) * scale / 256 for v in expected]


ROOT = Fraction(11863283, 2**24)
"""``sqrt(1/2)`` in FP32: 11863283.203... in units of 2**-24, rounded down."""


def test_by_hand_two_channels() -> None:
    """(3, 1) -> (3 + 1, 3 - 1) = (4, 2), times 1/sqrt(2) as FP32 has it: both products are exact."""
    assert 2 * 11863283**2 < 2**48 < 2 * 11863284**2
    example([3, 1], [4, 2], ROOT)


def test_by_hand_four_channels() -> None:
    """h = 1: (1+2, 1-2, 3+4, 3-4) = (3, -1, 7, -1); h = 2: (3+7, -1-1, 3-7, -1+1) = (10, -2, -4, 0); times 1/2."""
    example([1, 2, 3, 4], [5, -1, -2, 0])


def test_by_hand_a_unit_vector_is_a_column() -> None:
    """Column 5 = 0b101 of size 8: popcount(j & 5) is odd for j = 1, 3, 4, 6; times 1/sqrt(8) = ROOT/2."""
    example([0, 0, 0, 0, 0, 1, 0, 0], [1, -1, 1, -1, -1, 1, -1, 1], ROOT / 2)


def test_by_hand_twelve_channels_are_eight_and_four() -> None:
    """Ones: (8, 0, ...)/sqrt(8) = 8 ROOT/2 in the block of 8, and (4, 0, 0, 0)/2 = 2 in the block of 4."""
    for ft in TYPES:
        found = fractions(rotation.rotate_originals(np.ones(12).astype(ft.dtype)))
        assert found == [v / 256 for v in (4 * ROOT, *[Fraction(0)] * 7, Fraction(2), *[Fraction(0)] * 3)]


def test_by_hand_a_sum_that_rounds() -> None:
    """2**11 + 2**-13 has 25 bits: halfway between 2**11 and 2**11 + 2**-12, to even 2**11; so is the difference's even.

    2**11 - 2**-13 has 24 bits and stays. Times 1/sqrt(2): 2**11 ROOT is exact, the other product rounds once.
    """
    other = (2**11 - Fraction(1, 2**13)) * ROOT
    # in units of 2**-14: an FP32 number between 2**10 and 2**11 is 24 bits, a multiple of 2**-13
    rounded = Fraction(round(other * 2**13), 2**13)
    found = fractions(rotation.rotate_originals(np.array([2.0**11, 2.0**-13], np.float16)))
    assert found == [2**11 * ROOT / 256, rounded / 256]


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@pytest.mark.parametrize("head_dim", [1, 2, 8, 20, 64, 80, 96, 128, 248])
def test_bits_are_the_definition(ft: FloatType, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    rows = [random_patterns(rng, (head_dim,), ft), rng.standard_normal(head_dim).astype(ft.dtype)]
    for x in rows:
        assert fractions(rotation.rotate_originals(x)) == butterflies(fractions(x))


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@pytest.mark.parametrize("head_dim", [8, 80, 128, 256, 520])
def test_extremes_neither_overflow_nor_vanish(ft: FloatType, head_dim: int) -> None:
    for value in (ft.max, -ft.max):
        assert np.isfinite(rotation.rotate_originals(np.full(head_dim, value, ft.dtype))).all()
    smallest = np.zeros(head_dim, ft.dtype)
    smallest[1] = ft.smallest_subnormal
    assert (rotation.rotate_originals(smallest)[: rotation.sizes(head_dim)[0]] != 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SIZES), st.sampled_from([-140, -20, 0, 100]))
def test_float64_is_within_its_bounds(seed: int, head_dim: int, exponent: int) -> None:
    """Element by element and in norm, judged in rational arithmetic."""
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal(head_dim) * np.exp(3 * rng.standard_normal(head_dim)), exponent)
    found, limit = rotation.rotate(x), rotation.rotate_error_ub(x)
    squares = Fraction(0)
    exact = fractions(x)
    for computed, bound, (total, size) in zip(fractions(found), fractions(limit), rotated_sums(exact), strict=True):
        value = total * root_below(Fraction(1, size))
        doubt = abs(total) / 2**BITS
        assert abs(computed - value) <= bound + doubt
        squares += (abs(computed - value) + doubt) ** 2
    g = Fraction(gamma(rotation.roundings(head_dim)))
    assert squares <= g * g * sum(v * v for v in exact)


def test_error_covers_one_rounding_of_what_is_rotated() -> None:
    """x stands for a number that was rounded once: the bound covers that too, where every rounding goes one way."""
    x = np.full(64, 1.0 + 2.0**-52)
    meant = Fraction(1) + Fraction(2) ** -52 - Fraction(2) ** -53  # a tie that went up to x
    off = abs(Fraction(float(rotation.rotate(x)[0])) - 8 * meant)
    assert 0 < off <= Fraction(float(rotation.rotate_error_ub(x)[0]))


def test_scaled_is_exact() -> None:
    for ft in (FLOAT16, BFLOAT16):
        x = random_patterns(np.random.default_rng(3), (500,), ft)
        assert np.array_equal(rotation.scaled(x).astype(np.float64) * 256, x.astype(np.float64))
