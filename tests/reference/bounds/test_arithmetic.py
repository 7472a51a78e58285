"""The arithmetic model of the float64 step: its assumption about exp, and its terms against enclosures."""

from __future__ import annotations

import numpy as np
import pytest
from flint import arb, ctx

from certkv.reference.bounds import arithmetic


@pytest.fixture(autouse=True)
def precision() -> object:
    """128 bits for the enclosures of this module."""
    before = ctx.prec
    ctx.prec = 128
    yield
    ctx.prec = before


def ulp_error(values: np.ndarray, arguments: np.ndarray, function: str) -> float:
    """Largest distance from the exact function, in units in the last place of the result."""
    worst = 0.0
    for value, x in zip(values.tolist(), arguments.tolist(), strict=True):
        exact = getattr(arb(x), function)()
        distance = abs(arb(value) - exact) / arb(float(np.spacing(abs(value))))
        worst = max(worst, float(distance.upper()))
    return worst


@pytest.mark.parametrize("function", ["exp", "expm1"])
def test_exp_is_within_the_assumed_ulps(function: str) -> None:
    """An assumption about NumPy's build, checked where the step uses it: arguments from UNDERFLOW to 0, and above.

    Vectorised loops take another path than scalars and than array tails, so whole arrays are evaluated.
    """
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [
            rng.uniform(arithmetic.UNDERFLOW, 0, 4000),
            -np.exp(rng.uniform(np.log(1e-18), np.log(700), 4000)),
            np.exp(rng.uniform(np.log(1e-18), np.log(700), 4000)),
        ]
    )
    assert ulp_error(getattr(np, function)(x), x, function) <= arithmetic.EXP_ULPS


def test_exp_log_error_covers_the_ulps() -> None:
    """``|ln(1 +- 4 ulp)|``, an ulp being at most 2**-52 of the value."""
    relative = arb(arithmetic.EXP_ULPS) * arb(2.0**-52)
    assert -(1 - relative).log() < arb(arithmetic.EXP_LOG_ERROR)


def test_negligible_is_above_the_weights_it_stands_for() -> None:
    """``exp(x)`` for x < UNDERFLOW with a relative rounding of the difference, and NumPy's error on top."""
    largest = (arb(arithmetic.UNDERFLOW) * (1 - arb(2.0**-50))).exp() * (1 + arb(2.0**-49))
    assert largest < arb(arithmetic.NEGLIGIBLE)


def test_directed_exponentials() -> None:
    x = np.array([0.0, 1e-300, 1e-9, 0.1, 1.0, 30.0, 699.0, 700.0, 701.0, 1e9, np.inf])
    for value, upper, lower in zip(x, arithmetic.expm1_ub(x), arithmetic.exp_minus_lb(x), strict=True):
        if np.isfinite(value):
            assert arb(float(upper)) >= arb(value).expm1() or upper == np.inf
            assert arb(float(lower)) <= (-arb(value)).exp()
        assert lower >= 0
    assert arithmetic.exp_minus_lb(np.array([np.nan]))[0] == 0.0, "an unknown score error lends no mass"


def test_masses_are_outward() -> None:
    """Bounds contain a share computed with the most roundings that N tokens allow."""
    rng = np.random.default_rng(3)
    for tokens in (1, 7, 5000):
        p = rng.random(tokens)
        exact = sum((arb(float(x)) for x in p[: tokens // 2 + 1]), arb(0)) / sum((arb(float(x)) for x in p), arb(0))
        share = np.array([p[: tokens // 2 + 1].sum() / p.sum()])
        assert (
            arb(float(arithmetic.mass_lb(share, tokens)[0]))
            <= exact
            <= arb(float(arithmetic.mass_ub(share, tokens)[0]))
        )
    assert arithmetic.mass_ub(np.zeros(1), 10)[0] > 0, "an underflowed block may still hold true mass"
    assert arithmetic.mass_lb(np.zeros(1), 10)[0] == 0


def test_score_rounding() -> None:
    """Scores of the step's own order of operations, float64 against exact, on cancelling dot products."""
    rng = np.random.default_rng(4)
    d, scale = 64, 0.3
    q = rng.standard_normal(d)
    k = rng.standard_normal((50, d)) * np.exp(rng.standard_normal((50, d)) * 3)
    k[:, 0] = -(k[:, 1:] @ q[1:]) / q[0]  # the sum nearly cancels, so all that is left is rounding
    computed = scale * (k @ q)
    for row, value in zip(k, computed.tolist(), strict=True):
        exact = arb(scale) * sum((arb(float(a)) * arb(float(b)) for a, b in zip(q, row, strict=True)), arb(0))
        limit = arithmetic.score_rounding_ub(scale, np.array([np.linalg.norm(q)]), np.array([np.linalg.norm(row)]), d)
        assert abs(arb(value) - exact) <= arb(float(limit[0]))
