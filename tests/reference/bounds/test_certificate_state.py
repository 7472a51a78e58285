"""Theorem ``certificate_state``: merging gives the bound of the whole, in every tree, in float64 and in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.bounds.certificate_state import LOST, CertificateState
from certkv.reference.errors import DTypeError, InputError, ShapeError
from certkv.reference.numbers import FLOAT32, gamma, norm_ub, round_down, round_up
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

SEEDS = st.integers(0, 2**32 - 1)
BOTH = pytest.mark.parametrize("dtype", [np.float64, np.float32])
Merge = Callable[[CertificateState, CertificateState], CertificateState]
DIM = 3


def operator(rows: FloatArray) -> float:
    """Operator norm, rounded outward generously (LAPACK's is within a modest multiple of u; 2^-40 is 2^13 u)."""
    return float(np.linalg.norm(rows, 2)) * (1 + 2.0**-40)


def least(*forms: float) -> float:
    """Smallest of some upper bounds, each computed with fewer than 2^12 roundings."""
    return float(min(forms)) * (1 + 2.0**-40)


def rest(x: FloatArray) -> float:
    """Norm of all but one largest element."""
    return float(norm_ub(np.sort(x)[:-1]))


@dataclass(frozen=True, eq=False)
class Block:
    """A coded block, everything that its annotations and one query say about it, and the truth."""

    s: FloatArray  # computed scores
    delta: FloatArray  # their errors
    v: FloatArray
    v_hat: FloatArray
    distances: FloatArray
    residuals: FloatArray
    largest: float  # bound of |delta|
    together: float  # bound of its norm over the block
    omega: float
    epsilon: float

    @classmethod
    def random(cls, rng: np.random.Generator, anchor: FloatArray, size: float, spread: float) -> Block:
        tokens = int(rng.integers(1, 6))
        delta = size * rng.choice([-1.0, 1.0, 0.3], tokens)
        v = anchor + rng.standard_normal((tokens, DIM))
        v_hat = v + rng.choice([0.0, 0.01, 0.1]) * rng.standard_normal((tokens, DIM))
        n, eta = norm_ub(v - anchor), norm_ub(v - v_hat)
        units = np.divide(v - v_hat, eta[:, None], out=np.zeros_like(v), where=eta[:, None] > 0)
        # 1e-4 for the roundings of float32 scores, weights and factors, up to 100 u of the spread
        largest, together = size + 1e-4, float(norm_ub(delta)) + 1e-4 * tokens
        s = spread * rng.standard_normal(tokens)
        norms = operator((v - anchor) / n[:, None]), operator(units)
        return cls(s, delta, v, v_hat, n, eta, largest, together, *norms)

    def first(self, beta: FloatArray) -> float:
        """Bound of ``sum beta |delta|``: the smallest of Hoelder, Cauchy-Schwarz, and both with the heaviest apart."""
        hoelder, schwarz = self.largest * beta.sum(), self.together * float(norm_ub(beta))
        return least(hoelder, schwarz, self.largest * beta.max() + self.together * rest(beta))

    def second(self, beta: FloatArray) -> float:
        """Bound of ``psi(Delta) sum beta delta^2``; psi is below ``1/2 + x/6 + x^2/22`` up to 0.1, and e^x/2 always."""
        x = self.largest
        psi = 0.5 + x / 6 + x * x / 22 if x < 0.1 else np.exp(x) / 2
        return psi * least(x * x * beta.sum(), self.together**2 * beta.max(), x * self.together * float(norm_ub(beta)))

    def terms(self, p: FloatArray) -> dict[str, FloatArray]:
        """The four terms of theorem ``spectral`` from weights p, rounded outward."""
        beta, errors = p * self.distances, p * self.residuals
        root = least(beta.max() * self.together, self.largest * float(norm_ub(beta)))
        value = least(errors.sum(), self.epsilon * float(norm_ub(errors)), errors.max() + self.epsilon * rest(errors))
        terms = {
            "key_ub": least(self.first(beta), self.omega * root) + self.second(beta),
            "anchor_ub": self.first(p) + self.second(p),
            "value_ub": value,
            "weight_lb": p.sum() * np.exp(-self.first(p) / p.sum()),
        }
        return {
            name: np.asarray(x * (1 - 2.0**-40 if name == "weight_lb" else 1 + 2.0**-40)) for name, x in terms.items()
        }

    def state(self, dtype: Any, tokens: slice = slice(None), m: float | None = None) -> CertificateState:
        """State of the block, or of some of its tokens, in a type; weights exactly representable there."""
        part = replace(self, s=self.s[tokens], distances=self.distances[tokens], residuals=self.residuals[tokens])
        reference = np.asarray(part.s.max() if m is None else m, dtype)
        p = np.exp(part.s.astype(dtype) - reference)
        softmax = SoftmaxState(reference, p.sum(), p @ self.v_hat[tokens].astype(dtype))
        terms = part.terms(p.astype(np.float64))
        if dtype is np.float32:
            rounded = {name: round_down if name == "weight_lb" else round_up for name in terms}
            terms = {name: np.asarray(rounded[name](x, FLOAT32)) for name, x in terms.items()}
        return CertificateState.from_block(softmax, **{name: np.asarray(x) for name, x in terms.items()})


class Head:
    """Some blocks, an anchor and a charge for accumulation."""

    def __init__(self, seed: int, size: float = 0.1, spread: float = 3.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.anchor = self.rng.standard_normal(DIM)
        self.blocks = [Block.random(self.rng, self.anchor, size, spread) for _ in range(self.rng.integers(1, 9))]
        self.charge = np.asarray(1e-4)

    def error(self, output: AnyArray) -> float:
        """Distance from exact attention; float64, a few ulp of the largest value."""
        s, delta, v = (np.concatenate([getattr(b, name) for b in self.blocks]) for name in ("s", "delta", "v"))
        a = np.exp(s - delta - (s - delta).max())
        return float(np.linalg.norm(a @ v / a.sum() - output))


class Leaf:
    """A state with the exact product of the factors that each of its blocks has met."""

    def __init__(self, state: CertificateState, parts: list[tuple[CertificateState, arb]], merges: int = 0) -> None:
        self.state, self.parts, self.merges = state, parts, merges

    def merge(self, other: Leaf, how: Merge) -> Leaf:
        factors = self.state.softmax.factors(other.state.softmax)
        parts = [(b, f * arb(float(x))) for leaf, x in zip((self, other), factors, strict=True) for b, f in leaf.parts]
        return Leaf(how(self.state, other.state), parts, 1 + max(self.merges, other.merges))

    def exact(self, anchor: FloatArray, charge: float) -> arb:
        """The formula in intervals, of the effective weights: every block's terms times its factors."""

        def total(name: str) -> arb:
            return sum((f * arb(float(vars(b).get(name, b.softmax.l))) for b, f in self.parts), arb(0))

        A, G, U, D, weight = map(total, ("A", "G", "U", "D", "l"))
        offset = [arb(float(c)) - arb(float(x)) for c, x in zip(self.state.softmax.output, anchor, strict=True)]
        return (A + sum((x * x for x in offset), arb(0)).sqrt() * G + U + weight * arb(charge)) / D


def tree(rng: np.random.Generator, states: list[CertificateState], how: Merge = CertificateState.merge) -> Leaf:
    """Merge in random order and grouping."""
    leaves = [Leaf(s, [(s, arb(1))]) for s in states]
    while len(leaves) > 1:
        i, j = rng.choice(len(leaves), 2, replace=False)
        merged = leaves[i].merge(leaves[j], how)
        leaves = [leaf for n, leaf in enumerate(leaves) if n not in (i, j)] + [merged]
    return leaves[0]


def spare(dtype: Any) -> float:
    """By how much the factor of `finish` exceeds 1: at most 60 roundings here, or 2^-12."""
    return 2.0**-12 if dtype is np.float32 else gamma(2 * 60 + 2) * 1.01


def is_whole(leaf: Leaf, head: Head, dtype: Any) -> bool:
    """Whether the finished bound is at least the formula, and no more than roundings and outward factor above it.

    With F the factor, computed numbers are within F of the formula, and the product with F rounds once more: what comes
    out is from e to e F^2 (1 + u) <= e (1 + 3 (F - 1)). Underflow costs LOST (2 + gamma + eps) / D, gamma < 20.
    """
    bound = arb(float(leaf.state.finish(head.anchor, head.charge, 2 * leaf.merges)))
    formula = leaf.exact(head.anchor, float(head.charge))
    low = float(leaf.state.D)
    return bool(bound >= formula) and bool(
        bound <= formula * (1 + 3 * arb(spare(dtype))) + 25 * LOST[np.dtype(dtype)] / low
    )


@BOTH
@settings(deadline=None)
@given(seed=SEEDS, size=st.sampled_from([1e-3, 0.1, 1.0]), spread=st.sampled_from([0.1, 3.0, 20.0]))
def test_every_tree_has_the_bound_of_its_effective_weights(dtype: Any, seed: int, size: float, spread: float) -> None:
    head = Head(seed, size, spread)
    assert is_whole(tree(head.rng, [b.state(dtype) for b in head.blocks]), head, dtype)


@BOTH
@settings(deadline=None)
@given(seed=SEEDS, size=st.sampled_from([1e-3, 0.1, 1.0]), spread=st.sampled_from([0.1, 3.0, 20.0]))
def test_two_trees_and_the_whole_agree(dtype: Any, seed: int, size: float, spread: float) -> None:
    """Up to the log-weight errors of factors: K merges give at most K (u range + 9u), alike for all tokens of a block.

    With all log-errors at most x < 0.1, numerators and denominators move by factors within e^x each, two trees by e^4x
    in all, and c by at most (e^2x - 1) max ||v||: at most 2.3 x of it, as does gamma. Terms of a block taken in another
    reference are its own times e^(m_b - m), up to their outward rounding, below 2^-44, in float32 2^-23 more.
    """
    head = Head(seed, size, spread)
    states = [b.state(dtype) for b in head.blocks]
    one, two = (tree(head.rng, states) for _ in range(2))
    top = max(float(s.softmax.m) for s in states)
    common = [b.state(dtype, m=top) for b in head.blocks]
    whole = tree(head.rng, common)
    scores = np.concatenate([b.s for b in head.blocks])
    u = float(np.finfo(dtype).eps) / 2
    x = (2 * len(states) + 2) * u * (float(np.ptp(scores)) + abs(top) + 9) + 2.0**-40 + 4 * u
    largest = max(float(norm_ub(b.v_hat).max()) for b in head.blocks)
    bounds = [float(leaf.state.finish(head.anchor, head.charge, 2 * leaf.merges)) for leaf in (one, two, whole)]
    # 2 gamma_n for the sums of c; G/D of the finished state weighs the change of gamma
    moved = (2.3 * x + 2 * (len(scores) + 3 * len(states)) * u) * largest * 1.1
    weight = max(float(leaf.state.G / leaf.state.D) for leaf in (one, two, whole))
    relative = (1 + 3 * spare(dtype)) * np.exp(4 * x) - 1
    assert max(bounds) - min(bounds) <= relative * min(bounds) + 1.1 * moved * weight
    assert x < 0.1


@BOTH
@settings(deadline=None)
@given(seed=SEEDS, size=st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_bound_holds(dtype: Any, seed: int, size: float) -> None:
    """Against the true error; accumulation and the float32 values are charged with 1e-4, more than they can lose."""
    head = Head(seed, size)
    leaf = tree(head.rng, [b.state(dtype) for b in head.blocks])
    bound = float(leaf.state.finish(head.anchor, head.charge, 2 * leaf.merges))
    assert head.error(leaf.state.softmax.output) <= bound + 1e-12


def test_the_bound_is_worth_something() -> None:
    """Single blocks come within a factor of 3 of their bound, so a bound a third as large would fail."""
    shares = []
    for seed in range(60):
        head = Head(seed, 0.1)
        leaf = tree(head.rng, [b.state(np.float64) for b in head.blocks])
        shares.append(head.error(leaf.state.softmax.output) / float(leaf.state.finish(head.anchor, head.charge, 20)))
    assert max(shares) > 1 / 3


@BOTH
def test_commutative_and_identity_exactly(dtype: Any) -> None:
    head = Head(3)
    a, b = (block.state(dtype) for block in (head.blocks * 2)[:2])
    nothing = CertificateState.empty((), DIM, dtype)
    for left, right in ((a.merge(b), b.merge(a)), (a.merge(nothing), a), (nothing.merge(a), a)):
        for x, y in zip(
            (*vars(left.softmax).values(), left.A, left.G, left.U, left.D),
            (*vars(right.softmax).values(), right.A, right.G, right.U, right.D),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == dtype
    assert nothing.merge(nothing).finish(head.anchor, head.charge, 2) == np.inf


@given(seed=SEEDS, power=st.integers(-30, 30))
def test_block_terms_are_homogeneous(seed: int, power: int) -> None:
    """Powers of two change no rounding, so the terms of scaled weights are the scaled terms, bit for bit."""
    rng = np.random.default_rng(seed)
    block = Block.random(rng, np.zeros(DIM), 0.3, 1.0)
    p = np.exp(block.s)
    for name, x in block.terms(p).items():
        assert block.terms(p * 2.0**power)[name] == x * 2.0**power


@BOTH
def test_what_is_unknown_is_infinite(dtype: Any) -> None:
    head = Head(4)
    good = [b.state(dtype) for b in head.blocks]
    for name in "AGUD":
        for value in (np.nan, np.inf):
            wrong: Any = {name: np.asarray(value, dtype)}
            bad = replace(good[0], **wrong)
            assert tree(head.rng, [*good[1:], bad]).state.finish(head.anchor, head.charge, 20) == np.inf, (name, value)
    state = good[0]
    assert replace(state, D=np.asarray(-1, dtype)).finish(head.anchor, head.charge, 0) == np.inf
    for charge in (np.nan, np.inf):
        assert state.finish(head.anchor, np.asarray(charge), 0) == np.inf
    assert state.finish(np.full(DIM, np.nan), head.charge, 0) == np.inf
    lost = replace(state.softmax, m=np.asarray(np.nan, dtype))
    assert replace(state, softmax=lost).merge(state).finish(head.anchor, head.charge, 2) == np.inf


def test_underflow_takes_nothing_from_upper_bounds() -> None:
    """A block 200 below the largest score: its factor e^-200 is 0 in float32, its key term 1e30 is not."""
    one: AnyArray = np.asarray(1, np.float32)
    big: AnyArray = np.asarray(1e30, np.float32)
    high = SoftmaxState(0 * one, one, one[None])
    low = replace(high, m=np.asarray(-200, np.float32))
    near = CertificateState.from_block(high, key_ub=0 * one, anchor_ub=0 * one, value_ub=0 * one, weight_lb=one)
    far = CertificateState.from_block(low, key_ub=big, anchor_ub=big, value_ub=big, weight_lb=one)
    merged = near.merge(far)
    assert merged.softmax.factors(near.softmax)[0] == 1
    assert near.softmax.factors(far.softmax)[1] == 0
    exact = arb(-200).exp() * arb(1e30)
    for x in (merged.A, merged.G, merged.U):
        assert arb(float(x)) >= exact
    assert merged.D == 1


@BOTH
def test_products_that_underflow_are_charged(dtype: Any) -> None:
    """A key term of the smallest number, times e^-1, rounds to 0; the bound does not."""
    one, least = np.asarray(1, dtype), np.asarray(np.finfo(dtype).smallest_subnormal)
    zero = 0 * one
    high = SoftmaxState(zero, one, zero[None])
    near = CertificateState.from_block(high, key_ub=zero, anchor_ub=zero, value_ub=zero, weight_lb=one)
    low = replace(high, m=-one)
    far = CertificateState.from_block(low, key_ub=least, anchor_ub=zero, value_ub=zero, weight_lb=one)
    merged = near.merge(far)
    assert merged.A == 0
    assert merged.finish(np.zeros(1), np.asarray(0.0), 2) > least


def test_a_denominator_that_underflow_may_have_made_counts_as_zero() -> None:
    state = CertificateState.from_block(
        SoftmaxState(*(np.asarray(x) for x in (0.0, 1.0, np.ones(1)))),
        **{
            name: np.asarray(0.5 * LOST[np.dtype(np.float64)])
            for name in ("key_ub", "anchor_ub", "value_ub", "weight_lb")
        },
    )
    assert state.finish(np.zeros(1), np.asarray(0.0), 0) == np.inf


def test_leading_axes() -> None:
    head = Head(6)
    state = head.blocks[0].state(np.float64)
    stacked = CertificateState.from_block(
        SoftmaxState(
            np.tile(state.softmax.m, (2, 4)), np.tile(state.softmax.l, (2, 4)), np.tile(state.softmax.o, (2, 4, 1))
        ),
        key_ub=np.tile(state.A, (2, 4)),
        anchor_ub=np.tile(state.G, (2, 4)),
        value_ub=np.tile(state.U, (2, 4)),
        weight_lb=np.tile(state.D, (2, 4)),
    )
    bound = stacked.merge(CertificateState.empty((2, 4), DIM)).finish(head.anchor, np.full((2, 4), 1e-4), 2)
    assert (bound == state.finish(head.anchor, head.charge, 2)).all()


# planted defects


def not_rescaled(one: CertificateState, two: CertificateState) -> CertificateState:
    return replace(one.merge(two), A=one.A + two.A, G=one.G + two.G, U=one.U + two.U)


def denominators_added(one: CertificateState, two: CertificateState) -> CertificateState:
    return replace(one.merge(two), D=one.D + two.D)


def largest_term(one: CertificateState, two: CertificateState) -> CertificateState:
    mine, theirs = one.softmax.factors(two.softmax)
    return replace(one.merge(two), A=np.maximum(mine * one.A, theirs * two.A))


def squared(one: CertificateState, two: CertificateState) -> CertificateState:
    """Key terms as if blocks were orthogonal, which says nothing about their sum."""
    mine, theirs = one.softmax.factors(two.softmax)
    return replace(one.merge(two), A=np.hypot(mine * one.A, theirs * two.A))


@BOTH
@pytest.mark.parametrize("wrong", [not_rescaled, denominators_added, largest_term, squared])
def test_planted_merges_are_seen(dtype: Any, wrong: Merge) -> None:
    heads = [Head(seed) for seed in range(12)]
    whole = [
        is_whole(tree(h.rng, [b.state(dtype) for b in h.blocks], wrong), h, dtype) for h in heads if len(h.blocks) > 1
    ]
    assert not all(whole)


@BOTH
def test_a_split_block_has_another_bound(dtype: Any) -> None:
    """Two halves, each a block of its own: sound, and not the bound of the whole."""
    gains = []
    for seed in range(40):
        head = Head(seed)
        tall = max(head.blocks, key=lambda b: len(b.s))
        if len(tall.s) < 4:
            continue
        rest = [b.state(dtype) for b in head.blocks if b is not tall]
        halves = [tall.state(dtype, slice(None, 2)), tall.state(dtype, slice(2, None))]
        whole, split = (tree(head.rng, [*rest, *parts]) for parts in ([tall.state(dtype)], halves))
        bounds = [float(x.state.finish(head.anchor, head.charge, 2 * x.merges)) for x in (whole, split)]
        assert head.error(split.state.softmax.output) <= bounds[1] + 1e-12
        gains.append(bounds[1] / bounds[0])
    # roundings would explain 3 spare; halves cost up to sqrt(2)
    assert max(gains) > 1.05 > 1 + 3 * spare(dtype)


def test_accumulation_is_divided_by_the_denominator() -> None:
    """With all else 0 the bound is l eps / D; eps alone would be too small by D/l, and eps / D by 1/l."""
    three, one = np.asarray(3.0), np.asarray(1.0)
    zero = 0 * one
    state = CertificateState.from_block(
        SoftmaxState(zero, three, np.ones(2)), key_ub=zero, anchor_ub=zero, value_ub=zero, weight_lb=one
    )
    bound = state.finish(np.zeros(2), np.asarray(0.5), 0)
    assert 1.5 <= bound <= 1.5 * (1 + 3 * spare(np.float64))


def test_refuses_what_it_cannot_mean() -> None:
    state = Head(5).blocks[0].state(np.float64)
    terms = {"key_ub": state.A, "anchor_ub": state.G, "value_ub": state.U, "weight_lb": state.D}
    with pytest.raises(DTypeError):
        CertificateState.from_block(state.softmax, **(terms | {"value_ub": state.U.astype(np.float32)}))
    narrower: dict[str, AnyArray] = {name: x.astype(np.float16) for name, x in terms.items()}
    half = SoftmaxState(*(x.astype(np.float16) for x in vars(state.softmax).values()))
    with pytest.raises(DTypeError):
        CertificateState.from_block(half, **narrower)
    with pytest.raises(ShapeError):
        CertificateState.from_block(state.softmax, **(terms | {"value_ub": np.ones(2)}))
    narrow = CertificateState.empty((), DIM, np.float32)
    narrow.finish(np.zeros(DIM), np.asarray(0.0), 900)
    with pytest.raises(InputError):
        narrow.finish(np.zeros(DIM), np.asarray(0.0), 1000)


@BOTH
def test_last_quotient_underflows(dtype: Any) -> None:
    """A sum of shares so large that the quotient is below the normal range: the bound is above it."""
    largest, smallest = np.finfo(dtype).max / 8, np.finfo(dtype).smallest_normal
    softmax = SoftmaxState(*(np.array(x, dtype) for x in (0.0, largest, [0.0] * DIM)))
    zero = np.array(0.0, dtype)
    state = CertificateState(softmax, zero, zero, zero, np.array(largest, dtype))
    assert state.finish(np.zeros(DIM), np.array(0.0), 10) >= smallest
