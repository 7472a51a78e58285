"""The exploration draw: a function of its four arguments, with the right frequency."""

from __future__ import annotations

import numpy as np

from certkv.reference.selection import explore

HEADS = np.arange(8)


def test_repeats() -> None:
    first = explore(0.1, 3, 7, HEADS, 500)
    assert (first == explore(0.1, 3, 7, HEADS, 500)).all()
    # a head draws the same wherever it stands, and a longer cache keeps the draws of its first blocks
    assert (first[5] == explore(0.1, 3, 7, np.array([5]), 500)[0]).all()
    assert (first[:, :100] == explore(0.1, 3, 7, HEADS, 100)).all()


def test_each_argument_matters() -> None:
    first = explore(0.5, 3, 7, HEADS, 500)
    assert (first != explore(0.5, 4, 7, HEADS, 500)).any()
    assert (first != explore(0.5, 3, 8, HEADS, 500)).any()
    assert (first[0] != first[1]).any()


def test_share() -> None:
    assert not explore(0.0, 0, 0, HEADS, 100).any()
    assert explore(1.0, 0, 0, HEADS, 100).all()
    # 8 x 20,000 draws at 5 %: standard deviation 0.00054; six of them
    assert abs(explore(0.05, 1, 2, HEADS, 20_000).mean() - 0.05) < 6 * np.sqrt(0.05 * 0.95 / 160_000)
