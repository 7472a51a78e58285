"""Pages of the pool: which are free, and which page holds which block of which sequence."""

from __future__ import annotations

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
        Page of every block, `NO_PAGE` where there is none.
    """

    def __init__(self, batch: int, max_blocks: int, pages: int, device: torch.device) -> None:
        self.table = torch.full((batch, max_blocks), NO_PAGE, dtype=torch.int32, device=device)
        self._of: list[list[int]] = [[] for _ in range(batch)]
        self._free = list(range(pages))[::-1]

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._free)

    def pages(self, sequence: int) -> list[int]:
        """Pages of a sequence's blocks, in order."""
        return list(self._of[sequence])

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
        """Give a sequence the pages of its next blocks, the first ones of `upcoming`."""
        held = self._of[sequence]
        start = len(held)
        self.table[sequence, start : start + len(pages)] = torch.tensor(pages, dtype=torch.int32)
        del self._free[len(self._free) - len(pages) :]
        held.extend(pages)

    def release(self, sequence: int) -> list[int]:
        """Take all pages from a sequence and return them; the last one freed is the next one used."""
        pages = self._of[sequence]
        self._of[sequence] = []
        self.table[sequence].fill_(NO_PAGE)
        self._free.extend(pages[::-1])
        return pages
