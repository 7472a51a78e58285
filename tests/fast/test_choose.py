"""The choice of what to promote: the greedy one, by twin and by kernel; lists of work; what happens to a head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.fast.certify import PARTIAL, Terms
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.choose import ACCEPT, EXACT_HEAD, KEYS, REFINE, VALUES, Choice, choose, largest_until
from certkv.fast.kernels import choose as kernel
from certkv.fast.totals import Totals, Unit

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

NOTHING = ScoreCharge(0.0, 0.0)
FREE = Charges(0.0, NOTHING, NOTHING, NOTHING, 1.0, 2.0**-60, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""No rounding at all."""

CHOOSE = {"twin": choose, "kernel": kernel.choose}


def greedy(gain: list[float], need: float) -> list[bool]:
    """Take the largest, ties by the lower index, until enough; infinite ones all and alone."""
    marks = [False] * len(gain)
    if any(math.isinf(g) for g in gain):
        return [math.isinf(g) for g in gain]
    total = 0.0
    for i in sorted(range(len(gain)), key=lambda i: (-gain[i], i)):
        if total >= need:
            return marks
        marks[i] = True
        total += gain[i]
    return marks if total >= need else [False] * len(gain)


# multiples of 2^-10 below 64: all sums of fewer than 2^8 are exact in binary32, in any order
gains = st.integers(0, 2**16).map(lambda n: n / 1024) | st.sampled_from([0.0, 1.0, 7.5])


@settings(max_examples=300)
@given(st.lists(gains | st.just(math.inf), min_size=1, max_size=20), st.integers(1, 2**21).map(lambda n: n / 1024))
def test_greedy(gain: list[float], need: float) -> None:
    marks, enough = largest_until(torch.tensor([gain]), torch.tensor([need]))
    assert marks[0].tolist() == greedy(gain, need)
    assert bool(enough) == (sum(gain) >= need)


def terms_of(key: np.ndarray, value: np.ndarray, weight: np.ndarray, mass: np.ndarray) -> Terms:
    """Terms [batch, Hq, blocks] with the sums in one partial entry, and one empty entry for each slot."""
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (mass, key, key, value, weight)]
    partial = torch.zeros(*key.shape[:2], 3, len(PARTIAL))
    for column, x in enumerate(tensors[1:]):
        partial[..., 0, column] = x.sum(-1)
    partial[..., 0, 4] = tensors[0].sum(-1)  # a mean value norm of 1
    partial[..., 0, 7] = torch.inf
    return Terms(*(*tensors, partial))


def decide(
    how: str,
    terms: Terms,
    *,
    unit: Unit = "absolute",
    tolerance: float = 1.0,
    rounds_left: int = 1,
    most: int = 1000,
    kv_heads: int = 1,
    levels: torch.Tensor | None = None,
    action: torch.Tensor | None = None,
    charges: Charges = FREE,
) -> tuple[Totals, Choice]:
    batch, heads, blocks = terms.mass.shape
    found, choice = Totals.empty(batch, heads), Choice.empty(batch, heads, kv_heads, blocks)
    if action is not None:
        choice.action.copy_(action)
    choice.chosen.fill_(0xAA)
    choice.work.fill_(12345)
    levels = torch.zeros(batch, heads, blocks, dtype=torch.uint8) if levels is None else levels
    output = torch.full((batch, heads, 8), 0.5)
    CHOOSE[how](terms, levels, output, charges, unit, tolerance, rounds_left, most, found, choice)
    return found, choice


@pytest.mark.parametrize("how", CHOOSE)
def test_last_quotient(how: str) -> None:
    """One below the normal range leaves the bound above it; one by a sum that overflowed is unknown."""
    key, nothing = np.full((1, 1, 2), 7e-32), np.zeros((1, 1, 2))
    numbers = {}
    for weight in (1e15, 3e38):
        found, _ = decide(how, terms_of(key, nothing, np.full((1, 1, 2), weight), nothing))
        numbers[weight] = [float(found.bound[0, 0]), float(found.key[0, 0])]
    assert min(numbers[1e15]) >= 2.0**-126
    assert numbers[3e38] == [math.inf, math.inf]


def random_terms(seed: int, heads: int = 4, blocks: int = 21, batch: int = 2) -> Terms:
    rng = np.random.default_rng(seed)
    shape = (batch, heads, blocks)
    mass = rng.dirichlet(np.full(blocks, 0.3), size=shape[:2])
    key, value = rng.exponential(size=(2, *shape)) * mass
    return terms_of(key, value, mass * np.exp(-rng.uniform(0, 0.2, shape)), mass)


@pytest.mark.parametrize("seed", range(3))
def test_kernel_is_the_twin(seed: int) -> None:
    """Same choice and lists from the same terms, also where levels are promoted already and heads are done."""
    terms = random_terms(seed)
    rng = np.random.default_rng(seed)
    levels = torch.from_numpy(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1], size=terms.mass.shape).astype(np.uint8))
    # what is promoted has no error left
    promoted = [
        x.double().numpy() * ((levels.numpy() & bit) == 0) for x, bit in zip(terms[2:4], (KEYS, VALUES), strict=True)
    ]
    weight, mass = terms.weight_lb.double().numpy(), terms.mass.double().numpy()
    terms = terms_of(promoted[0], promoted[1], weight, mass)
    action = torch.from_numpy(
        rng.choice([ACCEPT, REFINE, REFINE, EXACT_HEAD], size=terms.mass.shape[:2]).astype(np.uint8)
    )
    charges = Charges(
        0.0, NOTHING, NOTHING, NOTHING, 1.0, 2.0**-60, 1.0, 0.0, 1e-5, 1e-6, 1e-5, 1e-9, 2.0**-9, 1e-9
    ).rounded()
    shared = {"levels": levels, "action": action, "charges": charges}
    for unit, tolerance in (("values", 0.3), ("output", 0.1), ("absolute", 0.2), ("none", 0.0)):
        results = [
            decide(how, terms, unit=unit, tolerance=tolerance, kv_heads=2, **shared)  # type: ignore[arg-type]
            for how in CHOOSE
        ]
        (one, choice), (two, other) = results
        for a, b in zip(choice, other, strict=True):
            assert torch.equal(a, b), unit
        for a, b in zip(one, two, strict=True):
            assert torch.equal(torch.isnan(a), action != REFINE)
            assert torch.isclose(a, b, rtol=2.0**-12, equal_nan=True).all(), unit
        assert (choice.action[action != REFINE] == action[action != REFINE]).all()
        assert (choice.chosen[choice.action != REFINE] == 0).all()
        if unit != "none":
            assert (choice.action == REFINE).any()


@pytest.mark.parametrize("how", CHOOSE)
def test_chosen_items_bring_the_bound_under_the_limit(how: str) -> None:
    """Promoting what was chosen suffices; leaving out the smallest chosen item does not."""
    terms = random_terms(5)
    limit = 0.25
    found, choice = decide(how, terms, tolerance=limit)
    checked = 0
    for row in np.ndindex(2, 4):
        key, value, weight, mass = (
            x[row].double().numpy() for x in (terms.key_gain, terms.value, terms.weight_lb, terms.mass)
        )
        if choice.action[row] != REFINE:
            continue
        marks = choice.chosen[row].numpy()
        keys, values = (marks & KEYS) != 0, (marks & VALUES) != 0

        def bound(keys: np.ndarray, values: np.ndarray) -> float:
            return float(
                (np.where(keys, 0, key).sum() + np.where(values, 0, value).sum()) / np.where(keys, mass, weight).sum()  # noqa: B023
            )

        # `need` is raised by 2^-10 of the limit
        assert bound(keys, values) <= limit
        gains = [(key[b] + limit * (mass[b] - weight[b]), b, 0) for b in np.flatnonzero(keys)]
        gains += [(value[b], b, 1) for b in np.flatnonzero(values)]
        _, b, side = min(gains)
        (keys if side == 0 else values)[b] = False
        assert bound(keys, values) > limit * (1 - 2.0**-9)
        checked += 1
    assert checked >= 4
    assert (found.bound > limit)[choice.action == REFINE].all()


@pytest.mark.parametrize("how", CHOOSE)
def test_what_happens_to_a_head(how: str) -> None:
    blocks = 3
    one = np.ones((1, 1, blocks))

    def action(key: float, **kwargs: object) -> int:
        return int(decide(how, terms_of(key * one, 0 * one, one / blocks, one / blocks), **kwargs)[1].action)  # type: ignore[arg-type]

    assert action(0.1) == ACCEPT
    assert action(0.5) == REFINE
    assert action(0.5, unit="none") == ACCEPT
    assert action(0.5, rounds_left=0) == EXACT_HEAD
    assert action(0.5, most=1) == EXACT_HEAD
    assert action(0.0, tolerance=0.0) == EXACT_HEAD
    assert action(np.nan) == EXACT_HEAD or action(np.nan) == REFINE
    assert action(np.inf) == REFINE
    # all that could be promoted is
    assert action(0.5, levels=torch.full((1, 1, blocks), 3, dtype=torch.uint8)) == EXACT_HEAD
    # values take off 1.2 of the 1.5 - 1.0 that are needed, but nothing tells how much a NaN takes off
    terms = terms_of(0.5 * one, 0.4 * one, np.nan * one, one / blocks)
    found, choice = decide(how, terms)
    assert int(choice.action) != ACCEPT
    assert torch.isinf(found.bound).all()


@pytest.mark.parametrize("how", CHOOSE)
def test_infinite_gains_come_first_and_alone(how: str) -> None:
    key = np.full((1, 1, 6), 0.5)
    key[..., 2] = np.inf
    value = np.full((1, 1, 6), 0.1)
    value[..., 4] = np.inf
    _, choice = decide(how, terms_of(key, value, np.full(key.shape, 1 / 6), np.full(key.shape, 1 / 6)))
    assert choice.chosen.flatten().tolist() == [0, 0, KEYS, 0, VALUES, 0]
    assert choice.work.flatten().tolist() == [2, 4, -1, -1, -1, -1]
    assert int(choice.counts) == 2


@pytest.mark.parametrize("how", CHOOSE)
def test_ties_take_only_what_is_needed(how: str) -> None:
    """Eight equal blocks, of which three must go: the first three."""
    key = np.full((1, 2, 8), 0.25)
    none, mass = np.zeros(key.shape), np.full(key.shape, 0.125)
    _, choice = decide(how, terms_of(key, none, mass, mass), tolerance=1.3)
    assert (choice.chosen[0] != 0).sum(-1).tolist() == [3, 3]
    assert choice.work[0, 0].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    # keys come before values of the same gain: 2.7 is all keys and three values
    _, choice = decide(how, terms_of(key, key, mass, mass), tolerance=1.3)
    assert choice.chosen[0, 1].tolist() == [KEYS + VALUES] * 3 + [KEYS] * 5


@pytest.mark.parametrize("how", CHOOSE)
def test_parts_sum_to_the_bound(how: str) -> None:
    found, _ = decide(how, random_terms(9), unit="none")
    assert ((found.key + found.value) + found.arithmetic >= found.bound).all()
    assert (found.arithmetic < 0.01 * found.bound).all()
    assert torch.isinf(found.tolerance).all()


@pytest.mark.parametrize("how", CHOOSE)
def test_tolerances(how: str) -> None:
    """Never above what the unit means, and at most 1 % below."""
    terms = random_terms(11)
    norm = 0.5 * 8**0.5
    for unit, share, number in (("absolute", 0.3, 0.3), ("output", 0.25, 0.2 * norm), ("values", 0.3, 0.3)):
        found, _ = decide(how, terms, unit=unit, tolerance=share)  # type: ignore[arg-type]
        # masses sum to 1 up to their rounding to binary32
        assert (found.tolerance.double() <= number * (1 + 1e-6 * (unit == "values"))).all(), unit
        assert (found.tolerance.double() >= 0.99 * number).all(), unit
