"""Pages: none is held twice, none is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certkv.fast.errors import CapacityError
from certkv.fast.pages import NO_PAGE, PageTable

CPU = torch.device("cpu")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=20))
def test_every_page_is_free_or_held_once(events: list[tuple[int, int]]) -> None:
    """A count of 0 releases the sequence, another one appends as many blocks."""
    pages = PageTable(3, 8, 10, CPU)
    held: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for sequence, count in events:
        if count == 0:
            assert pages.release(sequence) == held[sequence]
            held[sequence] = []
        elif count > pages.free:
            with pytest.raises(CapacityError, match=f"{count} pages are needed and {pages.free} are free"):
                pages.upcoming(count)
        elif len(held[sequence]) + count <= 8:
            new = pages.upcoming(count)
            assert new == pages.upcoming(count), "asking takes nothing"
            pages.assign(sequence, new)
            held[sequence] += new
        taken = [page for mine in held.values() for page in mine]
        assert len(set(taken)) == len(taken)
        assert sorted(taken + pages.upcoming(pages.free)) == list(range(10))
        for s, mine in held.items():
            assert pages.pages(s) == mine
            assert pages.table[s].tolist() == mine + [NO_PAGE] * (8 - len(mine))
