"""Delta covers every score error for the caller's scale, and is not needlessly large."""

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.bounds import score_error
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import FloatArray


def dot(a: FloatArray, b: FloatArray) -> arb:
    return sum((arb(x) * y for x, y in zip(a.tolist(), b.tolist(), strict=True)), arb(0))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 8),
    scale=st.floats(-3, 3).filter(lambda scale: scale == 0 or abs(scale) >= 2.0**-128),  # what a step accepts
    size=st.sampled_from([1e-40, 1e-3, 1.0, 1e38]),
)
def test_covers_every_residual(seed: int, dim: int, scale: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    q = (rng.standard_normal((2, dim)) * size).astype(np.float32).astype(np.float64)
    step = np.abs(rng.standard_normal((3, dim)) * size).astype(np.float32).astype(np.float64)
    relative = rng.uniform(0, 2, 3)
    # residuals inside the box |e_c| <= z s_c: random points and the worst corner of each query
    for head in range(2):
        signs = np.stack([rng.uniform(-1, 1, dim), np.sign(q[head]), -np.sign(q[head])])
        for block in range(3):
            box = np.nextafter(relative[block] * step[block], 0.0)
            l1 = arb(float(score_error.measured_l1(scale, q, step, relative)[head, block]))
            for residual in signs * box:
                error = abs(arb(scale) * dot(q[head], residual))
                assert not error > l1
                norm = norm_ub(residual)[None]
                assert not error > float(score_error.measured_l2(scale, q, norm)[head, 0])


@pytest.mark.parametrize("scale", [1.0, -0.25, 0.088, 2.03])
def test_formulas_and_tightness(scale: float) -> None:
    rng = np.random.default_rng(0)
    q, step = rng.standard_normal((4, 128)), np.abs(rng.standard_normal((5, 128)))
    relative, residual = rng.uniform(0.4, 0.6, 5), rng.uniform(0, 3, 5)
    cases = (
        (score_error.paper_l1(scale, q, step), 0.5 * abs(scale) * np.abs(q) @ step.T),
        (
            score_error.paper_l2(scale, q, step),
            0.5 * abs(scale) * np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(step, axis=1),
        ),
        (score_error.measured_l1(scale, q, step, relative), abs(scale) * np.abs(q) @ step.T * relative),
        (score_error.measured_l2(scale, q, residual), abs(scale) * np.linalg.norm(q, axis=1)[:, None] * residual),
    )
    for value, expected in cases:
        assert value.shape == (4, 5)
        # both sides within 2 (d + 20) u of the formula
        np.testing.assert_allclose(value, expected, rtol=4 * 148 * 2.0**-53)


def test_l1_is_attained() -> None:
    q, step = np.array([[3.0, -5.0]]), np.array([[0.5, 0.25]])
    residual = np.array([0.25, -0.125])  # half a step in the direction of q
    assert float(abs(0.7 * dot(q[0], residual))) == pytest.approx(score_error.paper_l1(0.7, q, step)[0, 0], rel=1e-15)


def test_a_scale_left_out_fails() -> None:
    """The defect: Delta with 1/sqrt(d) whatever the caller's scale is."""
    q, step = np.array([[3.0, -5.0, 1.0, 1.0]]), np.array([[0.5, 0.25, 0.0, 0.0]])
    residual = np.array([0.25, -0.125, 0.0, 0.0])
    scale = 1.015
    error = abs(arb(scale) * dot(q[0], residual))
    assert not error > score_error.paper_l1(scale, q, step)[0, 0]
    assert error > score_error.paper_l1(1 / np.sqrt(4), q, step)[0, 0] * 2


def test_half_a_step_where_rounding_went_further_fails() -> None:
    """The defect: s/2 for a residual of .504 s, as the paper's own quantizer produces."""
    q, step = np.array([[1.0]]), np.array([[1.0]])
    error = arb(0.504)
    assert error > score_error.paper_l1(1.0, q, step)[0, 0]
    assert not error > score_error.measured_l1(1.0, q, step, np.array([0.504]))[0, 0]


def test_query_error_is_its_own_term() -> None:
    value = score_error.query_l2(0.5, np.array([2.0, 0.0]), np.array([3.0, 4.0, 0.0]))
    np.testing.assert_allclose(value, [[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], rtol=10 * 2.0**-53)
    assert (value >= [[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]).all()


def test_what_is_not_defined_is_infinite() -> None:
    zero, one, inf = np.zeros((1, 2)), np.ones((1, 2)), np.array([np.inf])
    assert np.isinf(score_error.measured_l1(1.0, one, zero, inf)).all()
    assert np.isinf(score_error.measured_l2(1.0, zero, inf)).all()
    assert np.isinf(score_error.query_l2(1.0, np.zeros(1), inf)).all()
    assert np.isinf(score_error.measured_l1(np.nan, one, one, np.ones(1))).all()
    assert np.isinf(score_error.measured_l1(1e300, one * 1e38, one * 1e38, np.ones(1))).all()


def test_zero_is_zero() -> None:
    assert (score_error.measured_l1(1.0, np.ones((2, 3)), np.zeros((4, 3)), np.zeros(4)) == 0).all()
    assert (score_error.measured_l2(0.0, np.ones((2, 3)), np.ones(4)) == 0).all()
    assert score_error.measured_l1(1.0, np.ones((2, 3)), np.zeros((0, 3)), np.zeros(0)).shape == (2, 0)
