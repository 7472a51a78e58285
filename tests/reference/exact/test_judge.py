"""The judge calls a violation a violation, decides close calls by enclosure, and lets no NaN pass."""

import math

import ml_dtypes
import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import DTypeError, NonFiniteError, SettingError, ShapeError
from certkv.reference.exact import Enclosure, attention, distance, judge
from certkv.reference.numbers.types import AnyArray

SCALE = 0.25


def head(seed: int = 0, heads: int = 3, tokens: int = 20, dim: int = 8) -> tuple[AnyArray, AnyArray, AnyArray]:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, dim)).astype(np.float16) for n in (heads, tokens, tokens))
    return q, k, v


def test_large_errors_are_settled_by_float64() -> None:
    q, k, v = head()
    output = attention(q, k, v, SCALE).output
    output[:, 0] += 0.5
    low = judge(output, np.full(3, 0.4), q, k, v, SCALE)
    high = judge(output, np.full(3, 0.6), q, k, v, SCALE)
    assert [x.violated for x in low] == [True] * 3
    assert [x.violated for x in high] == [False] * 3
    for verdict in low + high:
        assert verdict.judged_by == "float64"
        assert verdict.error_lb <= 0.5 <= verdict.error_ub
        assert verdict.error_ub - verdict.error_lb < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(2, 40),
    step=st.integers(-60, -30),
    nudge=st.sampled_from([-9, 9]),
)
def test_close_calls_are_settled_by_enclosures(seed: int, tokens: int, step: int, nudge: int) -> None:
    """Bounds within 2^step of the true error: far inside float64's own error, decided correctly on both sides."""
    q, k, v = head(seed, 1, tokens)
    output = attention(q, k, v, SCALE).output
    output[0, 0] = np.nextafter(output[0, 0], nudge)  # so that the computed distance is positive and too small
    true = float(distance(output[0], Enclosure(k, v).attention(q[0], SCALE, 1e-40)))
    if true < 1e-18:
        return  # below 2^-24 * 2^-36 of itself nothing is asked of the judge
    offset = max(2.0**step, 2.0**-20 * true)
    below, above = np.array([max(true - offset, true / 2)]), np.array([true + offset])
    assert judge(output, below, q, k, v, SCALE)[0].violated
    verdict = judge(output, above, q, k, v, SCALE)[0]
    assert not verdict.violated
    if above[0] < attention(q, k, v, SCALE).error_ub[0]:
        assert verdict.judged_by == "enclosure"
    assert verdict.error_lb <= true * (1 + 1e-15)
    assert verdict.error_ub >= true * (1 - 1e-15)


def test_always_uses_enclosures_and_agrees() -> None:
    q, k, v = head(2)
    output = attention(q, k, v, SCALE).output + 1e-3
    quick = judge(output, np.full(3, 1e-2), q, k, v, SCALE)
    slow = judge(output, np.full(3, 1e-2), q, k, v, SCALE, enclosures="always")
    assert {x.judged_by for x in quick} == {"float64"}
    assert {x.judged_by for x in slow} == {"enclosure"}
    for a, b in zip(quick, slow, strict=True):
        assert a.error_lb <= b.error_ub
        assert b.error_lb <= a.error_ub
        assert b.error_ub - b.error_lb <= 1e-8 * b.error_ub  # the radius asked for: 2^-24 of the bound


def test_the_bound_of_float64_itself_needs_no_enclosure() -> None:
    q, k, v = head(4)
    truth = attention(q, k, v, SCALE)
    assert {x.judged_by for x in judge(truth.output, truth.error_ub, q, k, v, SCALE)} == {"float64"}


def test_bound_zero_on_an_inexact_output_is_violated() -> None:
    q, k, v = head(5)
    output = attention(q, k, v, SCALE).output
    assert all(x.violated for x in judge(output, np.zeros(3), q, k, v, SCALE))
    # One token: the output is its value, exactly, and zero is a true bound.
    assert not any(x.violated for x in judge(np.repeat(v[:1], 3, 0), np.zeros(3), q, k[:1], v[:1], SCALE))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("enclosures", ["doubtful", "always"])
def test_an_output_that_is_not_finite(bad: float, enclosures: str) -> None:
    q, k, v = head(6)
    output = attention(q, k, v, SCALE).output
    output[:, 3] = bad
    verdicts = judge(output, np.array([1e300, np.inf, np.nan]), q, k, v, SCALE, enclosures)  # type: ignore[arg-type]
    assert [x.violated for x in verdicts] == [True, False, False]
    assert all(x.error_ub == math.inf for x in verdicts)


def test_a_bound_that_is_nan_counts_as_infinite() -> None:
    q, k, v = head(7)
    verdicts = judge(np.zeros((3, 8)), np.array([np.nan, np.inf, 0.0]), q, k, v, SCALE)
    assert [x.violated for x in verdicts] == [False, False, True]
    assert [x.judged_by for x in verdicts] == ["float64"] * 3  # nothing about a NaN is in doubt


def test_scores_beyond_the_first_precision() -> None:
    """Scores of 2^253 that differ by one unit: float64 knows nothing, and neither does the first enclosure."""
    q = np.array([[2.0**126, 1.0]], dtype=ml_dtypes.bfloat16)
    k = np.array([[2.0**127, 1.0], [2.0**127, 0.0]], dtype=ml_dtypes.bfloat16)
    v = np.array([[1.0], [0.0]], dtype=ml_dtypes.bfloat16)
    true = 1 / (1 + math.exp(-1))
    bound = np.array([1e-9])
    assert not judge(np.array([[true]]), bound, q, k, v, 1.0)[0].violated
    verdict = judge(np.array([[true + 2e-9]]), bound, q, k, v, 1.0)[0]
    assert verdict.violated
    assert verdict.error_ub < 3e-9


@pytest.mark.parametrize("enclosures", ["doubtful", "always"])
def test_an_output_that_is_exact_to_the_last_bit_is_judged(enclosures: str) -> None:
    """All weight on one token, so the output is its value and the enclosure is a ball around it."""
    q, k, v = head(11)
    k = np.outer(np.arange(20), np.full(8, 100)).astype(np.float16)
    q = np.full((3, 8), 10, np.float16)
    for verdict in judge(np.repeat(v[-1:], 3, 0), np.full(3, 1e-20), q, k, v, SCALE, enclosures):  # type: ignore[arg-type]
        assert verdict.judged_by == "enclosure"
        assert not verdict.violated
        assert verdict.error_ub < 1e-20


def test_what_no_precision_settles_is_called_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = head(12)
    monkeypatch.setattr(Enclosure, "attention", lambda *_: [arb("nan")] * 8)
    for bound in (0.0, 1.0):
        verdict = judge(np.zeros((3, 8)), np.full(3, bound), q, k, v, SCALE, "always")[0]
        assert (verdict.judged_by, verdict.error_ub, verdict.violated) == ("undecided", math.inf, False)


def test_a_negative_bound_is_violated() -> None:
    q, k, v = head(8)
    assert judge(np.repeat(v[:1], 3, 0), np.full(3, -1.0), q, k[:1], v[:1], SCALE)[0].violated


def test_originals_that_are_not_finite_are_an_error() -> None:
    q, k, v = head(9)
    v[4, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"v\[4, 2\]"):
        judge(np.zeros((3, 8)), np.ones(3), q, k, v, SCALE)


def test_refuses_wrong_input() -> None:
    q, k, v = head(10)
    good, bound = np.zeros((3, 8)), np.ones(3)
    with pytest.raises(ShapeError):
        judge(good[:2], bound, q, k, v, SCALE)
    with pytest.raises(ShapeError):
        judge(good, bound[:2], q, k, v, SCALE)
    with pytest.raises(SettingError):
        judge(good, bound, q, k, v, SCALE, enclosures="never")  # type: ignore[arg-type]
    with pytest.raises(DTypeError):
        judge(good.astype(np.int64), bound, q, k, v, SCALE)


def test_vague_errors_are_enclosed() -> None:
    """A head from the originals, whose error float64 only knows to be small, gets an error and not the bound again."""
    rng = np.random.default_rng(8)
    q, k, v = (rng.standard_normal(shape).astype(np.float16) for shape in ((2, 16), (40, 16), (40, 16)))
    truth = attention(q, k, v, 0.25)
    output = truth.output + np.array([[0.0], [0.01]])
    bound = np.array([truth.error_ub[0], 1.0])
    plain, sharp = (judge(output, bound, q, k, v, 0.25, enclosures=which) for which in ("doubtful", "vague"))
    assert [verdict.judged_by for verdict in plain] == ["float64", "float64"]
    assert [verdict.judged_by for verdict in sharp] == ["enclosure", "float64"]
    assert plain[0].error_ub == bound[0]
    # the requested radius is 2**-24 of the bound, so the error is known to within that
    assert 0 < sharp[0].error_ub < bound[0]
    assert sharp[0].error_ub - sharp[0].error_lb <= 2.0**-22 * bound[0]


@pytest.mark.parametrize(("output", "bound"), [(1e-45, 0.0), (1e-40, 1e-41), (1e-300, 0.0), (1e-300, 1e-301)])
def test_tiny_errors_above_tiny_bounds(output: float, bound: float) -> None:
    """Values of size 1 that cancel exactly: however small the error, a smaller bound is violated."""
    q, k = np.ones((1, 1), np.float16), np.array([[0.3], [0.1], [0.1]], np.float16)
    v = np.array([[0.0], [1.0], [-1.0]], np.float16)
    for enclosures in ("doubtful", "vague", "always"):
        (verdict,) = judge(np.array([[output]]), np.array([bound]), q, k, v, 0.7, enclosures=enclosures)
        assert verdict.violated, verdict
