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
    size=st.sampled_from([1e-40, 1e-3, 1.0, 1e37]),  # ten standard deviations stay finite
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
            # residuals in units of the step, so that several tokens have a matrix X
            unit = np.where(step[block] > 0, step[block], 1.0)
            rows = signs * box / unit
            row_ub = float(norm_ub(rows).max()) * (1 + 2.0**-50)
            operator_ub = float(np.linalg.norm(rows, 2)) * (1 + 1e-12)  # LAPACK is off by far less
            l2 = float(score_error.measured_l2(scale, q, step, np.full(3, row_ub))[head, block])
            together = float(score_error.measured_operator(scale, q, step, np.full(3, operator_ub))[head, block])
            errors = [abs(arb(scale) * dot(q[head], residual)) for residual in signs * box]
            for error in errors:
                assert not error > l1
                assert not error > l2
            assert not sum((error * error for error in errors), arb(0)).sqrt() > together


@pytest.mark.parametrize("scale", [1.0, -0.25, 0.088, 2.03])
def test_formulas_and_tightness(scale: float) -> None:
    rng = np.random.default_rng(0)
    q, step = rng.standard_normal((4, 128)), np.abs(rng.standard_normal((5, 128)))
    relative, norm = rng.uniform(0.4, 0.6, 5), rng.uniform(0, 3, 5)
    weighted = np.sqrt((q * q) @ (step * step).T)
    cases = (
        (score_error.paper_l1(scale, q, step), 0.5 * abs(scale) * np.abs(q) @ step.T),
        (
            score_error.paper_l2(scale, q, step),
            0.5 * abs(scale) * np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(step, axis=1),
        ),
        (score_error.measured_l1(scale, q, step, relative), abs(scale) * np.abs(q) @ step.T * relative),
        (score_error.measured_l2(scale, q, step, norm), abs(scale) * weighted * norm),
        (score_error.measured_operator(scale, q, step, norm), abs(scale) * weighted * norm),
    )
    for value, expected in cases:
        assert value.shape == (4, 5)
        # both sides within 2 (d + 20) u of the formula
        np.testing.assert_allclose(value, expected, rtol=4 * 148 * 2.0**-53)


def test_l1_is_attained() -> None:
    q, step = np.array([[3.0, -5.0]]), np.array([[0.5, 0.25]])
    residual = np.array([0.25, -0.125])  # half a step in the direction of q
    assert float(abs(0.7 * dot(q[0], residual))) == pytest.approx(score_error.paper_l1(0.7, q, step)[0, 0], rel=1e-15)


def test_normalised_l2_and_operator_are_attained() -> None:
    """Residuals along ``s o q`` in units of the step; all tokens alike have sqrt(B) times the norm of one."""
    q, step = np.array([[3.0, -5.0]]), np.array([[0.5, 0.25]])
    row = np.array([0.4, -0.4 * 5.0 / 6.0])  # parallel to (1.5, -1.25)
    error = float(abs(0.7 * dot(q[0], row * step[0])))
    norm = norm_ub(row)[None]
    assert error == pytest.approx(float(score_error.measured_l2(0.7, q, step, norm)[0, 0]), rel=1e-14)
    together = float(score_error.measured_operator(0.7, q, step, 8.0 * norm)[0, 0])
    assert 8.0 * error == pytest.approx(together, rel=1e-14)


def test_normalising_helps_where_steps_differ() -> None:
    """One channel with a coarse step that the query ignores: the plain form ``||q|| max ||e||`` pays for it."""
    q, step = np.array([[1.0, 0.0]]), np.array([[0.01, 10.0]])
    rows = np.array([[0.5, 0.5], [-0.5, 0.5]])
    normalised = float(score_error.measured_l2(1.0, q, step, norm_ub(rows).max(keepdims=True))[0, 0])
    plain = float(norm_ub(rows * step).max())
    assert normalised < plain / 500


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
    assert np.isinf(score_error.measured_l2(1.0, zero, one, inf)).all()
    assert np.isinf(score_error.measured_l2(1.0, one, zero, inf)).all()
    assert np.isinf(score_error.measured_operator(1.0, zero, one, inf)).all()
    assert np.isinf(score_error.query_l2(1.0, np.zeros(1), inf)).all()
    assert np.isinf(score_error.measured_l1(np.nan, one, one, np.ones(1))).all()
    assert np.isinf(score_error.measured_l1(1e300, one * 1e38, one * 1e38, np.ones(1))).all()


def test_zero_is_zero() -> None:
    assert (score_error.measured_l1(1.0, np.ones((2, 3)), np.zeros((4, 3)), np.zeros(4)) == 0).all()
    assert (score_error.measured_l2(0.0, np.ones((2, 3)), np.ones((4, 3)), np.ones(4)) == 0).all()
    assert (score_error.measured_operator(1.0, np.ones((2, 3)), np.zeros((4, 3)), np.zeros(4)) == 0).all()
    assert score_error.measured_l1(1.0, np.ones((2, 3)), np.zeros((0, 3)), np.zeros(0)).shape == (2, 0)
