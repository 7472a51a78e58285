"""Selection by coverage: the fewest blocks, the clamps, rung 1."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.selection import Selection, select
from certkv.reference.selection.coverage import first_reaching


def choose(mass: list[float], already: float = 0.0, **changes: float) -> Selection:
    settings = {"coverage": 0.9, "k_min": 1, "k_max": 100, "tail_threshold": 1.0, "expansion": 2.0} | changes
    return select(
        np.array([mass]),
        np.array([already]),
        coverage=settings["coverage"],
        k_min=int(settings["k_min"]),
        k_max=int(settings["k_max"]),
        tail_threshold=settings["tail_threshold"],
        expansion=settings["expansion"],
    )


def test_fewest_blocks_that_reach_the_coverage() -> None:
    assert choose([0.1, 0.6, 0.05, 0.25], coverage=0.8).chosen.tolist() == [[False, True, False, True]]
    assert choose([0.1, 0.6, 0.05, 0.25], coverage=0.5).chosen.sum() == 1
    assert choose([0.1, 0.6, 0.05, 0.25], coverage=1.0).chosen.sum() >= 3


def test_clamps_and_ties() -> None:
    assert choose([0.25] * 4, coverage=0.9, k_max=2).chosen.tolist() == [[True, True, False, False]]
    assert choose([1.0, 0.0, 0.0], coverage=0.5, k_min=2).chosen.sum() == 2
    assert choose([1.0], k_min=5).chosen.all(), "more than there is means all"


def test_the_tail_block_counts_as_covered() -> None:
    assert choose([0.05, 0.05], already=0.9, coverage=0.9, k_min=1).chosen.sum() == 1
    assert first_reaching(np.array([[0.05, 0.05]]), np.array([0.9]), 0.9).tolist() == [0]


def test_rung_1_enlarges_once() -> None:
    selection = choose([0.2] * 5, coverage=0.9, k_max=2, tail_threshold=0.02)
    assert selection.expanded.all()
    assert selection.chosen.sum() == 4
    np.testing.assert_allclose(selection.tail_mass, 0.2, rtol=1e-15)
    assert not choose([0.99, 0.01], coverage=0.9, tail_threshold=0.02).expanded.any()


def test_nan_mass_enlarges() -> None:
    """A NaN is not a light tail."""
    assert choose([0.5, float("nan"), 0.1], k_max=1, tail_threshold=0.02).expanded.all()


def test_no_blocks() -> None:
    assert choose([], already=1.0).chosen.shape == (1, 0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1))
def test_is_smallest(mass: list[float], coverage: float) -> None:
    """No smaller set of blocks reaches the coverage, by comparison with the sorted list."""
    total = sum(mass) or 1.0
    shares = [m / total for m in mass]
    chosen = choose(shares, coverage=coverage).chosen[0]
    ranked = sorted(shares, reverse=True)
    count = int(chosen.sum())
    if count > 1:
        # one less does not reach it (a sum of at most 12 shares, in the same order as the code adds them)
        assert np.cumsum(ranked)[count - 2] < coverage
    assert sorted(np.array(shares)[chosen], reverse=True) == ranked[:count]
