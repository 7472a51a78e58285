"""Lemma ``weighted_sums``: never below the worst errors there are, attained where it can be, and rounded outward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds.weighted_sums import Sums, first_order, root_order, second_order, sums, without
from certkv.reference.numbers.types import FloatArray

ABOVE = 1.0 + 1e-12
"""Norms, sums and products meet fewer than 100 roundings of 2**-53, and as many are made up for: below 3e-14."""

Form = Callable[[Sums, FloatArray, FloatArray], FloatArray]


def arbs(x: FloatArray) -> list[arb]:
    return [arb(float(v)) for v in x]


def norm(x: list[arb]) -> arb:
    return sum((v * v for v in x), arb(0)).sqrt()


def formulas(beta: FloatArray, delta: float, omega: float) -> tuple[arb, arb, arb]:
    """The three minima, as they are stated, in interval arithmetic."""
    b, D, W = arbs(np.sort(beta)[::-1]), arb(delta), arb(omega)
    l1, l2, top, rest = sum(b, arb(0)), norm(b), b[0], norm(b[1:])
    return (
        (D * l1).min(W * l2).min(top * D + rest * W),
        (top * W).min(D * l2),
        (D * D * l1).min(top * W * W).min(D * W * l2),
    )


def ask(beta: FloatArray, delta: float, omega: float) -> list[float]:
    measured, args = sums(beta[None]), (np.array([delta]), np.array([omega]))
    return [float(form(measured, *args)[0]) for form in (first_order, root_order, second_order)]


def spread(values: FloatArray, delta: float, omega: float) -> FloatArray:
    """Squares of errors, each at most ``delta^2``, in all at most ``omega^2``, on the largest values first."""
    left, squares = omega * omega, np.zeros_like(values)
    for token in np.argsort(-values):
        squares[token] = min(delta * delta, left)
        left -= squares[token]
    return squares


def along(beta: FloatArray, delta: float, omega: float) -> FloatArray:
    """The errors with the largest weighted sum: ``min(delta, f beta)``, f as large as the norm allows."""
    low, high = 0.0, 1e30
    for _ in range(200):
        mid = 0.5 * (low + high)
        fits = np.linalg.norm(np.minimum(delta, mid * beta)) <= omega
        low, high = (mid, high) if fits else (low, mid)
    return np.minimum(delta, low * beta)


positive = st.floats(1e-6, 1e6)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=70), positive, positive)
def test_between_the_formula_and_a_little_above(weights: list[float], delta: float, omega: float) -> None:
    beta = np.array(weights)
    beta[beta < 1e-100] = 0.0  # below, a product may underflow: the caller's business, see `spectral`
    for value, exact in zip(ask(beta, delta, omega), formulas(beta, delta, omega), strict=True):
        assert arb(value) >= exact
        assert arb(value) <= exact * ABOVE


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_never_below_the_worst_errors(weights: list[float], delta: float, omega: float) -> None:
    """The three suprema over all errors are known: two are linear in the squares, one is a projection."""
    beta = np.array(weights)
    beta[beta < 1e-100] = 0.0  # the squares below would be subnormal
    first, root, second = ask(beta, delta, omega)
    # the searched errors meet their limits up to 200 halvings and a few roundings
    slack = 1.0 + 1e-12
    assert beta @ along(beta, delta, omega) <= first * slack
    assert np.sqrt((beta * beta) @ spread(beta, delta, omega)) <= root * slack
    assert beta @ spread(beta, delta, omega) <= second * slack


@pytest.mark.parametrize(
    ("beta", "delta", "omega", "reached"),
    [
        ([0.25] * 4, 0.5, 1.0, (True, True, True)),  # every token errs by Delta
        ([0.75, 0.5, 0.25], 9.0, 2.0, (True, True, True)),  # errors along the weights; the heaviest has all of them
        ([0.75], 0.5, 3.0, (True, True, True)),
        ([1.0, 0.0, 0.0], 0.5, 3.0, (True, True, True)),
        ([1.0, 0.01, 0.01], 0.5, 0.6, (False, False, False)),
    ],
)
def test_attained(beta: list[float], delta: float, omega: float, reached: tuple[bool, bool, bool]) -> None:
    b = np.array(beta)
    worst = (
        b @ along(b, delta, omega),
        np.sqrt((b * b) @ spread(b, delta, omega)),
        b @ spread(b, delta, omega),
    )
    for value, seen, expected in zip(ask(b, delta, omega), worst, reached, strict=True):
        assert (seen >= value * (1.0 - 1e-12)) == expected
        assert seen >= 0.8 * value, "and never far away here"


def test_each_form_is_needed() -> None:
    """Every form is the smallest somewhere."""
    for beta, delta, omega, which in (
        ([1.0] * 4, 1.0, 9.0, 0),
        ([1.0] * 4, 1.0, 0.5, 1),
        ([1.0] + [0.01] * 100, 1.0, 3.0, 2),
    ):
        s = sums(np.array(beta)[None])
        forms = [delta * s.l1[0], omega * s.l2[0], s.top[0] * delta + s.rest[0] * omega]
        assert int(np.argmin(forms)) == which
        assert ask(np.array(beta), delta, omega)[0] == pytest.approx(forms[which], rel=1e-12)


def test_rest_leaves_out_one_of_the_largest() -> None:
    tied = np.array([[3.0, 4.0, 4.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    assert sums(tied).rest == pytest.approx([5.0, 0.0, np.sqrt(50.0)], rel=1e-14)
    assert without(tied, np.array([1, 0, 2])).tolist() == [[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [5.0, 5.0, 0.0]]
    assert tied[0, 1] == 4.0, "the weights stay as they are"


@pytest.mark.parametrize("form", [first_order, root_order, second_order])
def test_what_is_not_known(form: Form) -> None:
    """A limit that is NaN or infinite counts for nothing; without any the answer is infinite, and never NaN."""
    beta = sums(np.array([[0.5, 0.25], [0.0, 0.0]]))
    bad = np.array([np.nan, np.nan])
    two = np.array([2.0, 2.0])
    for unknown in (bad, np.array([np.inf, np.inf])):
        for args in ((unknown, two), (two, unknown)):
            value = form(beta, *args)
            assert not np.isnan(value).any()
            assert (value > 0.0)[0]
    assert (form(beta, bad, bad) == np.inf).all()
    assert form(beta, np.array([np.inf] * 2), two)[1] == 0.0, "no weight, no error"
    for weights in ([np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0]):
        assert form(sums(np.array([weights])), two[:1], two[:1])[0] == np.inf


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 3.0)), min_size=1, max_size=8), positive, positive)
def test_grows_with_every_weight(pairs: list[tuple[float, float]], delta: float, omega: float) -> None:
    small, factors = np.array(pairs).T
    for low, high in zip(ask(small, delta, omega), ask(small * factors, delta, omega), strict=True):
        assert low <= high * ABOVE
    for low, high in zip(ask(small, delta, omega), ask(small, 2 * delta, 1.5 * omega), strict=True):
        assert low <= high * ABOVE
