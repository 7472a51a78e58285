"""The greedy choice is a smallest one; with costs, it costs less than a cheapest one and one item."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.selection import cheapest_levels, cheapest_until, greedy, largest_until


def marks(gain: list[float], need: float) -> list[bool]:
    return [bool(m) for m in largest_until(np.array([gain]), np.array([need]))[0]]


def test_examples() -> None:
    assert marks([1.0, 3.0, 2.0], 4.0) == [False, True, True]
    assert marks([1.0, 3.0, 2.0], 3.0) == [False, True, False]
    assert marks([1.0, 3.0, 2.0], 0.0) == [False, False, False]
    assert marks([1.0, 3.0, 2.0], 99.0) == [True, True, True]
    assert marks([1.0, 1.0], 1.0) == [True, False]


def test_unknown_means_all() -> None:
    assert marks([1.0, 2.0], math.nan) == [True, True]
    assert marks([math.nan, 2.0], 1.0) == [True, False], "an unknown gain is taken first"
    assert marks([math.inf, 2.0, math.inf, 1.0], math.inf) == [True, False, True, False], "infinite terms all go"
    assert marks([math.inf, 2.0], 0.0) == [False, False]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(0, 200))
def test_no_smaller_set_suffices(gain: list[int], need: int) -> None:
    """Against all subsets; integers, so sums are exact."""
    chosen = marks([float(g) for g in gain], float(need))
    count, removed = sum(chosen), sum(g for g, m in zip(gain, chosen, strict=True) if m)
    if sum(gain) >= need:
        assert removed >= need
        smaller = (c for size in range(count) for c in itertools.combinations(gain, size))
        assert all(sum(c) < need for c in smaller)
    else:
        assert all(chosen)


def cheap(gain: list[float], cost: list[float], need: float) -> list[bool]:
    return [bool(m) for m in cheapest_until(np.array([gain]), np.array(cost), np.array([need]))[0]]


def test_examples_with_costs() -> None:
    assert cheap([4.0, 3.0], [4.0, 1.0], 3.0) == [False, True], "three for one before one for one"
    assert cheap([4.0, 3.0], [4.0, 1.0], 4.0) == [True, True], "one item more than the cheapest, which is the first"
    assert cheap([1.0, 1.0], [2.0, 2.0], 1.0) == [True, False], "ties go to the lower index"
    assert cheap([1.0, 2.0], [1.0, 1.0], 0.0) == [False, False]
    assert cheap([1.0, 0.0], [1.0, 1.0], 9.0) == [True, True]


def test_unknown_means_all_with_costs() -> None:
    nan, inf = math.nan, math.inf
    assert cheap([1.0, 2.0], [1.0, 9.0], nan) == [True, True]
    assert cheap([nan, 9.0], [99.0, 1.0], 1.0) == [True, False], "an unknown gain is taken first, whatever its cost"
    assert cheap([inf, 2.0, inf, 1.0], [9.0, 1.0, inf, 1.0], inf) == [True, False, True, False]
    assert cheap([inf, 2.0], [1.0, 1.0], 0.0) == [False, False]
    assert cheap([5.0, 1.0], [nan, 9.0], 1.0) == [False, True], "of unknown cost: last"
    assert cheap([5.0, 1.0], [inf, 9.0], 1.0) == [False, True]
    assert cheap([5.0, 1e-9, 9.0], [1.0, 0.0, -1.0], 1e-9) == [False, True, False], "free ones first"


@given(
    st.lists(st.one_of(st.floats(0, 1e300), st.just(math.inf), st.just(math.nan)), min_size=1, max_size=9),
    st.one_of(st.floats(-1, 1e300), st.just(math.inf), st.just(math.nan)),
    st.sampled_from([1.0, 256.0, 2.0**-40]),
)
def test_equal_costs_are_no_costs(gain: list[float], need: float, cost: float) -> None:
    assert cheap(gain, [cost] * len(gain), need) == marks(gain, need)


ITEMS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=7)


@given(ITEMS, st.integers(1, 200))
def test_cheaper_than_the_cheapest_and_one_item(items: list[tuple[int, int]], need: int) -> None:
    """Against all subsets; integers, so sums are exact."""
    gain, cost = zip(*items, strict=True)
    chosen = cheap([float(g) for g in gain], [float(c) for c in cost], float(need))
    if sum(gain) < need:
        assert all(chosen)
        return
    taken = [i for i, m in enumerate(chosen) if m]
    assert sum(gain[i] for i in taken) >= need
    best = min(
        sum(cost[i] for i in subset)
        for size in range(len(items) + 1)
        for subset in itertools.combinations(range(len(items)), size)
        if sum(gain[i] for i in subset) >= need
    )
    last = min(taken, key=lambda i: (gain[i] / cost[i], -i))
    assert sum(cost[i] for i in taken) < best + cost[last]
    assert sum(gain[i] for i in taken if i != last) < need, "without its last item the choice falls short"


def levels(gain: list[list[float]], cost: list[float], need: float) -> list[int]:
    return [int(x) for x in cheapest_levels(np.array([gain]), np.array(cost), np.array([need]))[0]]


def test_examples_with_levels() -> None:
    """Planes cost 1, originals 4."""
    assert levels([[8.0, 10.0], [8.0, 10.0]], [1.0, 4.0], 9.0) == [1, 1], "two planes before an original"
    assert levels([[8.0, 10.0], [0.0, 0.0]], [1.0, 4.0], 9.0) == [2, 0], "the original where its plane is not enough"
    assert levels([[1.0, 10.0], [1.0, 10.0]], [1.0, 4.0], 1.0) == [2, 0], (
        "and dearer than the best, by less than a step"
    )
    assert levels([[1.0, 10.0]], [1.0, 4.0], 9.0) == [2], "a plane that hardly helps is left out"
    assert levels([[5.0, 6.0], [5.0, 6.0]], [1.0, 4.0], 0.0) == [0, 0]
    assert levels([[5.0, 6.0], [5.0, 6.0]], [1.0, 4.0], 99.0) == [2, 2]
    assert levels([[5.0, 6.0], [5.0, 6.0]], [1.0, 4.0], math.nan) == [2, 2]


def test_originals_alone_are_cheaper() -> None:
    """By density six planes and a step to an original, 9; two originals do it for 8."""
    assert levels([[2.0, 7.0]] * 6, [1.0, 4.0], 14.0) == [2, 2, 0, 0, 0, 0]
    assert levels([[2.0, 7.0]] * 6, [1.0, 4.0], 12.0) == [1, 1, 1, 1, 1, 1]


def test_unknown_levels_are_taken_whole() -> None:
    nan, inf = math.nan, math.inf
    assert levels([[nan, 5.0], [4.0, 5.0]], [1.0, 4.0], 3.0) == [2, 0]
    assert levels([[inf, inf], [4.0, 5.0]], [1.0, 4.0], inf) == [2, 0]
    assert levels([[1.0, nan], [4.0, inf], [4.0, 5.0]], [1.0, 4.0], 9.0) == [2, 2, 0]
    assert levels([[inf, inf]], [1.0, 4.0], 0.0) == [0]


LEVELS = st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=1, max_size=4)
COSTS = st.lists(st.integers(1, 9), min_size=3, max_size=3)


@given(LEVELS, COSTS, st.integers(1, 120))
def test_levels_cost_less_than_the_cheapest_and_one_step(gain: list[list[int]], steps: list[int], need: int) -> None:
    """Against all choices; three levels, gains in any order, costs rising."""
    cost = list(itertools.accumulate(steps))
    chosen = levels([[float(g) for g in item] for item in gain], [float(c) for c in cost], float(need))

    def total(per_level: list[list[int]], choice: tuple[int, ...]) -> int:
        return sum(item[level - 1] for item, level in zip(per_level, choice, strict=True) if level)

    costs = [cost] * len(gain)
    enough = [c for c in itertools.product(range(4), repeat=len(gain)) if total(gain, c) >= need]
    if not enough:
        assert chosen == [3] * len(gain)
        return
    assert total(gain, tuple(chosen)) >= need
    best = min(total(costs, c) for c in enough)
    assert total(costs, tuple(chosen)) < best + cost[-1], "a step costs at most the last level"
    originals = [c for c in enough if set(c) <= {0, 3}]
    if originals:
        assert total(costs, tuple(chosen)) <= min(total(costs, c) for c in originals)


@given(LEVELS, COSTS, st.integers(1, 120), st.sampled_from([-1000, -300, 300, 1016]))
def test_units_of_gains_do_not_matter(gain: list[list[int]], steps: list[int], need: int, power: int) -> None:
    """Gains of up to 30 2^1016, whose products with costs overflow: the same choice, and no warning."""
    cost = [1000.0 * c for c in itertools.accumulate(steps)]
    plain = levels([[float(g) for g in item] for item in gain], cost, float(need))
    scaled = [[math.ldexp(g, power) for g in item] for item in gain]
    assert levels(scaled, cost, math.ldexp(need, power)) == plain


def test_overflowing_products_are_compared() -> None:
    """A plane that lies below the line to the original is left out, though gain times cost is infinite both times."""
    large = 2.0**1020
    gain = [[large / 4, 15 * large / 4], [large, large]]
    steps, prices = greedy._steps(np.array([gain]), np.array([1000.0, 4000.0]) * np.ones((1, 2, 2)))
    assert steps.tolist() == [[[0.0, 15 * large / 4], [large, 0.0]]]
    assert prices.tolist() == [[[math.inf, 4000.0], [1000.0, math.inf]]]


def test_sums_that_overflow_meet_every_need() -> None:
    large = 1.5 * 2.0**1023
    assert marks([large, large, large], large) == [True, False, False]
    assert marks([large, large, large], 1.1 * large) == [True, True, False]
    assert levels([[large, large]] * 3, [1000.0, 4000.0], 1.1 * large) == [1, 1, 0]


@given(ITEMS, st.integers(0, 200))
def test_one_level_is_no_level(items: list[tuple[int, int]], need: int) -> None:
    gain, cost = (np.array([column], np.float64) for column in zip(*items, strict=True))
    chosen = cheapest_levels(gain[..., None], cost[0][:, None], np.array([float(need)]))
    assert (chosen[0] > 0).tolist() == cheap(gain[0].tolist(), cost[0].tolist(), float(need))
