"""States merge like the sets of tokens that they stand for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import ShapeError
from certkv.reference.exact import Enclosure, distance
from certkv.reference.numbers import U, gamma
from certkv.reference.numbers.types import FloatArray
from certkv.reference.softmax_state import SoftmaxState


def tolerance(s: FloatArray, v: FloatArray, merges: int) -> float:
    """How far the output of a state built with some merges can be from exact.

    Each weight carries a log-error: u |s - m| + 9 u when it is formed (exp within 4 ulp), and as much again plus
    one product in every merge; |s - m| is at most the range of the scores. With |log-error| <= delta < 0.1 and K
    roundings in the sums and the quotient, weights relative to the denominator are wrong by at most 2.3 delta, and
    the sums by gamma_K twice, of the largest value norm.
    """
    finite = s[np.isfinite(s)]
    delta = (merges + 1) * (U * float(np.ptp(finite)) + 10 * U)
    return (2.3 * delta + 2 * gamma(len(s) + 2 * merges + 2)) * float(np.linalg.norm(v, axis=-1).max())


def error(state: SoftmaxState, s: FloatArray, v: FloatArray) -> float:
    """Enclosed distance from the exact output: scores are keys of size 1 under the query 1."""
    kept = np.isfinite(s)
    return float(distance(state.output, Enclosure(s[kept, None], v[kept]).attention(np.ones(1), 1.0)).upper())


def pieces(s: FloatArray, v: FloatArray, cuts: list[int]) -> list[SoftmaxState]:
    edges = [0, *sorted(c % (len(s) + 1) for c in cuts), len(s)]
    return [SoftmaxState.from_scores(s[a:b], v[a:b]) for a, b in itertools.pairwise(edges)]


def instance(seed: int, tokens: int, size: float) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return size * rng.standard_normal(tokens), rng.standard_normal((tokens, 3))


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "tokens": st.integers(1, 60),
    "size": st.sampled_from([0.1, 3.0, 100.0]),
    "cuts": st.lists(st.integers(0, 60), max_size=5),
}


@settings(deadline=None)
@given(**CASES)
def test_merging_parts_gives_the_whole(seed: int, tokens: int, size: float, cuts: list[int]) -> None:
    s, v = instance(seed, tokens, size)
    merged = SoftmaxState.empty((), 3)
    for piece in pieces(s, v, cuts):
        merged = merged.merge(piece)
    assert error(merged, s, v) <= tolerance(s, v, len(cuts) + 2)
    whole = SoftmaxState.from_scores(s, v)
    assert error(whole, s, v) <= tolerance(s, v, 0)
    assert merged.m == whole.m
    # relative error of the denominator: the same delta and gamma
    relative = tolerance(s, np.ones((tokens, 1)), len(cuts) + 2)
    assert abs(merged.lse - whole.lse) <= 2 * relative + 4 * U * (abs(whole.lse) + abs(whole.m))


@settings(deadline=None)
@given(**CASES)
def test_associative_up_to_rounding(seed: int, tokens: int, size: float, cuts: list[int]) -> None:
    s, v = instance(seed, tokens, size)
    parts = pieces(s, v, cuts)
    left, right = parts[0], parts[-1]
    for piece in parts[1:]:
        left = left.merge(piece)
    for piece in parts[-2::-1]:
        right = piece.merge(right)
    assert np.linalg.norm(left.output - right.output) <= 2 * tolerance(s, v, len(cuts) + 1)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0.1, 3.0, 1000.0]))
def test_commutative_exactly(seed: int, size: float) -> None:
    s, v = instance(seed, 20, size)
    a, b = SoftmaxState.from_scores(s[:7], v[:7]), SoftmaxState.from_scores(s[7:], v[7:])
    for x, y in zip(vars(a.merge(b)).values(), vars(b.merge(a)).values(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_empty_is_the_identity_exactly() -> None:
    s, v = instance(0, 5, 3.0)
    state, nothing = SoftmaxState.from_scores(s, v), SoftmaxState.empty((), 3)
    for merged in (state.merge(nothing), nothing.merge(state)):
        for x, y in zip(vars(merged).values(), vars(state).values(), strict=True):
            np.testing.assert_array_equal(x, y)


def test_empty_has_no_output() -> None:
    for nothing in (
        SoftmaxState.empty((2,), 3),
        SoftmaxState.from_scores(np.zeros((2, 0)), np.zeros((2, 0, 3))),
        SoftmaxState.from_scores(np.full((2, 4), -np.inf), np.ones((2, 4, 3))),
        SoftmaxState.empty((2,), 3).merge(SoftmaxState.empty((2,), 3)),
    ):
        assert np.isnan(nothing.output).all()
        assert (nothing.lse == -np.inf).all()
        assert (nothing.l == 0).all()


def test_masked_tokens_do_not_count() -> None:
    s, v = instance(1, 6, 1.0)
    s[[0, 4]] = -np.inf
    kept = np.isfinite(s)
    masked, without = SoftmaxState.from_scores(s, v), SoftmaxState.from_scores(s[kept], v[kept])
    assert error(masked, s, v) <= tolerance(s, v, 0)
    assert abs(masked.lse - without.lse) <= 20 * U * (1 + abs(without.lse))


def test_leading_axes_and_shared_values() -> None:
    rng = np.random.default_rng(2)
    s, v = rng.standard_normal((2, 5, 9)), rng.standard_normal((9, 4))
    state = SoftmaxState.from_scores(s, v)
    assert state.o.shape == (2, 5, 4)
    one = SoftmaxState.from_scores(s[1, 3], v)
    np.testing.assert_allclose(state.output[1, 3], one.output, rtol=0, atol=2 * tolerance(s[1, 3], v, 0))
    assert state.merge(SoftmaxState.empty((2, 5), 4)).output.shape == (2, 5, 4)


def test_far_apart_states_do_not_overflow() -> None:
    low, high = (SoftmaxState.from_scores(np.array([x]), np.array([[x]])) for x in (-1e77, 1e77))
    merged = low.merge(high)
    assert merged.output.tolist() == [1e77]
    assert merged.lse == 1e77


def test_nan_is_not_hidden() -> None:
    for bad in (np.nan, np.inf):
        state = SoftmaxState.from_scores(np.array([0.0, bad]), np.ones((2, 1)))
        assert np.isnan(state.merge(SoftmaxState.from_scores(np.zeros(1), np.ones((1, 1)))).output).all()


def test_planted_merge_without_rescaling_fails() -> None:
    s, v = instance(3, 10, 3.0)
    a, b = SoftmaxState.from_scores(s[:5], v[:5]), SoftmaxState.from_scores(s[5:], v[5:])
    wrong = SoftmaxState(np.maximum(a.m, b.m), a.l + b.l, a.o + b.o)
    assert error(a.merge(b), s, v) <= tolerance(s, v, 1) < error(wrong, s, v)


def test_refuses_wrong_shapes() -> None:
    with pytest.raises(ShapeError):
        SoftmaxState.from_scores(np.zeros(3), np.zeros((4, 2)))
    with pytest.raises(ShapeError):
        SoftmaxState.from_scores(np.zeros(3), np.zeros(3))
