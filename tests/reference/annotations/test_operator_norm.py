"""The operator norm from above: never below the exact one, and above it by the trace power at most."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.annotations import annotate_keys
from certkv.reference.annotations.operator_norm import operator_norm_ub
from certkv.reference.formats import key_format
from certkv.reference.numbers import gamma, norm_lb, norm_ub
from certkv.reference.numbers.types import FloatArray

from .exact import exact_blocks, operator_at_most

ROUNDING = 1 + 2.0**-34
"""Of the bound: what is added for a product is at most gamma_130 times 128, below 2^-39, and a Frobenius norm of 128 x
128 numbers is rounded outward by about as much; there are three of each, halved by the roots that follow."""


def norm_of_image_lb(x: FloatArray) -> float:
    """Lower bound of the operator norm: the image of one direction, whatever that is, less the rounding of the image.

    The float64 singular vector makes it close; nothing is taken from it on trust.
    """
    y = np.linalg.svd(x)[2][0]
    lost = gamma(x.shape[1]) * float(norm_ub(np.abs(x) @ np.abs(y)))
    return (float(norm_lb(x @ y)) - 2.0 * lost) / float(norm_ub(y)) * (1 - 2.0**-50)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    rank=st.integers(1, 7),
    size=st.sampled_from([0, -1074, -1000, -600, 500, 1000]),
)
def test_small_matrices(seed: int, rows: int, columns: int, rank: int, size: int) -> None:
    """In rational arithmetic: ``bound^2 I - X X^T`` has no negative pivot, and for a smaller bound it has one."""
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)), size)
    x[rng.random(x.shape) < 0.2] = 0.0
    bound = Fraction(float(operator_norm_ub(x)))
    assert operator_at_most(exact_blocks(x), bound)
    if x.any():
        smaller = (bound - 2 * Fraction(2) ** -1074) / Fraction(min(x.shape) ** (1 / 16) * ROUNDING)
        assert smaller <= 0 or not operator_at_most(exact_blocks(x), smaller)
    else:
        assert bound == 0


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (64, 64), (1, 128), (128, 1)])
@pytest.mark.parametrize("kind", ["normal", "parallel", "orthogonal", "nearly parallel", "graded"])
def test_blocks_of_usual_size(shape: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape)
    if kind == "parallel":
        x = np.outer(x[:, 0], x[0])
    elif kind == "nearly parallel":
        x = np.outer(x[:, 0], x[0]) + 1e-9 * x
    elif kind == "orthogonal":
        x = np.eye(*shape)
    elif kind == "graded":
        x = x * np.exp2(-np.arange(shape[0]))[:, None]
    bound, below = float(operator_norm_ub(x)), norm_of_image_lb(x)
    assert below <= bound <= min(shape) ** (1 / 16) * ROUNDING * below
    assert bound <= float(norm_ub(x.ravel()))
    if kind == "orthogonal":  # all singular values are equal: the factor is attained
        assert bound == pytest.approx(min(shape) ** (1 / 16), rel=2.0**-34)
    if kind == "parallel":  # there is one: the trace is its power
        assert bound == pytest.approx(below, rel=2.0**-34)


def test_scaling_by_powers_of_two_is_exact() -> None:
    x = np.random.default_rng(4).standard_normal((5, 9))
    for exponent in (-900, -30, 1, 900):
        assert operator_norm_ub(np.ldexp(x, exponent)) == np.ldexp(operator_norm_ub(x), exponent)


def test_leading_axes_and_corners() -> None:
    x = np.random.default_rng(5).standard_normal((2, 3, 4, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = operator_norm_ub(x)
        # a batched product may sum in another order
        np.testing.assert_allclose(found, [[operator_norm_ub(b) for b in row] for row in x], rtol=2.0**-40)
        assert operator_norm_ub(np.zeros((0, 4, 5))).shape == (0,)
        assert operator_norm_ub(np.zeros((2, 3))) == 0.0
        for bad in (np.nan, np.inf, -np.inf):
            assert operator_norm_ub(np.array([[1.0, bad], [0.0, 2.0]])) == np.inf
        assert operator_norm_ub(np.full((3, 3), np.finfo(np.float64).max)) == np.inf
        smallest = np.full((1, 3), 2.0**-1074)
        assert operator_at_most(exact_blocks(smallest), Fraction(float(operator_norm_ub(smallest))))


def test_power_iteration_is_no_bound() -> None:
    """The defect: it approaches the norm from below, and from some starts it does not approach it at all."""
    x = np.diag([1.0, 3.0])
    y = np.array([1.0, 0.0])
    for _ in range(100):
        y = x.T @ (x @ y)
        y /= np.linalg.norm(y)
    assert np.linalg.norm(x @ y) == 1.0
    assert operator_norm_ub(x) >= 3.0


RATIOS = {16: (1.046, 0.30), 32: (1.055, 0.24), 64: (1.073, 0.19), 128: (1.091, 0.16)}
"""Bound over norm, and norm over sqrt(B) times the largest row, by block size: the table of the derivation."""


@pytest.mark.parametrize("block", RATIOS)
def test_what_it_costs_on_residuals(block: int) -> None:
    rng = np.random.default_rng(6)
    k = (rng.standard_normal((8, block, 128)) * np.exp(rng.standard_normal(128))).astype(np.float16)
    fmt = key_format("int8")
    encoded = fmt.encode(k)
    relative = (k - fmt.decode(encoded)) / encoded.step.astype(np.float64)[:, None]
    # of a backward stable method: within a modest multiple of 2^-53 of the norm, far below 2^-40
    true = np.linalg.norm(relative, 2, axis=(-2, -1))
    ratio = operator_norm_ub(relative) / true
    assert (ratio >= 1.0 - 2.0**-40).all()
    assert ratio.mean() == pytest.approx(RATIOS[block][0], abs=0.002)
    stored = annotate_keys(k, encoded, fmt).relative_operator_ub.astype(np.float64)
    assert (stored >= true * (1.0 - 2.0**-40)).all()
    assert (stored <= true * ratio * (1 + 2.0**-7) * (1 + 2.0**-40)).all()
    largest = np.linalg.norm(relative, axis=-1).max(axis=-1)
    assert np.mean(true / largest) / np.sqrt(block) == pytest.approx(RATIOS[block][1], abs=0.006)
