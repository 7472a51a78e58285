"""The output lies in the hull of the values, so its distance from anything is at most the largest one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import hull
from certkv.reference.numbers import norm_ub


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 12), dim=st.integers(1, 5), size=st.floats(0.0, 10.0))
def test_no_convex_combination_passes_it(seed: int, tokens: int, dim: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    v, c, anchor = rng.standard_normal((tokens, dim)), size * rng.standard_normal(dim), rng.standard_normal(dim)
    a = rng.dirichlet(np.full(tokens, 0.3))
    error = np.linalg.norm(a @ v - c)
    margin = 1 + 2.0**-50  # a rounded difference
    plain = hull.hull(hull.plain_radius(norm_ub(v), norm_ub(c)))
    anchored = hull.hull(hull.anchored_radius(norm_ub(v - anchor) * margin, norm_ub(c - anchor) * margin))
    # (tokens + dim + 10) u of everything involved, which is at most |a @ v| + |c| + 1
    slack = 30 * 2.0**-53 * (1 + plain)
    assert error <= plain + slack
    assert error <= anchored + slack


def test_attained_and_nothing_smaller_holds() -> None:
    v, c = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([-3.0, -4.0])
    bound = hull.hull(hull.plain_radius(norm_ub(v), norm_ub(c)))
    assert bound == pytest.approx(10.0, rel=1e-14)
    assert bound >= 10.0  # ||V_1 - c||, reached when all weight is on the first token
    # the planted variant: the mean radius instead of the largest
    assert hull.plain_radius(norm_ub(v), norm_ub(c)).mean() < 10.0


def test_shapes_and_ignorance() -> None:
    radii = np.array([[1.0, 5.0, 2.0], [np.nan, 1.0, 1.0], [np.inf, 0.0, 1.0]])
    assert hull.hull(radii).tolist() == [5.0, np.inf, np.inf]
    assert hull.plain_radius(np.ones((4, 3)), np.arange(4.0)).shape == (4, 3)
