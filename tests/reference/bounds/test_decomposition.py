"""The identities hold exactly, in rational arithmetic, and stop holding when a term is changed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.bounds import decomposition
from certkv.reference.numbers.types import AnyArray

Instance = tuple[AnyArray, AnyArray, AnyArray, AnyArray, AnyArray, Fraction]


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Rational a' (sum 1), w > 0, V, V_hat, c, kappa."""
    tokens, dim = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    any_number = st.fractions(-10, 10, max_denominator=50)
    positive = st.fractions(Fraction(1, 50), 10, max_denominator=50)

    def array(element: st.SearchStrategy[Fraction], *shape: int) -> AnyArray:
        size = int(np.prod(shape))
        flat = np.array([*draw(st.lists(element, min_size=size, max_size=size)), None], dtype=object)[:-1]
        return flat.reshape(shape)

    p = array(positive, tokens)
    return (
        p / p.sum(),
        array(positive, tokens),
        array(any_number, tokens, dim),
        array(any_number, tokens, dim),
        array(any_number, dim),
        draw(any_number),
    )


def exact(a_prime: AnyArray, w: AnyArray, v: AnyArray) -> AnyArray:
    a = a_prime * w / (a_prime @ w)
    result: AnyArray = a @ v
    return result


@settings(deadline=None)
@given(instances())
def test_identity_is_exact(instance: Instance) -> None:
    a_prime, w, v, v_hat, c, kappa = instance
    terms = decomposition.identity(a_prime, w, v, v_hat, c, kappa)
    assert (exact(a_prime, w, v) - c == terms.key + terms.value + terms.accumulation).all()


@settings(deadline=None)
@given(instances())
def test_two_terms_are_exact(instance: Instance) -> None:
    a_prime, w, v, v_hat, _, _ = instance
    a = a_prime * w / (a_prime @ w)
    key, value = decomposition.two_terms(a, a_prime, v, v_hat)
    assert (a_prime @ v_hat - a @ v == key + value).all()


@pytest.mark.parametrize("variant", ["decoded value in the key term", "no kappa on the value term", "no W"])
def test_planted_variants_are_no_identities(variant: str) -> None:
    a_prime, w = np.array([Fraction(1, 4), Fraction(3, 4)], object), np.array([Fraction(2), Fraction(1, 3)], object)
    v, v_hat = (np.array(x, object)[:, None] + Fraction(0) for x in ([1, 5], [2, 4]))
    c, kappa = np.array([Fraction(3)], object), Fraction(1, 2)
    good = decomposition.identity(a_prime, w, v, v_hat, c, kappa)
    truth = exact(a_prime, w, v) - c
    assert (good.key + good.value + good.accumulation == truth).all()
    total = a_prime @ w
    wrong = {
        "decoded value in the key term": (a_prime * (w - kappa)) @ (v_hat - c) / total + good.value + good.accumulation,
        "no kappa on the value term": good.key + good.value / kappa + good.accumulation,
        "no W": (good.key + good.value + good.accumulation) * total,
    }[variant]
    assert (wrong != truth).all()


def test_float64_too() -> None:
    rng = np.random.default_rng(0)
    a_prime, w = rng.dirichlet(np.ones(6)), np.exp(rng.uniform(-1, 1, 6))
    v, v_hat, c = rng.standard_normal((6, 3)), rng.standard_normal((6, 3)), rng.standard_normal(3)
    terms = decomposition.identity(a_prime, w, v, v_hat, c, 0.7)
    # 30 roundings of numbers below 10
    np.testing.assert_allclose(terms.key + terms.value + terms.accumulation, exact(a_prime, w, v) - c, atol=1e-13)
