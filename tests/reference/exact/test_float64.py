"""The float64 truth: its proved error holds, against enclosures, and planted smaller ones do not."""

import ml_dtypes
import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.errors import DTypeError, ShapeError
from certkv.reference.exact import Enclosure, ExactFloat64, attention, distance
from certkv.reference.exact import float64 as module
from certkv.reference.exact.enclosure import working_precision
from certkv.reference.numbers.types import AnyArray

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32)


def errors(truth: ExactFloat64, q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> list[arb]:
    """Return the true errors, enclosed far more tightly than float64's own error."""
    enclosure = Enclosure(k, v)
    radius = 2.0**-80 * max(1e-250, float(np.abs(v.astype(np.float64)).max()))
    return [distance(out, enclosure.attention(row, scale, radius)) for out, row in zip(truth.output, q, strict=True)]


def holds(truth: ExactFloat64, q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> bool:
    return not any(e > ub for e, ub in zip(errors(truth, q, k, v, scale), truth.error_ub, strict=True))


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, size: float) -> AnyArray:
    largest = {np.float16: 65504.0, ml_dtypes.bfloat16: 3.38e38}.get(dtype, 3.4e38)
    result: AnyArray = np.clip(rng.standard_normal(shape) * size, -largest, largest).astype(dtype)
    return result


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 40),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    q_size=st.sampled_from([1e-6, 1.0, 1e3, 1e38]),
    k_size=st.sampled_from([1e-6, 1.0, 100.0, 1e38]),
    v_size=st.sampled_from([1e-40, 1e-3, 1.0, 1e38]),
    scale=st.one_of(st.floats(-4.0, 4.0), st.just(0.0)),
)
def test_error_is_within_its_bound(
    seed: int, tokens: int, dim: int, dtype: type, q_size: float, k_size: float, v_size: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    q, k = normal(rng, (3, dim), dtype, q_size), normal(rng, (tokens, dim), dtype, k_size)
    v = normal(rng, (tokens, dim), dtype, v_size)
    truth = attention(q, k, v, scale)
    assert np.isfinite(truth.error_ub).all()
    assert holds(truth, q, k, v, scale)


@pytest.mark.parametrize("tokens", [255, 256, 257, 511, 512, 769])
def test_chunks_of_the_sums(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    q, k, v = (normal(rng, (n, 16), np.float16, 1.0) for n in (2, tokens, tokens))
    truth = attention(q, k, v, 0.25)
    assert holds(truth, q, k, v, 0.25)
    # gamma_17 * .25 * ||q|| ||k|| + gamma_259 and 20 u of the rest, times 2 R / 1: below 10^-12 for norms below 10
    assert (truth.error_ub < 1e-12).all()


def test_lse_and_output_of_a_plain_case() -> None:
    q, k, v = np.array([[2.0]]), np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])
    truth = attention(q, k, v, 0.5)
    assert truth.lse == pytest.approx(np.log(1 + np.e), rel=1e-15)
    assert truth.output[0, 0] == pytest.approx(np.e / (1 + np.e), rel=1e-15)


def test_flushed_tokens_are_charged() -> None:
    # The second token weighs e^-400: flushed. Its value is all there is of the exact output: 65504 e^-400 > 0.
    q, k, v = np.array([[400.0]]), np.array([[1.0], [0.0]]), np.array([[0.0], [65504.0]])
    truth = attention(q, k, v, 1.0)
    assert truth.output[0, 0] == 0.0
    (error,) = errors(truth, q, k, v, 1.0)
    assert error > 0
    assert error <= truth.error_ub[0]
    assert truth.error_ub[0] < 1e-120  # 65504 e^-299: negligible beside anything a bound could say


def test_known_scores_of_1e10_and_hopeless_ones() -> None:
    rng = np.random.default_rng(1)
    k, v = (normal(rng, (50, 128), np.float16, 30_000.0) for _ in range(2))
    truth = attention(k[:2], k, v, 0.1)
    assert holds(truth, k[:2], k, v, 0.1)
    k = normal(rng, (50, 4), ml_dtypes.bfloat16, 1e38)
    truth = attention(k[:2], k, v, 1.0)
    # Score errors of 1e60: the bound falls back on the largest value norm plus the output's.
    assert (truth.error_ub <= 1.001 * (np.linalg.norm(v.astype(float), axis=1).max() * 2)).all()


def test_nothing_finite_means_nothing_known() -> None:
    ones = np.ones((2, 2))
    for bad in (np.nan, np.inf):
        broken = np.array([[1.0, 1.0], [bad, 1.0]])
        assert np.isinf(attention(ones, ones, broken, 1.0).error_ub).all()
        assert np.isinf(attention(broken, ones, ones, 1.0).error_ub)[1]
    assert np.isinf(attention(ones * 1e200, ones * 1e200, ones, 1.0).error_ub).all()
    assert np.isinf(attention(ones, ones, ones, np.nan).error_ub).all()


def test_planted_smaller_errors_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    # Scores near 2e4 that differ by a few units: each is wrong by up to u * 2e4, the weights by that in relative terms.
    rng = np.random.default_rng(3)
    q, v = (np.abs(normal(rng, (n, 128), np.float16, 100.0)) for n in (4, 300))
    k = (100.0 + 0.1 * rng.standard_normal((300, 128))).astype(np.float16)
    scale = 0.0213
    assert holds(attention(q, k, v, scale), q, k, v, scale)
    monkeypatch.setattr(module, "gamma", lambda n: 0.0)
    assert not holds(attention(q, k, v, scale), q, k, v, scale)


def test_planted_missing_flush_charge_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH", 1.0)  # flushes weights below e^-1 and charges them e^0 each: still sound
    q, k, v = np.array([[2.0]]), np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    assert holds(attention(q, k, v, 1.0), q, k, v, 1.0)
    monkeypatch.setattr(module, "norm_ub", lambda x: np.zeros(len(x)))  # forgets the flushed token's value
    assert not holds(attention(q, k, v, 1.0), q, k, v, 1.0)


def test_exp_of_this_numpy_is_within_the_assumed_four_ulp() -> None:
    rng = np.random.default_rng(5)
    down = np.concatenate([-rng.uniform(0, module.FLUSH, 4000), -np.exp(rng.uniform(-40, 0, 1000)), [0.0]])
    up = np.concatenate([np.exp(rng.uniform(-36, np.log(700.0), 4000)), rng.uniform(0, 2, 1000)])
    with working_precision(128):
        for points, function, name in ((down, np.exp, "exp"), (-up[up < 300], np.exp, "exp"), (up, np.expm1, "expm1")):
            for x, y in zip(points.tolist(), function(points).tolist(), strict=True):
                true = getattr(arb(x), name)()
                assert abs(arb(y) - true) <= 8 * arb(2) ** -53 * true, (name, x)


def test_refuses_wrong_input() -> None:
    q, k = np.ones((1, 2)), np.ones((3, 2))
    for query, keys, values in ((q[0], k, k), (q, k, k[:2]), (q, k[:, :1], k), (q, k[:0], k[:0])):
        with pytest.raises(ShapeError):
            attention(query, keys, values, 1.0)
    with pytest.raises(DTypeError):
        attention(q, k, k.astype(np.int32), 1.0)
    with pytest.raises(DTypeError):
        attention(q, k.astype(np.longdouble), k, 1.0)
