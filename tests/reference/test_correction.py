"""A corrected state is the state from scratch: exactly over the rationals, within a derived bound in float64."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.correction import correct, must_recompute
from certkv.reference.numbers.types import AnyArray
from certkv.reference.softmax_state import SoftmaxState

Correction = Callable[[SoftmaxState, AnyArray, AnyArray, AnyArray, AnyArray], SoftmaxState]
OTHERS, PROMOTED, DIM = 9, 5, 3
TOKENS = OTHERS + PROMOTED
SEEDS = st.integers(0, 2**32 - 1)
NO_REFERENCE = np.array(0.0)


def fractions(x: AnyArray) -> AnyArray:
    """Float64 as Fractions: the same numbers."""
    return np.array([Fraction(float(e)) for e in x.ravel()], dtype=object).reshape(x.shape)


def rationals(rng: np.random.Generator, *shape: int, positive: bool = False) -> AnyArray:
    count = int(np.prod(shape))
    low = 1 if positive else -9
    pairs = zip(rng.integers(low, 10, count).tolist(), rng.integers(1, 10, count).tolist(), strict=True)
    return np.array([Fraction(a, b) for a, b in pairs], dtype=object).reshape(shape)


def whole(p: AnyArray, v: AnyArray) -> SoftmaxState:
    """State of all tokens from their weights; the reference plays no part."""
    return SoftmaxState(NO_REFERENCE, p.sum(), p @ v)


def joined(others: AnyArray, promoted: AnyArray) -> AnyArray:
    return np.concatenate([others, promoted])


def exactly_from_scratch(correction: Correction, seed: int) -> bool:
    """Compare in rational arithmetic, keys and values promoted."""
    rng = np.random.default_rng(seed)
    rest, v_rest = rationals(rng, OTHERS, positive=True), rationals(rng, OTHERS, DIM)
    p_old, p = rationals(rng, PROMOTED, positive=True), rationals(rng, PROMOTED, positive=True)
    v_hat, v = rationals(rng, PROMOTED, DIM), rationals(rng, PROMOTED, DIM)
    corrected = correction(whole(joined(rest, p_old), joined(v_rest, v_hat)), p_old, p, v_hat, v)
    scratch = whole(joined(rest, p), joined(v_rest, v))
    return bool(corrected.l == scratch.l and (corrected.o == scratch.o).all())


@given(seed=SEEDS)
def test_identity(seed: int) -> None:
    assert exactly_from_scratch(correct, seed)


def new_value_old_weight(
    state: SoftmaxState, p_old: AnyArray, p: AnyArray, v_hat: AnyArray, v: AnyArray
) -> SoftmaxState:
    return SoftmaxState(state.m, state.l + (p - p_old).sum(), state.o + (p - p_old) @ v_hat + p_old @ (v - v_hat))


def change_times_original(
    state: SoftmaxState, p_old: AnyArray, p: AnyArray, v_hat: AnyArray, v: AnyArray
) -> SoftmaxState:
    return SoftmaxState(state.m, state.l + (p - p_old).sum(), state.o + (p - p_old) @ v + p @ (v - v_hat))


def old_weight_kept(state: SoftmaxState, p_old: AnyArray, p: AnyArray, v_hat: AnyArray, v: AnyArray) -> SoftmaxState:
    return SoftmaxState(state.m, state.l + p.sum(), correct(state, p_old, p, v_hat, v).o)


PLANTED = pytest.mark.parametrize("wrong", [new_value_old_weight, change_times_original, old_weight_kept])


@PLANTED
def test_planted_defects_break_the_identity(wrong: Correction) -> None:
    assert not any(exactly_from_scratch(wrong, seed) for seed in range(5))


@given(seed=SEEDS)
def test_one_side_alone(seed: int) -> None:
    """Key promoted, value coded; then value promoted, key coded; together both."""
    rng = np.random.default_rng(seed)
    p_old, p = rationals(rng, PROMOTED, positive=True), rationals(rng, PROMOTED, positive=True)
    v_hat, v = rationals(rng, PROMOTED, DIM), rationals(rng, PROMOTED, DIM)
    old = whole(p_old, v_hat)
    key = correct(old, p_old, p, v_hat, v_hat)
    assert (key.l, key.o.tolist()) == (p.sum(), (p @ v_hat).tolist())
    value = correct(old, p_old, p_old, v_hat, v)
    assert (value.l, value.o.tolist()) == (old.l, (p_old @ v).tolist())
    both = correct(key, p, p, v_hat, v)
    assert (both.l, both.o.tolist()) == (p.sum(), (p @ v).tolist())


@given(seed=SEEDS)
def test_exact_in_float64_where_nothing_rounds(seed: int) -> None:
    """Weights are multiples of 1/64 below 16 and values small integers: no sum has more than 53 bits."""
    rng = np.random.default_rng(seed)
    rest, v_rest = rng.integers(0, 64, (2, OTHERS)) / 64, rng.integers(-99, 100, (OTHERS, DIM)) / 1
    p_old, p = rng.integers(0, 64, (2, 2, PROMOTED)) / 64
    v_hat, v = rng.integers(-99, 100, (2, PROMOTED, DIM)) / 1
    before = SoftmaxState(np.zeros(2), rest.sum(axis=-1) + p_old.sum(axis=-1), rest @ v_rest + p_old @ v_hat)
    after = correct(before, p_old, p, v_hat, v)
    np.testing.assert_array_equal(after.l, rest.sum(axis=-1) + p.sum(axis=-1))
    np.testing.assert_array_equal(after.o, rest @ v_rest + p @ v)
    np.testing.assert_array_equal(after.m, before.m)


class Case:
    """A head in float64: old weights from scores, new ones from scores off by at most ``size``, one reference."""

    def __init__(self, seed: int, size: float) -> None:
        rng = np.random.default_rng(seed)
        scores = 3 * rng.standard_normal(TOKENS)
        weights = np.exp(scores - scores.max())
        self.rest, self.p_old = weights[:OTHERS], weights[OTHERS:]
        self.p = self.p_old * np.exp(rng.uniform(-size, size, PROMOTED))
        self.v_rest, self.v = rng.standard_normal((OTHERS, DIM)), rng.standard_normal((PROMOTED, DIM))
        self.v_hat = self.v + 0.1 * rng.standard_normal((PROMOTED, DIM))
        self.before = whole(joined(self.rest, self.p_old), joined(self.v_rest, self.v_hat))

    def corrected(self, correction: Correction) -> SoftmaxState:
        return correction(self.before, self.p_old, self.p, self.v_hat, self.v)

    def within(self, state: SoftmaxState) -> bool:
        """Whether l, o and o/l are as close to from scratch as the page derives; in rational arithmetic throughout.

        The first sums meet at most N roundings on a path, the correction n + 3 more (difference, product, n - 1
        sums, two joins), so with K = N + n + 3, A = sum p' + sum|p - p'| and, channel by channel,
        B = sum p'|v_hat| + sum |p - p'||v_hat| + sum p|v - v_hat|: |l - L| <= gamma_K A and |o - O| <= gamma_K B. The
        quotient of both is off by at most gamma_K (B + |O/L| A) / (L - gamma_K A), and rounds once. N counts the
        other tokens too.
        """
        u = Fraction(1, 2**53)
        k = TOKENS + PROMOTED + 3
        gamma = k * u / (1 - k * u)
        rest, p_old, p, v_rest, v_hat, v = map(
            fractions, (self.rest, self.p_old, self.p, self.v_rest, self.v_hat, self.v)
        )
        moved = abs(p - p_old)
        a = rest.sum() + p_old.sum() + moved.sum()
        b = rest @ abs(v_rest) + p_old @ abs(v_hat) + moved @ abs(v_hat) + p @ abs(v - v_hat)
        denominator, numerator = rest.sum() + p.sum(), rest @ v_rest + p @ v
        exact = numerator / denominator
        quotient = gamma * (b + abs(exact) * a) / (denominator - gamma * a)
        return bool(
            abs(fractions(np.asarray(state.l)) - denominator) <= gamma * a
            and (abs(fractions(state.o) - numerator) <= gamma * b).all()
            and (abs(fractions(state.output) - exact) <= quotient * (1 + u) + u * abs(exact)).all()
        )


@settings(deadline=None)
@given(seed=SEEDS, size=st.sampled_from([1e-6, 0.1, 1.0, 5.0]))
def test_within_its_rounding(seed: int, size: float) -> None:
    case = Case(seed, size)
    assert case.within(case.corrected(correct))


@PLANTED
def test_planted_defects_pass_the_rounding(wrong: Correction) -> None:
    assert not any(case.within(case.corrected(wrong)) for case in (Case(seed, 0.1) for seed in range(5)))


def test_a_weight_recomputed_otherwise_stays_in_the_state() -> None:
    """Old weights off by a rounding to float32: no longer within the rounding of float64."""
    case = Case(0, 0.1)
    recomputed = case.p_old.astype(np.float32).astype(np.float64)
    assert not case.within(correct(case.before, recomputed, case.p, case.v_hat, case.v))


@given(seed=SEEDS, size=st.floats(0, 8))
def test_what_is_kept_is_worth_keeping(seed: int, size: float) -> None:
    """Where nothing must be recomputed, old weights and changes sum to at most 9 times what is left.

    l_old and l_new are computed, so 9 becomes 9 (1 + 2^-40): they are off by at most gamma_22 A < 2^-48 A each.
    """
    case = Case(seed, size)
    after = case.corrected(correct)
    old, moved = fractions(joined(case.rest, case.p_old)).sum(), abs(fractions(case.p) - fractions(case.p_old)).sum()
    new = fractions(joined(case.rest, case.p)).sum()
    if not must_recompute(case.before.l, after.l, np.array(0.0)):
        assert old + moved <= 9 * (1 + Fraction(1, 2**40)) * new
    if size <= 1:  # weights shrink by at most e, and e < 4
        assert after.l >= case.before.l / 4


def test_cancellation() -> None:
    """A token that seemed to be everything turns out to be nothing: the rest was rounded away when it was added."""
    v, v_all = np.array([[1.0]]), np.array([[7.0], [1.0]])

    def states(rest: float, p: float) -> tuple[SoftmaxState, SoftmaxState, SoftmaxState]:
        before = whole(np.array([rest, 1.0]), v_all)
        return before, correct(before, np.array([1.0]), np.array([p]), v, v), whole(np.array([rest, p]), v_all)

    before, after, scratch = states(2.0**-55, 2.0**-60)
    assert after.l == 0.0, "1 + 2^-55 is 1 in float64, and 1 + (2^-60 - 1) is 0"
    assert scratch.l == 2.0**-55 + 2.0**-60
    # the denominators alone show it
    assert must_recompute(before.l, after.l, np.array(0.0))

    before, after, scratch = states(2.0**-45 / 3, 2.0**-45)
    # exactly (7/3 + 1)/(1/3 + 1) = 5/2; from scratch a few roundings away, corrected 2^-45/2^-53 of them
    assert abs(scratch.output - 2.5) <= 8 * 2.0**-53 * 2.5
    assert abs(after.output - 2.5) > 2.0**-12
    assert must_recompute(before.l, after.l, np.array(0.0))


def test_must_recompute() -> None:
    nan = np.nan
    l_old = np.array([4.0, 4.0, 4.0, 4.0, nan, 4.0, 4.0, 1.0])
    l_new = np.array([1.0, np.nextafter(1.0, 0.0), 4.0, 4.0, 1.0, nan, 4.0, 9.0])
    delta = np.array([1.0, 0.0, 1.0, np.nextafter(1.0, 2.0), 0.0, 0.0, nan, 0.5])
    expected = [False, True, False, True, True, True, True, False]
    assert must_recompute(l_old, l_new, delta).tolist() == expected
    # as it reads in English, and wrong: a NaN passes every comparison's negation
    planted = (l_new < l_old / 4) | (delta > 1)
    assert planted.tolist() != expected
