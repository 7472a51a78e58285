"""The paper's table of unions comes out of its formula."""

import pytest

from certkv.reference.bounds import gqa_union


@pytest.mark.parametrize(("thousands", "percent"), [(8, 100), (32, 99), (64, 87), (128, 64), (256, 39)])
def test_the_papers_table(thousands: int, percent: int) -> None:
    share = gqa_union.expected_share(thousands * 1024, 16, 32, 128)
    # The table is in whole per cent; 256K is 39.6, which it cuts, the others it rounds.
    assert abs(100 * share - percent) < 1


def test_ends() -> None:
    assert gqa_union.expected_union(4096, 16, 1, 128) == 256.0  # twice 128, of 256
    assert gqa_union.expected_union(1, 16, 32, 128) == 1.0
    assert gqa_union.expected_union(160_000, 16, 1, 128) == pytest.approx(256.0)
    assert gqa_union.expected_union(160_001, 16, 10**6, 1) == pytest.approx(10_001.0)
