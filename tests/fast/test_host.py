"""The tier of originals: what is there is what was written, and what is not says so and reads as NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast.errors import SettingError
from certkv.fast.host import Originals

CPU = torch.device("cpu")


def tier(place: Any = "host") -> Originals:
    return Originals(2, 2, 3, 4, 8, torch.bfloat16, place, CPU)


@pytest.mark.parametrize("place", ["host", "device"])
def test_blocks_count_once_they_are_marked(place: str) -> None:
    made = tier(place)
    blocks = torch.arange(2 * 2 * 4 * 8).reshape(2, 2, 4, 8).to(torch.bfloat16)
    made.write(1, 1, blocks, -blocks)
    assert not made.present.any()
    made.mark(1, 1, 3)
    assert made.present.tolist() == [[[0, 0, 0]] * 2, [[0, 1, 1]] * 2]
    assert torch.equal(made.keys[1, :, 1:], blocks.transpose(0, 1))
    assert torch.equal(made.values[1, :, 1:], -blocks.transpose(0, 1))
    assert torch.isnan(made.keys[0]).all()
    assert torch.isnan(made.values[1, :, 0]).all()
    assert made.nbytes == 2 * 2 * 2 * 3 * made.block_bytes == 2 * 2 * 2 * 3 * 4 * 8 * 2


@pytest.mark.parametrize("lost", [(None, None, None), (1, None, None), (1, 0, None), (None, 1, 2), (0, 1, 1)])
def test_what_is_lost_is_neither_present_nor_readable(lost: tuple[int | None, int | None, int | None]) -> None:
    made = tier()
    blocks = torch.ones(3, 2, 4, 8, dtype=torch.bfloat16)
    for s in range(2):
        made.write(s, 0, blocks, blocks)
        made.mark(s, 0, 3)
    made.lose(*lost)
    for s in range(2):
        for head in range(2):
            for block in range(3):
                gone = all(want in (None, have) for want, have in zip(lost, (s, head, block), strict=True))
                assert bool(made.present[s, head, block]) is not gone
                for store in (made.keys, made.values):
                    assert bool(torch.isnan(store[s, head, block]).all()) is gone


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(SettingError, match="'disk'; give one of host, device"):
        tier("disk")
