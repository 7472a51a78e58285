"""Theorem ``spectral``: its formulas rounded outward, its terms never exceeded by errors that a search makes worst."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import block_bound, spectral
from certkv.reference.bounds.arithmetic import expm1_ub
from certkv.reference.bounds.spectral import (
    SERIES,
    Heaviest,
    ScoreKnowledge,
    direct_key_terms,
    key_terms,
    psi_ub,
    value_terms,
    weight_lb,
)
from certkv.reference.bounds.weighted_sums import without
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import FloatArray

ABOVE = 1.0 + 1e-12
"""Fewer than 200 roundings and as many made up for, 5e-14; and ``psi`` just above 0.1 loses 21 times 2^-48, 8e-14."""

SERIES_ABOVE = 1.0 + 1e-4
"""``x^2/22`` in place of ``x^2/24 + x^3/120 + ...`` is at most 0.0038 x^2 more, of 1/2: below 8e-5 up to 0.1."""

LARGEST, SUBNORMAL = 3e38, 2.0**-133
"""Of bfloat16."""


def norm(x: list[arb]) -> arb:
    return sum((v * v for v in x), arb(0)).nonnegative_part().sqrt()


def psi(x: arb) -> arb:
    return (x.expm1() - x) / (x * x)


# psi


@given(st.floats(1e-12, 700.0))
def test_psi_is_an_upper_bound(x: float) -> None:
    # 1e-12 squared leaves 120 of the 200 bits
    value, exact = arb(float(psi_ub(np.array(x)))), psi(arb(x))
    assert value >= exact
    assert value <= exact * (ABOVE if x >= SERIES else SERIES_ABOVE)


def test_psi_at_its_ends() -> None:
    x = np.array([0.0, 5e-324, np.nextafter(SERIES, 0.0), SERIES, 709.0, 710.0, 1e200, np.inf, np.nan])
    value = psi_ub(x)
    assert value[:2].tolist() == [pytest.approx(0.5, rel=1e-14)] * 2
    assert (value[:2] >= 0.5).all()
    assert (np.diff(value[:5]) >= -1e-4).all()
    assert np.isfinite(value[:5]).all()
    assert np.isinf(value[5:]).all()


# the terms as formulas


@dataclass
class Block:
    """One block for one head, and what is known of it."""

    shares: FloatArray
    distances: FloatArray
    operator: float
    gamma: float
    delta: float
    omega: float
    radius: float
    token: int

    def term(self) -> float:
        return float(
            key_terms(
                self.shares[None, None],
                self.distances[None],
                np.array([self.operator]),
                np.array([self.gamma]),
                ScoreKnowledge(np.array([[self.delta]]), np.array([[self.omega]])),
                Heaviest(np.array([[self.token]]), np.array([[self.radius]])),
            )[0, 0]
        )

    def exact(self) -> arb:
        """The term as it is stated, in interval arithmetic."""
        D, W = arb(self.delta).min(arb(self.omega)), arb(self.omega)
        curve = psi(D) if self.delta > 0.0 else arb(0)
        whole = self._alike([arb(a) for a in self.shares.tolist()], D, W, curve)
        others = [arb(0) if t == self.token else arb(a) for t, a in enumerate(self.shares.tolist())]
        apart = arb(float(self.shares[self.token])) * D.expm1() * arb(self.radius) + self._alike(others, D, W, curve)
        return whole.min(apart)

    def _alike(self, a: list[arb], D: arb, W: arb, curve: arb) -> arb:
        beta = [x * arb(n) for x, n in zip(a, self.distances.tolist(), strict=True)]
        first, root, second = _forms(beta, D, W)
        first_a, _, second_a = _forms(a, D, W)
        about = first.min(arb(self.operator) * root) + curve * second
        return about + arb(self.gamma) * (first_a + curve * second_a)


def _forms(weights: list[arb], D: arb, W: arb) -> tuple[arb, arb, arb]:
    b = sorted(weights, key=lambda x: -float(x.mid()))
    l1, l2, top, rest = sum(b, arb(0)), norm(b), b[0], norm(b[1:])
    return (
        (D * l1).min(W * l2).min(top * D + rest * W),
        (top * W).min(D * l2),
        (D * D * l1).min(top * W * W).min(D * W * l2),
    )


shares = st.lists(st.floats(2.0**-998, 1.0), min_size=1, max_size=12)
sizes = st.one_of(st.floats(2.0**-165, LARGEST), st.sampled_from([0.0, SUBNORMAL, 1.0, LARGEST]))
ratios = st.floats(0.01, 8.0)
deltas = st.one_of(st.floats(1e-9, 700.0), st.sampled_from([1e-9, np.nextafter(SERIES, 0), SERIES, 1.0, 690.0]))


@given(shares, st.data(), deltas, ratios)
def test_direct_term_between_the_formula_and_a_little_above(
    weights: list[float], data: st.DataObject, delta: float, ratio: float
) -> None:
    radii = data.draw(st.lists(sizes, min_size=len(weights), max_size=len(weights)))
    errors = ScoreKnowledge(np.array([[delta]]), np.array([[delta * ratio]]))
    value = float(direct_key_terms(np.array([[weights]]), np.array([[radii]]), errors)[0, 0])
    D, W = arb(delta).min(arb(delta * ratio)), arb(delta * ratio)
    first, _, second = _forms([arb(a) * arb(r) for a, r in zip(weights, radii, strict=True)], D, W)
    exact = first + psi(D) * second
    assert arb(value) + arb(2) ** -900 >= exact
    if np.isfinite(value) and float(exact.lower()) > 1e-200:
        assert arb(value) <= exact * SERIES_ABOVE


@given(shares, st.data(), sizes, deltas, ratios, sizes, st.floats(0.0, 10.0))
def test_key_term_between_the_formula_and_a_little_above(
    weights: list[float], data: st.DataObject, gamma: float, delta: float, ratio: float, radius: float, operator: float
) -> None:
    distances = data.draw(st.lists(sizes, min_size=len(weights), max_size=len(weights)))
    token = data.draw(st.integers(0, len(weights) - 1))
    block = Block(np.array(weights), np.array(distances), operator, gamma, delta, delta * ratio, radius, token)
    value, exact = block.term(), block.exact()
    assert not np.isnan(value)
    # 2^-900 is what the step charges for products that underflow
    assert arb(value) + arb(2) ** -900 >= exact
    if np.isfinite(value) and float(exact.lower()) > 1e-200:
        assert arb(value) <= exact * SERIES_ABOVE


def test_small_shares_of_small_values_are_not_lost() -> None:
    """Scores off by 700 make a token count whose share is 2^-990 and whose value is subnormal."""
    block = Block(np.full(4, 2.0**-990), np.full(4, SUBNORMAL), 2.0, 0.0, 700.0, 1400.0, LARGEST, 0)
    assert arb(block.term()) >= block.exact()
    assert block.exact() > arb(2) ** -120
    # without one form or the other, too
    for omega in (1e-170, 700.0, 1e300):
        block.omega = omega
        assert arb(block.term()) + arb(2) ** -900 >= block.exact()


numbers = st.one_of(st.floats(0.0, LARGEST), st.sampled_from([0.0, 5e-324, SUBNORMAL, 1.0, np.inf, np.nan]))


@given(st.lists(numbers, min_size=1, max_size=4), st.data(), numbers, numbers, numbers, numbers, numbers)
def test_never_nan(
    weights: list[float],
    data: st.DataObject,
    delta: float,
    omega: float,
    operator: float,
    gamma: float,
    radius: float,
) -> None:
    distances = np.array(data.draw(st.lists(numbers, min_size=len(weights), max_size=len(weights))))
    block = Block(np.array(weights), distances, operator, gamma, delta, omega, radius, 0)
    assert block.term() >= 0.0
    a, eta = np.array(weights)[None, None], distances[None]
    assert value_terms(a, eta, np.array([operator]))[0, 0] >= 0.0
    mass = np.array([[0.5]])
    low = weight_lb(a, mass, ScoreKnowledge(np.array([[delta]]), np.array([[omega]])))
    assert 0.0 <= low[0, 0] <= 0.5


def test_unknown_is_infinite() -> None:
    nothing = {"operator": np.nan, "delta": np.nan, "omega": np.nan, "gamma": np.nan, "radius": np.nan}
    fine = {"operator": 1.0, "delta": 1.0, "omega": 2.0, "gamma": 1.0, "radius": 1.0}
    ones = np.ones(3)
    assert np.isfinite(Block(ones, ones, token=0, **fine).term())
    assert Block(ones, ones, token=0, **(fine | {"delta": np.nan, "omega": np.nan})).term() == np.inf
    assert Block(ones, ones, token=0, **(fine | {"gamma": np.nan})).term() == np.inf
    assert Block(np.array([1.0, np.nan, 1.0]), ones, token=0, **fine).term() == np.inf
    # one that only sharpens may be missing
    for name in ("operator", "radius", "omega"):
        one = {name: nothing[name]} if name != "omega" else {"omega": np.inf}
        assert np.isfinite(Block(ones, ones, token=0, **(fine | one)).term())
    assert Block(ones, ones, token=0, **(fine | {"delta": 0.0, "gamma": np.inf})).term() == 0.0


# the theorem itself


@dataclass
class Head:
    """A block with values, and its distances measured."""

    shares: FloatArray
    values: FloatArray
    decoded: FloatArray
    anchor: FloatArray
    output: FloatArray
    delta: float
    omega: float

    def sizes(self) -> FloatArray:
        return norm_ub(self.values - self.anchor) * (1 + 4e-16)

    def key_term(self) -> float:
        n = self.sizes()
        rows = (self.values - self.anchor) / np.where(n > 0, n, 1.0)[:, None]
        token = int((self.shares * n).argmax())
        radius = float(norm_ub(self.decoded[token] - self.output) + norm_ub(self.values[token] - self.decoded[token]))
        return Block(
            self.shares,
            n,
            float(np.linalg.norm(rows, 2)) * ABOVE,
            float(norm_ub(self.output - self.anchor)) * ABOVE,
            self.delta,
            self.omega,
            radius * ABOVE,
            token,
        ).term()

    def moved(self, errors: FloatArray) -> float:
        """Norm of ``sum a'(w - 1)(V - c)``, to about 1e-13 of the largest term."""
        return float(np.linalg.norm((self.shares * np.expm1(-errors)) @ (self.values - self.output)))

    def fitted(self, errors: FloatArray) -> FloatArray:
        """Errors within both limits."""
        cut = np.clip(errors, -self.delta, self.delta)
        size = np.linalg.norm(cut)
        return cut if size <= self.omega else cut * (self.omega / size)

    def worst(self, rng: np.random.Generator) -> FloatArray:
        """Climb along the gradient from several starts, vertices of the box among them."""
        pulls = self.shares[:, None] * (self.values - self.output)
        starts = [rng.choice([-1.0, 1.0], len(self.shares)) * self.delta for _ in range(3)]
        direction = np.linalg.svd(pulls)[0][:, 0]
        starts += [direction * 1e9, -direction * 1e9, direction * self.omega, np.sign(direction) * self.delta]
        best, reached = np.zeros_like(self.shares), -1.0
        for start in starts:
            errors = self.fitted(start)
            for _ in range(12):
                vector = np.expm1(-errors) @ pulls
                if not vector.any():
                    break
                slope = -np.exp(-errors) * (pulls @ vector)
                # as far as the limits allow: large steps saturate the box, then the norm is restored
                for size in (1e9, 3.0, 1.0):
                    candidate = self.fitted(slope / np.abs(slope).max() * self.delta * size)
                    if self.moved(candidate) > self.moved(errors):
                        errors = candidate
                        break
                else:
                    break
            if self.moved(errors) > reached:
                best, reached = errors, self.moved(errors)
        return best


def draw_head(rng: np.random.Generator) -> Head:
    tokens, dim = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    weights = rng.random(tokens) ** rng.choice([1, 8]) + 1e-9
    values = rng.standard_normal((tokens, dim)) + rng.choice([0.0, 3.0])
    if rng.random() < 0.3:
        values = np.tile(values[:1], (tokens, 1)) * rng.choice([-1.0, 1.0], tokens)[:, None]
    decoded = values + rng.choice([0.0, 0.1]) * rng.standard_normal((tokens, dim))
    a = weights / weights.sum() * rng.choice([1.0, 0.1])
    output = a @ decoded / a.sum() if rng.random() < 0.7 else rng.standard_normal(dim)
    anchor = rng.choice([0.0, 1.0]) * values.mean(axis=0)
    delta = float(rng.choice([0.01, 0.3, 2.0]))
    omega = float(delta * rng.uniform(0.2, 1.0) * np.sqrt(tokens))
    return Head(a, values, decoded, anchor, output, delta, max(omega, 0.3 * delta))


def test_no_error_exceeds_the_key_term() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(400):
        head = draw_head(rng)
        term, worst = head.key_term(), head.moved(head.worst(rng))
        assert worst <= term * ABOVE
        ratios.append(worst / term if term else 1.0)
    assert max(r for r in ratios if r < 1.0) > 0.999, "a term a little smaller would be exceeded"
    assert np.mean(ratios) > 0.3


@pytest.mark.parametrize("delta", [1e-6, 0.05, 0.5, 3.0])
def test_a_block_of_one_token_attains(delta: float) -> None:
    """With the heaviest token apart: ``a' (e^Delta - 1) ||V - c||`` and no more."""
    values = np.array([[3.0, 4.0]])
    head = Head(np.array([0.25]), values, values, np.array([1.0, 0.0]), np.array([0.0, 0.0]), delta, delta)
    seen = head.moved(np.array([-delta]))
    assert seen == pytest.approx(0.25 * np.expm1(delta) * 5.0, rel=1e-14)
    assert seen <= head.key_term() * ABOVE
    assert head.key_term() <= seen * (1 + 1e-11)


def test_equal_tokens_attain() -> None:
    """Values alike on one side of the output, every error Delta: ``rho (e^Delta - 1) ||V - c||`` with c the anchor."""
    values = np.tile([[2.0, 0.0]], (4, 1))
    zero = np.zeros(2)
    head = Head(np.full(4, 0.125), values, values, zero, zero, 0.5, 1.0)
    seen = head.moved(np.full(4, -0.5))
    assert head.key_term() == pytest.approx(seen, rel=1e-11)


def test_spread_errors_cost_less() -> None:
    """The reason for it all: 64 equal tokens with errors that share one norm, values in all directions."""
    n = np.ones(64)
    flat = Block(np.full(64, 1 / 64), n, 2.0, 0.0, 0.01, 0.01 * 8 / 5, 1.0, 0)
    whole = float(block_bound.key_terms(np.ones(1), np.array([0.01]), np.ones(1))[0])
    # omega D2 = 2 (1/64) Omega against Delta: 2 * 1.6 / 64 = 0.05, and psi S2 adds Omega^2 / 128
    assert flat.term() < 0.06 * whole


def test_never_worse_than_block_bound() -> None:
    """With the anchored radius, up to rounding and the series of psi."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        head = draw_head(rng)
        n, gamma = head.sizes().max(), np.linalg.norm(head.output - head.anchor)
        anchored = head.shares.sum() * np.expm1(head.delta) * (n + gamma)
        assert head.key_term() <= anchored * SERIES_ABOVE
        errors = ScoreKnowledge(np.array([[head.delta]]), np.array([[head.omega]]))
        mass = np.array([[head.shares.sum()]])
        low = weight_lb(head.shares[None, None], mass, errors)[0, 0]
        assert low * ABOVE >= block_bound.weight_lb(mass, errors.delta)[0, 0]


# values and weights


def test_no_residual_exceeds_the_value_term() -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(400):
        tokens, dim = int(rng.integers(1, 9)), int(rng.integers(1, 5))
        a = rng.random(tokens) ** rng.choice([1, 6])
        residuals = rng.standard_normal((tokens, dim)) * rng.choice([0.01, 1.0], tokens)[:, None]
        if rng.random() < 0.3:
            residuals = np.tile(residuals[:1], (tokens, 1))
        eta = norm_ub(residuals) * rng.choice([1.0, 1.09], tokens)
        operator = float(np.linalg.norm(residuals / eta[:, None], 2)) * ABOVE
        term = float(value_terms(a[None, None], eta[None], np.array([operator]))[0, 0])
        # the same matrix rotated row by row has the same eta; its operator norm is measured, so signs are free
        seen = np.linalg.norm(a @ residuals)
        assert seen <= term * ABOVE
        ratios.append(seen / term)
    assert max(ratios) > 0.999
    assert value_terms(np.ones((1, 1, 3)), np.zeros((1, 3)), np.array([np.inf]))[0, 0] == 0.0
    huge = value_terms(np.ones((1, 1, 3)), np.array([[np.inf, 1.0, 1.0]]), np.array([0.0]))
    assert huge[0, 0] == np.inf


def test_each_form_of_the_value_term_is_needed() -> None:
    eta = np.array([[1.0] + [0.01] * 100])
    a = np.ones((1, 1, 101))
    assert value_terms(a, np.ones((1, 101)), np.array([1.0]))[0, 0] == pytest.approx(np.sqrt(101.0), rel=1e-12)
    assert value_terms(a, eta, np.array([3.0]))[0, 0] == pytest.approx(1.3, rel=1e-12)
    assert value_terms(a, eta, np.array([50.0]))[0, 0] == pytest.approx(2.0, rel=1e-12)


@given(shares, st.floats(1e-6, 50.0), st.floats(0.1, 5.0), st.floats(0.5, 1.0), st.integers(0, 2**32 - 1))
def test_no_weight_falls_below(weights: list[float], delta: float, ratio: float, known: float, seed: int) -> None:
    """Errors within the limits, mass known from below, shares from above."""
    a = np.array(weights)
    omega = delta * ratio
    rng = np.random.default_rng(seed)
    errors = ScoreKnowledge(np.array([[delta]]), np.array([[omega]]))
    exact_mass = sum((arb(x) for x in weights), arb(0))
    mass_lb = known * float(exact_mass.lower()) * (1 - 1e-15)
    low = arb(float(weight_lb(a[None, None], np.array([[mass_lb]]), errors)[0, 0]))
    for raw in (np.full(len(a), delta), rng.uniform(0, delta, len(a)), delta * a / a.max()):
        size = np.linalg.norm(raw)
        fitted = raw if size <= omega else raw * (omega / size * (1 - 1e-14))
        total = sum((arb(x) * (-arb(float(e))).exp() for x, e in zip(weights, fitted, strict=True)), arb(0))
        assert low <= total


def test_equal_errors_attain_the_weight() -> None:
    a, mass = np.full((1, 1, 4), 0.25), np.ones((1, 1))
    errors = ScoreKnowledge(np.array([[0.5]]), np.array([[1.0]]))
    assert weight_lb(a, mass, errors)[0, 0] == pytest.approx(np.exp(-0.5), rel=1e-12)
    assert weight_lb(a, np.zeros((1, 1)), errors)[0, 0] == 0.0
    assert weight_lb(a, mass, ScoreKnowledge(np.array([[800.0]]), np.array([[np.inf]])))[0, 0] == 0.0


def test_rounding_is_added_as_a_norm() -> None:
    """64 errors of the same sign and size have 8 times that norm."""
    both = ScoreKnowledge(np.array([[0.5]]), np.array([[1.0]])).and_rounding(np.array([[0.25]]), 64)
    assert both.delta[0, 0] == pytest.approx(0.75, rel=1e-14)
    assert both.operator[0, 0] == pytest.approx(3.0, rel=1e-14)
    assert both.operator[0, 0] >= 3.0
    assert both.delta[0, 0] >= 0.75


def test_one_term_is_left_where_all_but_one_token_is_taken_out() -> None:
    """A block of one token: nothing is left beside it."""
    alone = Block(np.array([0.5]), np.array([1e30]), 1.0, 1e30, 1.0, 1.0, 2.0, 0)
    assert alone.term() == pytest.approx(0.5 * float(expm1_ub(np.array(1.0))) * 2.0, rel=1e-12)
    assert without(alone.shares[None], np.array([0])).tolist() == [[0.0]]
    assert spectral.weighted_ub(np.zeros(2), np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
