"""The value term: executed masses times absolute residual norms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import value_blocks


@given(seed=st.integers(0, 2**32 - 1), blocks=st.integers(1, 6), size=st.integers(1, 5), dim=st.integers(1, 4))
def test_no_combination_of_residuals_passes_it(seed: int, blocks: int, size: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((blocks, size, dim))
    v_hat = v + rng.standard_normal(v.shape) * rng.lognormal(size=(blocks, 1, 1))
    a = rng.dirichlet(np.full(blocks * size, 0.5)).reshape(blocks, size)
    eta = np.linalg.norm(v - v_hat, axis=-1).max(axis=-1)
    error = np.linalg.norm(np.einsum("bt,btd->d", a, v_hat - v))
    # sums of at most 30 terms of total size at most max eta, and rounded inputs: 60 u of it
    slack = 60 * 2.0**-53 * (eta.max() + np.abs(v).max())
    assert error <= value_blocks.blockwise(a.sum(axis=-1), eta) + slack
    assert error <= value_blocks.uniform(eta) + slack


def test_attained_and_smaller_variants_fail() -> None:
    mass, eta = np.array([0.25, 0.75]), np.array([4.0, 8.0])
    # All residuals parallel: the error is exactly sum rho eta = 7.
    assert value_blocks.blockwise(mass, eta) >= 7.0
    assert value_blocks.blockwise(mass, eta) == pytest.approx(7.0, rel=1e-14)
    assert value_blocks.uniform(eta) == 8.0
    # Planted: the mean over tokens instead of the maximum (half of it here), relative instead of absolute residuals.
    assert value_blocks.blockwise(mass, eta / 2) < 7.0
    assert value_blocks.blockwise(mass, eta / 22.0) < 7.0
    # Planted: the masses of a scoring pass that saw the second block as light.
    assert value_blocks.blockwise(np.array([0.75, 0.25]), eta) < 7.0


def test_rounds_up() -> None:
    rng = np.random.default_rng(0)
    mass, eta = rng.dirichlet(np.ones(1000), 20), rng.lognormal(size=(20, 1000))
    exact = np.array([sum(map(float, row)) for row in (mass.astype(np.longdouble) * eta).tolist()])
    value = value_blocks.blockwise(mass, eta)
    assert (value >= exact * (1 - 1000 * 2.0**-53)).all()
    assert (value <= exact * (1 + 5000 * 2.0**-53)).all()


def test_ends() -> None:
    assert value_blocks.blockwise(np.array([0.0, 1.0]), np.array([np.inf, 1.0])) == np.inf
    assert value_blocks.blockwise(np.zeros((2, 0)), np.zeros((2, 0))).tolist() == [0.0, 0.0]
    assert value_blocks.uniform(np.zeros((2, 0))).tolist() == [0.0, 0.0]
    assert value_blocks.uniform(np.array([1.0, np.nan])) == np.inf
