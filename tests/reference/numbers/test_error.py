import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import InputError
from certkv.reference.numbers import U, gamma, norm_lb, norm_ub, outward

u = Fraction(U)
COUNTS = [0, 1, 2, 3, 7, 64, 129, 4096]


def test_unit_roundoff() -> None:
    assert 1.0 + U == 1.0
    assert 1.0 + U * (1 + 2 * U) > 1.0


@pytest.mark.parametrize("n", [*COUNTS, 10**9, 2**52 - 1])
def test_gamma_is_rounded_up_by_at_most_one_place(n: int) -> None:
    exact = n * u / (1 - n * u)
    assert Fraction(gamma(n)) >= exact
    assert Fraction(gamma(n)) <= exact * (1 + 4 * u)  # one rounding (u) and one step up (2u)


@pytest.mark.parametrize("n", [-1, 2**52, 2**60])
def test_gamma_says_when_it_means_nothing(n: int) -> None:
    with pytest.raises(InputError, match="2\\*\\*52"):
        gamma(n)


@pytest.mark.parametrize("n", COUNTS)
def test_outward_covers_n_roundings_up_and_down_and_its_own(n: int) -> None:
    worst = ((1 + u) / (1 - u)) ** n
    factor = Fraction(outward(n))
    assert factor * (1 - u) >= worst * (1 + u)
    assert factor <= 1 + (2 * n + 6) * u * (1 + (2 * n + 8) * u)  # and by little more


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.0, 1e100).map(lambda x: x if x > 1e-100 else 0.0), min_size=2, max_size=30))
def test_outward_on_sums_of_products(x: list[float]) -> None:
    computed, exact = 0.0, Fraction(0)
    for a, b in zip(x, x[::-1], strict=True):
        computed += a * b
        exact += Fraction(a) * Fraction(b)
    # The longest path of the loop: one product, then len(x) additions.
    factor = outward(len(x) + 1)
    assert Fraction(factor * computed) >= exact >= Fraction(computed / factor)


def squared(x: list[float]) -> Fraction:
    return sum((Fraction(element) ** 2 for element in x), Fraction(0))


def assert_norm_between(x: list[float]) -> None:
    exact = squared(x)
    ub, lb = Fraction(float(norm_ub(np.array(x)))), Fraction(float(norm_lb(np.array(x))))
    assert ub**2 >= exact >= lb**2
    # Relative slack of the docstring, squared and doubled; a subnormal result is off by at most three spacings.
    slack = 1 + 2 * (len(x) + 10) * u
    tiny = 3 * Fraction(5e-324)
    assert max(ub - tiny, Fraction(0)) ** 2 <= exact * slack**2
    assert (lb + tiny) ** 2 * slack**2 >= exact


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e39, 1e39) | st.floats(-1e-44, 1e-44) | st.floats(-1e-307, 1e-307), max_size=40))
def test_norms_of_any_magnitudes(x: list[float]) -> None:
    assert_norm_between(x)


@pytest.mark.parametrize(
    "x",
    [
        [0.0],
        [-0.0, 0.0],
        [5e-324],
        [5e-324] * 2,
        [5e-324] * 3,
        [5e-324] * 4,
        [3e-308, -4e-308],
        [1e300, 1e-300, 1.0],
        [1e300, -1e300],
        [3.0, 4.0],
        [1e39] * 128,
        [1e-45] * 128,
        [2.0**-500] * 3 + [2.0**40],
        [1.0] * 4096,
    ],
)
def test_norms_at_the_corners(x: list[float]) -> None:
    assert_norm_between(x)


def test_norms_beyond_the_range_and_not_a_number() -> None:
    huge = np.array([1.7e308] * 9)
    assert norm_ub(huge) == math.inf
    assert norm_lb(huge) == np.finfo(np.float64).max
    assert norm_ub(np.array([math.inf, 1.0])) == math.inf
    assert np.isnan(norm_ub(np.array([math.nan, 1.0])))


def test_norm_axes() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert norm_ub(x).shape == (2, 3)
    assert norm_lb(x, axis=1).shape == (2, 4)
    assert norm_ub(x, axis=0)[0, 1] == norm_ub(x[:, 0, 1])
    assert norm_ub(np.zeros((2, 0))).tolist() == [0.0, 0.0]
