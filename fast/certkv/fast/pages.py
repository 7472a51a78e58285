"""Pages of the pool: which are free, and which page holds which block of which sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from certkv.fast.errors import CapacityError

NO_PAGE = -1
"""Entry of the page table where a sequence has no such block."""


class PageTable:
    """Free list on the host, page table on the device with a mirror on the host.

    Parameters
    ----------
    batch, max_blocks, pages : int
    device : torch.device

    Attributes
    ----------
    table : int32 [batch, max_blocks]
        Page of every block, and of every block to come for which a page is reserved; `NO_PAGE` elsewhere.
    """

    def __init__(self, batch: int, max_blocks: int, pages: int, device: torch.device) -> None:
        self.table = torch.full((batch, max_blocks), NO_PAGE, dtype=torch.int32, device=device)
        self._of: list[list[int]] = [[] for _ in range(batch)]
        self._used = [0] * batch
        self._free = list(range(pages))[::-1]

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._free)

    def pages(self, sequence: int) -> list[int]:
        """Pages of a sequence's blocks, in order."""
        return self._of[sequence][: self._used[sequence]]

    def reserved(self, sequence: int) -> list[int]:
        """Pages of the blocks that a sequence fills next, in order."""
        return self._of[sequence][self._used[sequence] :]

    def reserve(self, blocks: Sequence[int]) -> None:
        """See to it that every sequence holds pages for so many blocks, or for more; whole or not at all.

        Raises
        ------
        CapacityError
            Fewer pages are free.
        """
        wanted = [max(0, count - len(held)) for count, held in zip(blocks, self._of, strict=True)]
        fresh = self.upcoming(sum(wanted))
        for s, count in enumerate(wanted):
            self._hold(s, len(self._of[s]), fresh[:count])
            fresh = fresh[count:]

    def advance(self, sequence: int, blocks: int) -> None:
        """Learn that a sequence's first so many pages hold blocks."""
        self._used[sequence] = blocks

    def next(self, blocks: Sequence[int]) -> list[int]:
        """Return the pages of the next blocks, so many of every sequence: reserved ones first; none is taken yet.

        Raises
        ------
        CapacityError
            Fewer pages are free than are needed.
        """
        spare = [self.reserved(s)[:count] for s, count in enumerate(blocks)]
        fresh = self.upcoming(sum(blocks) - sum(map(len, spare)))
        pages = []
        for held, count in zip(spare, blocks, strict=True):
            pages += held + fresh[: count - len(held)]
            fresh = fresh[count - len(held) :]
        return pages

    def upcoming(self, count: int) -> list[int]:
        """Return the pages that the next blocks would get; none is taken yet.

        Raises
        ------
        CapacityError
            Fewer pages are free.
        """
        if count > self.free:
            raise CapacityError(
                f"{count} pages are needed and {self.free} are free; nothing was appended; reset a sequence, or make "
                "the cache with more pages"
            )
        return self._free[len(self._free) - count :][::-1]

    def assign(self, sequence: int, pages: list[int]) -> None:
        """Give a sequence the pages of its next blocks, those of `next`."""
        start = self._used[sequence]
        self._used[sequence] = start + len(pages)
        self._hold(sequence, start, pages)

    def release(self, sequence: int) -> list[int]:
        """Take all pages from a sequence and return them; the last one freed is the next one used."""
        pages = self._of[sequence]
        self._of[sequence], self._used[sequence] = [], 0
        self.table[sequence].fill_(NO_PAGE)
        self._free.extend(pages[::-1])
        return pages

    def _hold(self, sequence: int, start: int, pages: list[int]) -> None:
        """Write pages to the table from a block on; those that are not held yet leave the free list."""
        if pages:
            self.table[sequence, start : start + len(pages)] = torch.tensor(pages, dtype=torch.int32)
        fresh = start + len(pages) - len(self._of[sequence])
        del self._free[len(self._free) - max(0, fresh) :]
        self._of[sequence][start : start + len(pages)] = pages
