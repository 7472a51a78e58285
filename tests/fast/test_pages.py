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


@given(st.lists(st.tuples(st.sampled_from(["append", "reserve", "release"]), st.integers(0, 2), st.integers(0, 4))))
def test_reserved_pages_are_used_first(events: list[tuple[str, int, int]]) -> None:
    """Whatever is reserved in between, no page is held twice or lost, and the table says what is held."""
    pages = PageTable(3, 8, 20, CPU)
    used: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for event, sequence, count in events:
        others = [0, 0, 0]
        others[sequence] = count
        if event == "release":
            assert pages.release(sequence)[: len(used[sequence])] == used[sequence]
            used[sequence] = []
        elif event == "reserve":
            wanted = [min(8, len(mine) + n) for mine, n in zip(used.values(), others, strict=True)]
            before = [len(used[s]) + len(pages.reserved(s)) for s in range(3)]
            if sum(max(0, n - have) for n, have in zip(wanted, before, strict=True)) > pages.free:
                continue
            pages.reserve(wanted)
            for s, (n, have) in enumerate(zip(wanted, before, strict=True)):
                assert len(used[s]) + len(pages.reserved(s)) == max(n, have)
        elif len(used[sequence]) + count <= 8 and count - len(pages.reserved(sequence)) <= pages.free:
            spare, new = pages.reserved(sequence), pages.next(others)
            assert new[: len(spare)] == spare[:count]
            # the host may hear of blocks that a graph has filled only afterwards
            if len(spare) >= count:
                pages.advance(sequence, len(used[sequence]) + count)
            else:
                pages.assign(sequence, new)
            used[sequence] += new
        held = [page for s in range(3) for page in pages.pages(s) + pages.reserved(s)]
        assert sorted(held + pages.upcoming(pages.free)) == list(range(20))
        for s, mine in used.items():
            assert pages.pages(s) == mine
            row = mine + pages.reserved(s)
            assert pages.table[s].tolist() == row + [NO_PAGE] * (8 - len(row))
