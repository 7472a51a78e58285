"""Enclosed softmax and total variation, to judge bounds by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from flint import arb

from certkv.reference.exact.enclosure import working_precision

Softmax = Callable[[Sequence[float | arb]], list[arb]]
TotalVariation = Callable[[Sequence[arb], Sequence[arb]], arb]


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """200 bits for everything that these tests enclose themselves."""
    with working_precision(200):
        yield


def _softmax(scores: Sequence[float | arb]) -> list[arb]:
    weights = [arb(s).exp() for s in scores]
    total = sum(weights, arb(0))
    return [w / total for w in weights]


def _total_variation(a: Sequence[arb], b: Sequence[arb]) -> arb:
    return sum((abs(x - y) for x, y in zip(a, b, strict=True)), arb(0)) / 2


@pytest.fixture(scope="session")
def softmax() -> Softmax:
    return _softmax


@pytest.fixture(scope="session")
def total_variation() -> TotalVariation:
    return _total_variation
