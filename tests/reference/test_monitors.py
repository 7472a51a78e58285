"""The monitors see what they must see, and a NaN fails each of them (defects A9, B7)."""

from __future__ import annotations

import numpy as np

from certkv.reference import monitors

NAN = float("nan")
ONE = np.array([[True, True, False]])


def test_ranking() -> None:
    exact, same, swapped = (np.array([row]) for row in ([3.0, 2.0, 9.0], [3.1, 2.9, 8.0], [2.0, 3.0, 9.0]))
    assert monitors.ranking_holds(exact, same, ONE, 1).all()
    assert not monitors.ranking_holds(exact, swapped, ONE, 1).any()
    assert monitors.ranking_holds(exact, swapped, ONE, 2).all(), "as sets the top two agree"
    # the block outside the choice plays no part, whatever its exact mass would be
    assert monitors.ranking_holds(np.array([[3.0, 2.0, NAN]]), same, ONE, 1).all()


def test_ranking_fails_on_nan() -> None:
    good = np.array([[3.0, 2.0, 1.0]])
    for bad in ([NAN, 2.0, 1.0], [3.0, NAN, 1.0]):
        assert not monitors.ranking_holds(np.array([bad]), good, ONE, 1).any()
        assert not monitors.ranking_holds(good, np.array([bad]), ONE, 1).any()


def test_boundary() -> None:
    exact = np.array([[3.0, 2.0, NAN]])
    for outside, delta, holds in ((2.5, 0.4, True), (2.5, 0.6, False), (NAN, 0.1, False), (2.5, NAN, False)):
        coded = np.array([[3.0, 2.0, outside]])
        assert monitors.boundary_holds(exact, coded, np.full((1, 3), delta), ONE, 1).all() == holds
    coded = np.array([[3.0, 2.0, 2.5]])
    assert not monitors.boundary_holds(exact, coded, np.zeros((1, 3)), ONE, 2).any()
    # fewer chosen than the rank while something is left out: the r-th largest does not exist
    assert not monitors.boundary_holds(exact, coded, np.zeros((1, 3)), ONE, 3).any()
    assert monitors.boundary_holds(exact, coded, np.zeros((1, 3)), np.ones((1, 3), bool), 1).all()


def test_no_blocks_is_fine() -> None:
    none, mask = np.empty((2, 0)), np.empty((2, 0), bool)
    assert monitors.boundary_holds(none, none, none, mask, 1).all()
    assert monitors.ranking_holds(none, none, mask, 1).all()


def test_every_scored_block_is_compared() -> None:
    """Each token of each scored block trips the check, explored blocks and last blocks included."""
    exact = np.zeros((1, 5, 4))
    delta, scored = np.full((1, 5), 0.1), np.array([[True, False, True, False, True]])
    assert monitors.scores_consistent(exact, exact, delta, scored, 1e-6).all()
    for block in range(5):
        for token in range(4):
            for off in (0.11, -0.11, NAN, np.inf):
                coded = exact.copy()
                coded[0, block, token] = off
                assert monitors.scores_consistent(exact, coded, delta, scored, 1e-6).all() != scored[0, block]
                assert monitors.scores_consistent(coded, exact, delta, scored, 1e-6).all() != scored[0, block]
