"""What rounding does to a corrected state stays within its charge, in float32 and in exact arithmetic beside it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.correction import correct, must_recompute
from certkv.reference.correction_rounding import Moved, Rounding, kept_rounding_ub, rounding_ub
from certkv.reference.errors import InputError
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

F32 = np.dtype(np.float32)
OTHERS, PROMOTED, DIM = 40, 6, 3
TOKENS = OTHERS + PROMOTED
SEEDS = st.integers(0, 2**32 - 1)
DELTAS = (1e-3, 0.5, 1.0, 8.0, 45.0, 90.0)
WAYS = ("falls", "rises", "both")


def exact(x: AnyArray) -> AnyArray:
    """Floating-point numbers as Fractions: the same numbers."""
    return np.array([Fraction(float(e)) for e in x.ravel()], dtype=object).reshape(x.shape)


def upper(x: FloatArray) -> FloatArray:
    """Sum of non-negative float64 numbers, from above: TOKENS roundings, and five to form a term."""
    return np.asarray(x.sum() * outward(TOKENS + 5))


@dataclass(frozen=True, eq=False)
class Corrected:
    """One head whose promoted tokens had weights off by at most e^delta, corrected in float32."""

    p_old: AnyArray
    p_again: AnyArray
    p: AnyArray
    v_hat: AnyArray
    v: AnyArray
    before: SoftmaxState
    after: SoftmaxState

    @classmethod
    def random(cls, seed: int, delta: float, way: str, spread: float = 1.0) -> Corrected:
        """Weights fall from 1, or rise from e^-delta, or both; the others may be as small as what remains."""
        rng = np.random.default_rng(seed)
        low, high = {"falls": (-1.0, -1.0), "rises": (1.0, 1.0), "both": (-1.0, 1.0)}[way]
        log_old = rng.uniform(-spread, 0.0, PROMOTED) - (delta if way == "rises" and delta < 80 else 0.0)
        log_old[0] = 0.0  # the largest score of the old state
        moved = delta * rng.uniform(low, high, PROMOTED)
        moved[1:] = delta * rng.choice([low, high], PROMOTED - 1)
        others = np.exp(rng.uniform(-spread, 0.0, OTHERS) - rng.choice([0.0, delta]))
        p_old = np.concatenate([others, np.exp(log_old)]).astype(np.float32)
        ulps = rng.integers(-400, 401, PROMOTED) * rng.integers(0, 2)
        with np.errstate(over="ignore", under="ignore"):
            p = np.exp(log_old + moved).astype(np.float32)
            p_again = (p_old[OTHERS:] * (1.0 + ulps * 2.0**-23)).astype(np.float32)
            v = rng.standard_normal((TOKENS, DIM)).astype(np.float32)
            v_hat = v.copy()
            v_hat[OTHERS:] += (rng.choice([0.0, 0.1]) * rng.standard_normal((PROMOTED, DIM))).astype(np.float32)
            before = SoftmaxState(np.asarray(0, np.float32), p_old.sum(), p_old @ v_hat)
        with np.errstate(all="ignore"):
            after = correct(before, p_again, p, v_hat[OTHERS:], v[OTHERS:])
        return cls(p_old, p_again, p, v_hat, v, before, after)

    @property
    def again_ub(self) -> FloatArray:
        """Exact largest ``|p' - p''| / min(p', p'')``, rounded up."""
        rates = (abs(a - b) / min(a, b) for a, b in zip(exact(self.p_old[OTHERS:]), exact(self.p_again), strict=True))
        return np.asarray(float(max(rates)) * outward(1))

    def charged(self, **changed: Any) -> Rounding:
        """The bound with sums taken in float64, from above."""
        p, again, old = (x.astype(np.float64) for x in (self.p, self.p_again, self.p_old))
        v_hat, v = self.v_hat.astype(np.float64), self.v.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            size, change = norm_ub(v_hat), np.abs(p - again)
            sums = {
                "weight": upper(change),
                "value": upper(np.append(change * size[OTHERS:], p * norm_ub(v - v_hat)[OTHERS:])),
                "weight_again": upper(again),
                "value_again": upper(again * size[OTHERS:]),
            }
            given_: dict[str, Any] = {
                "dtype": F32,
                "carried": TOKENS,
                "tokens": PROMOTED,
                "l_old": self.before.l.astype(np.float64),
                "l_new": self.after.l.astype(np.float64),
                "value_old_ub": upper(old * size),
                "moved": Moved(**sums),
                "again_ub": self.again_ub,
                "output_norm_ub": norm_ub(self.after.output),
            }
            return rounding_ub(**(given_ | changed))

    def errors(self) -> tuple[Fraction, Fraction]:
        """Exact error of the denominator, and the *square* of the output's; infinite weights have none."""
        weights = np.concatenate([exact(self.p_old[:OTHERS]), exact(self.p)])
        total = weights.sum()
        off = exact(self.after.output) - weights @ exact(self.v) / total
        return abs(Fraction(float(self.after.l)) - total), (off * off).sum()

    def within(self, bound: Rounding) -> bool:
        """Whether the exact errors are within a bound."""
        if np.isinf(bound.output):
            return True
        weight, square = self.errors()
        return bool(weight <= Fraction(float(bound.weight)) and square <= Fraction(float(bound.output)) ** 2)


@settings(deadline=None)
@given(seed=SEEDS, delta=st.sampled_from(DELTAS), way=st.sampled_from(WAYS), spread=st.sampled_from([0.1, 3.0]))
def test_the_charge_covers_the_error(seed: int, delta: float, way: str, spread: float) -> None:
    head = Corrected.random(seed, delta, way, spread)
    assert head.within(head.charged())


def test_it_says_something_where_it_can_and_nothing_where_it_cannot() -> None:
    """At Delta = 8 what is left is known to 1e-2; at 45 and falling it is rounding alone; e^90 is no float32."""
    moderate = [Corrected.random(seed, 8.0, "falls").charged() for seed in range(20)]
    assert max(float(b.output) for b in moderate) < 0.5
    useless = [Corrected.random(seed, 45.0, "falls") for seed in range(40)]
    cancelled = [h for h in useless if h.after.l < 1e-3]
    assert cancelled
    assert all(h.charged().output == np.inf for h in cancelled)
    for seed in range(10):
        head = Corrected.random(seed, 90.0, "rises")
        if not np.isfinite(head.after.l):
            assert head.charged().output == np.inf
            assert must_recompute(head.before.l, head.after.l, np.asarray(0.0))


@settings(deadline=None)
@given(seed=SEEDS, delta=st.sampled_from([*DELTAS, 1.3]), way=st.sampled_from(WAYS))
def test_constant_where_a_quarter_is_kept(seed: int, delta: float, way: str) -> None:
    head = Corrected.random(seed, delta, way)
    if not must_recompute(head.before.l, head.after.l, np.asarray(0.0)):
        assert head.within(kept(head))


def kept(head: Corrected) -> Rounding:
    """The constants; the weight's is (10 g + 5 r) l_new with g = gamma_{K+n+3} <= 2 (K+n+3) u."""
    size, residual = norm_ub(head.v_hat).max(), norm_ub(head.v.astype(np.float64) - head.v_hat).max()
    output = kept_rounding_ub(
        dtype=F32, carried=TOKENS, tokens=PROMOTED, value_ub=size, residual_ub=residual, again_ub=head.again_ub
    )
    g = 2 * (TOKENS + PROMOTED + 3) * 2.0**-24
    return Rounding((10 * g + 5 * head.again_ub) * head.after.l.astype(np.float64), output)


@settings(deadline=None)
@given(seed=SEEDS, way=st.sampled_from(WAYS))
def test_a_small_score_error_keeps_a_quarter(seed: int, way: str) -> None:
    """1/e of the old weights is more than a quarter of them, so Delta <= 1 alone is enough."""
    head = Corrected.random(seed, 1.0, way)
    assert not must_recompute(head.before.l, head.after.l, np.asarray(1.0))


# planted defects


def relative_to_what_is_left(head: Corrected) -> Rounding:
    """Rounding charged as if l and o had always had their new size."""
    l_new = head.after.l.astype(np.float64)
    nothing = np.zeros(())
    size = l_new * norm_ub(head.v_hat).max()
    return head.charged(l_old=l_new, value_old_ub=size, moved=Moved(nothing, nothing, nothing, nothing))


def test_planted_charge_relative_to_the_new_denominator() -> None:
    heads = [Corrected.random(seed, 8.0, "falls") for seed in range(40)]
    assert not all(head.within(relative_to_what_is_left(head)) for head in heads)
    assert all(head.within(head.charged()) for head in heads)


def test_planted_weights_computed_again_for_free() -> None:
    """Weights off by up to 400 units in the last place, from another orientation of the same product, say."""
    heads = [Corrected.random(seed, 0.5, "both") for seed in range(40)]
    assert not all(head.within(head.charged(again_ub=np.zeros(()))) for head in heads)
    assert all(head.within(head.charged()) for head in heads)


def test_planted_threshold_dropped() -> None:
    """The constants without their condition: cancellation breaks them."""
    for delta in (8.0, 45.0):
        heads = [Corrected.random(seed, delta, "falls") for seed in range(40)]
        lost = [head for head in heads if must_recompute(head.before.l, head.after.l, np.asarray(0.0))]
        assert lost
        assert not all(head.within(kept(head)) for head in lost if head.after.l > 0)


def test_unknown_is_infinite() -> None:
    head = Corrected.random(1, 0.5, "both")
    assert head.charged().output < 1e-3
    for name in ("l_old", "l_new", "value_old_ub", "again_ub", "output_norm_ub"):
        for value in (np.nan, np.inf):
            assert head.charged(**{name: np.asarray(value)}).output == np.inf, (name, value)
    assert head.charged(l_new=np.asarray(-1.0)).weight == np.inf
    one = np.ones(())
    for rate in (np.nan, 0.04):
        bound = kept_rounding_ub(
            dtype=F32, carried=9, tokens=9, value_ub=one, residual_ub=one, again_ub=np.asarray(rate)
        )
        assert bound == np.inf


def test_too_many_roundings() -> None:
    one = np.ones(())
    with pytest.raises(InputError):
        kept_rounding_ub(dtype=F32, carried=2**20, tokens=0, value_ub=one, residual_ub=one, again_ub=one)
    with pytest.raises(InputError):
        Corrected.random(0, 0.5, "both").charged(carried=2**23)
