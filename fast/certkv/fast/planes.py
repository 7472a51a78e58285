"""Refinement planes of encoded blocks: by page, as their base is; on the device, or in pinned host memory.

A plane is cut from what its block was encoded from, so a plane that is lost or damaged can be made again from the
originals, and a page table that points elsewhere is noticed by the checksum, which has the page's owner in it. What is
measured of levels lies with the other annotations, in the pool: it decides what to read before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from certkv.fast.checksum import owned, totals
from certkv.fast.formats.base import Format
from certkv.fast.formats.packing import plane_rows
from certkv.fast.formats.planar import planes_of
from certkv.fast.host import Place
from certkv.fast.pages import PageTable

_POISON = 0xA5
"""There is no NaN among bytes; presence is what protects."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes of P pages; H KV heads. Empty for formats of one level.

    Attributes
    ----------
    keys, values : tuple of uint8 [P, H, rows, d]
        In the order in which they refine; packed along tokens as docs/planes.md has it.
    present : uint8 [P, H]
        1 where all planes of a page are there; on the device, for kernels to check before they read.
    sums : int64 [P, H]
        Checksums, the owner's word included; on the device.
    place : {"host", "device"}
    pages : PageTable
        Whose pages they are.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    present: torch.Tensor
    sums: torch.Tensor
    place: Place
    pages: PageTable

    @classmethod
    def allocate(
        cls,
        keys: Format,
        values: Format,
        pages: PageTable,
        count: int,
        kv_heads: int,
        block: int,
        head_dim: int,
        place: Place,
        device: torch.device,
    ) -> Planes:
        """Allocate for so many pages; nothing is there yet."""
        where = device if place == "device" else torch.device("cpu")
        pinned = place == "host" and device.type == "cuda"

        def made(fmt: Format) -> tuple[torch.Tensor, ...]:
            return tuple(
                torch.full(
                    (count, kv_heads, plane_rows(block, bits), head_dim),
                    _POISON,
                    dtype=torch.uint8,
                    device=where,
                    pin_memory=pinned,
                )
                for bits in planes_of(fmt)
            )

        some = bool(planes_of(keys) or planes_of(values))
        shape = (count if some else 0, kv_heads)
        present = torch.zeros(shape, dtype=torch.uint8, device=device)
        sums = torch.zeros(shape, dtype=torch.int64, device=device)
        return cls(made(keys), made(values), present, sums, place, pages)

    @property
    def counts(self) -> tuple[int, int]:
        """Planes of keys, and of values."""
        return len(self.keys), len(self.values)

    @property
    def some(self) -> bool:
        """Whether there is any plane."""
        return bool(self.keys or self.values)

    @property
    def sides(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Planes of keys, and of values."""
        return self.keys, self.values

    @property
    def block_bytes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Bytes of each plane of one block and KV head: of keys, of values."""
        keys, values = (tuple(x.shape[-2] * x.shape[-1] for x in side) for side in self.sides)
        return keys, values

    @property
    def host_block_bytes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Bytes that reading each plane moves from the host; 0 where planes are on the device."""
        keys, values = (tuple(n * (self.place == "host") for n in side) for side in self.block_bytes)
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes of the planes, wherever they are."""
        return sum(plane.nbytes for side in self.sides for plane in side)

    @property
    def table_bytes(self) -> int:
        """Bytes on the device that say which planes are there, and what they were."""
        return self.present.nbytes + self.sums.nbytes

    def fields(self) -> tuple[torch.Tensor, ...]:
        """Return all that is stored of a page and KV head, [P H, rows, d] each."""
        return tuple(plane.flatten(0, 1) for side in self.sides for plane in side)

    def mark(self, pages: torch.Tensor) -> None:
        """Say that the planes of pages are there, int32 or int64 [n]; negative ones are none."""
        if self.present.is_cuda:
            from certkv.fast.kernels.planes import mark

            mark(self, pages)
        else:
            self.present[pages[pages >= 0].to(torch.int64)] = 1

    def erase(self, pages: Sequence[int]) -> None:
        """Forget what pages hold. Nothing is allocated."""
        for tensor in (self.present, self.sums):
            if self.some:
                for page in pages:
                    tensor[page].zero_()
        for side in self.sides:
            for plane in side:
                for page in pages:
                    plane[page].fill_(_POISON)

    def lose(self, sequence: int | None = None, kv_head: int | None = None, block: int | None = None) -> None:
        """Lose planes, as a fault would: of one sequence, KV head or block, or (None) of all of them."""
        if not self.some:
            return
        head = slice(None) if kv_head is None else kv_head
        for s in range(len(self.pages.table)) if sequence is None else [sequence]:
            mine = self.pages.pages(s)
            for page in mine if block is None else mine[block : block + 1]:
                self.present[page, head] = 0
                for side in self.sides:
                    for plane in side:
                        plane[page, head] = _POISON

    def of_blocks(self, pages: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Sum what pages hold now, int64 [n, H]; arguments as those of `Checksums.of_blocks`."""
        heads = self.present.shape[1]
        rows = pages[:, None] * heads + torch.arange(heads, device=pages.device)
        return totals(self.fields(), rows.flatten()).view(-1, heads) + owned(owner)[:, None]

    def write_filled(self, place: torch.Tensor, page: torch.Tensor, block: int) -> None:
        """Keep the checksums of planes that were cut from full tails; arguments as of `Checksums.write_filled`."""
        if not self.some:
            return
        if page.is_cuda:
            from certkv.fast.kernels.planes import write_filled

            write_filled(self, place, page, block)
            return
        filled = (page >= 0).nonzero().flatten()
        owner = filled * self.pages.table.shape[1] + place[filled].to(torch.int64) // block
        self.write_sums(page[filled].to(torch.int64), owner)

    def write_sums(self, pages: torch.Tensor, owner: torch.Tensor) -> None:
        """Keep the checksums of pages that were just encoded."""
        if self.some:
            self.sums[pages] = self.of_blocks(pages, owner)
