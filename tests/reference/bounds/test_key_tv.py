"""2 V_max TV bounds what wrong weights do to the output, and is attained by opposite values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import key_tv


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 10), dim=st.integers(1, 4))
def test_no_pair_of_weights_passes_it(seed: int, tokens: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.full(tokens, 0.3), 2)
    v = rng.standard_normal((tokens, dim))
    v_max = np.linalg.norm(v, axis=1).max()
    error = np.linalg.norm(a @ v - b @ v)
    # dirichlet sums to 1 within 10 u, and each sum of at most 10 terms errs by 12 u of v_max
    assert error <= key_tv.key_term(v_max, key_tv.total_variation(a, b)) + 50 * 2.0**-53 * v_max


def test_attained_and_smaller_variants_fail() -> None:
    a, b = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    v = np.array([[2.0], [-2.0]])
    error = np.abs(a @ v - b @ v)[0]
    bound = key_tv.key_term(2.0, key_tv.total_variation(a, b))
    assert error == 2.0
    assert bound >= error
    assert bound == pytest.approx(error, rel=1e-14)
    assert bound / 2 < error  # planted: V_max TV without the 2
    assert key_tv.key_term(np.abs(v.mean()), 0.5) < error  # planted: the norm of the mean value


def test_ignorance() -> None:
    assert key_tv.key_term(np.inf, 0.0) == np.inf
    assert key_tv.key_term(1.0, np.nan) == np.inf
    assert key_tv.key_term([1.0, 2.0], [0.5, 0.25]).shape == (2,)
