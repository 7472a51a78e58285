"""The greedy choice is a smallest one."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.selection import largest_until


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
