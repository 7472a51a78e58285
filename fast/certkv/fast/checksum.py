r"""Checksums: what was written is what is read, or a step says that it is not (docs/faults.md).

The words of a record (little-endian, 32 bits, the last one of a field filled up with zeros) are summed with weights::

    S  =  sum_i  m_i w_i   mod 2^64          m_i odd, below 2^32, no two of them equal

Addition of integers that wrap has no order, so any number of threads sums in any order to the same bits. Certain
to change S, whatever the other words are:

1. any change of one word: ``m d`` with ``0 < |d| < 2^32`` is not 0 and below 2^64 in magnitude;
2. two words changing places: ``(m_i - m_j)(w_j - w_i)``, likewise;
3. any two flipped bits: within one word that is 1, otherwise ``m_i 2^a +- m_j 2^b`` is, with a < b, ``2^a`` times an
   odd number, a < 32, and with a = b ``2^a (m_i +- m_j)``, which is not 0 and below ``2^31 2^33``.

Any other damage passes for at most one in 2^31 of the possible values of each weight it meets. Weights are a bijection
of the index that mixes it, so rows that change places are no special case.

What has a checksum (`Checksums`): every page and KV head, with its owner (sequence and block) as one more word, so that
a page table that points elsewhere is noticed; every original block of keys and of values; what stays on the device in
16 bits, with norms and anchor; the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from certkv.fast.pool import Pool
from certkv.fast.resident import FIRST, TAIL, Resident

M31 = 0x7FFF_FFFF
FACTORS = (0x2C1B3C6D, 0x297A2D39)
"""Odd, so that multiplying by them modulo 2^31 is a bijection."""

SHIFT = 15
OWNER = M31
"""Index of the word that says whose a page is."""

_WORDS_AT_ONCE = 1 << 22
"""Words that a twin holds at once, as int64."""


def weight(index: torch.Tensor) -> torch.Tensor:
    """Return the weights of word indices below 2^31, int64: odd, below 2^32, and different for different indices."""
    x = index
    for factor in FACTORS:
        x = (x * factor) & M31
        x = x ^ (x >> SHIFT)
    return 2 * x + 1


def words(field: torch.Tensor) -> torch.Tensor:
    """Return the words of records of a field, [n, ...] of any type -> int64 [n, words], from 0 to 2^32 - 1."""
    if not field.numel():
        return torch.zeros(len(field), 0, dtype=torch.int64, device=field.device)
    held = field.reshape(len(field), -1).contiguous().view(torch.uint8)
    missing = -held.shape[1] % 4
    if missing:
        held = torch.nn.functional.pad(held, (0, missing))
    return held.view(torch.int32).to(torch.int64) & 0xFFFF_FFFF


def sizes(of: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Bytes of one record of each field."""
    return tuple(field.shape[1:].numel() * field.element_size() for field in of)


def starts(bytes_of: Sequence[int], first: int = 0) -> tuple[int, ...]:
    """Index of the first word of each field: fields follow each other, each from a word of its own."""
    at, found = first, []
    for size in bytes_of:
        found.append(at)
        at += -(-size // 4)
    return tuple(found)


def shares(of: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Return how many records share one of each field."""
    return tuple(len(of[0]) // max(1, len(field)) for field in of)


def totals_twin(of: Sequence[torch.Tensor], rows: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Sum records; the torch twin of ``kernels.checksum.totals``.

    Parameters
    ----------
    of : tensors [R, ...]
        The fields of a record, contiguous. Of R/n only, if n records that follow each other share a field; not the
        first one.
    rows : int64 [n]
        Which records.
    first : int
        Index of the first word.

    Returns
    -------
    int64 [n]
    """
    out = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for field, begin, size, share in zip(of, starts(sizes(of), first), sizes(of), shares(of), strict=True):
        factors = weight(torch.arange(begin, begin + -(-size // 4), device=rows.device))
        at_once = max(1, _WORDS_AT_ONCE // max(1, len(factors)))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            held = words(field[(rows[part] // share).to(field.device)]).to(rows.device)
            out[part] += (held * factors).sum(-1)
    return out


def totals(of: Sequence[torch.Tensor], rows: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Sum records where they are, by kernels on a GPU (host memory through its pinned pointer); see `totals_twin`."""
    if rows.is_cuda:
        from certkv.fast.kernels.checksum import totals as kernel

        return kernel(of, rows, first)
    return totals_twin(of, rows, first)


def pool_fields(pool: Pool) -> tuple[torch.Tensor, ...]:
    """Return all that is stored of a page and KV head, [P H, ...] each, in the order of the pool.

    What all KV heads share is [P, ...], and what there is none of is left out.
    """
    return tuple(tensor.flatten(0, 1) for tensor in pool.tensors().values() if tensor.shape[1])


def resident_fields(resident: Resident) -> tuple[torch.Tensor, ...]:
    """Return what stays on the device, [batch H 2, ...] each; free places count as they are."""
    return tuple(tensor.flatten(0, 2) for tensor in (resident.keys, resident.values, resident.norms))


def owners(sequence: int, blocks: torch.Tensor, max_blocks: int) -> torch.Tensor:
    """Return the word that says whose a page is."""
    return sequence * max_blocks + blocks


def owned(owner: torch.Tensor) -> torch.Tensor:
    """Return what the owner adds to a page's checksum, int64."""
    return owner.to(torch.int64) * weight(torch.tensor(OWNER, device=owner.device))


@dataclass(frozen=True, eq=False)
class Checksums:
    """Checksums of a cache, on the device.

    Attributes
    ----------
    blocks : int64 [P, H]
        0 for pages that are free.
    originals : int64 [2, batch, H, max_blocks]
        Keys, then values; 0 where nothing was stored.
    resident : int64 [batch, H, 2]
        Slots, the first with the anchor.
    lengths : int32 [batch]
        The lengths, once more.
    """

    blocks: torch.Tensor
    originals: torch.Tensor
    resident: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def empty(cls, batch: int, kv_heads: int, max_blocks: int, pages: int, device: torch.device) -> Checksums:
        """Allocate; all are 0, those of what holds nothing are still to be taken."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            zeros(pages, kv_heads),
            zeros(2, batch, kv_heads, max_blocks),
            zeros(batch, kv_heads, 2),
            torch.zeros(batch, dtype=torch.int32, device=device),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def of_blocks(self, pool: Pool, pages: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Sum what pages hold now.

        Parameters
        ----------
        pages : int64 [n]
        owner : int64 [n]
            `owners` of each.

        Returns
        -------
        int64 [n, H]
        """
        heads = self.blocks.shape[1]
        rows = pages[:, None] * heads + torch.arange(heads, device=pages.device)
        return totals(pool_fields(pool), rows.flatten()).view(-1, heads) + owned(owner)[:, None]

    def write_blocks(self, pool: Pool, pages: torch.Tensor, owner: torch.Tensor) -> None:
        """Keep the checksums of pages that were just encoded; arguments as those of `of_blocks`."""
        self.blocks[pages] = self.of_blocks(pool, pages, owner)

    def write_originals(self, sequence: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the checksums of originals, taken on the device, before they are copied anywhere.

        Parameters
        ----------
        keys, values : T [H, n, B, d]
            Contiguous, on the device.
        """
        for side, blocks in enumerate((keys, values)):
            flat = blocks.flatten(0, 1)
            found = totals((flat,), torch.arange(len(flat), device=flat.device))
            self.originals[side, sequence, :, start : start + blocks.shape[1]] = found.view(blocks.shape[:2])

    def write_filled(self, pool: Pool, resident: Resident, place: torch.Tensor, page: torch.Tensor) -> None:
        """Keep the checksums of blocks that were encoded from full tails, and of these; for appends within a graph.

        Parameters
        ----------
        pool : Pool
        resident : Resident
            Whose tails are still there.
        place : int32 [batch]
            Tokens of each sequence before its tail was full; its block is ``place // B``.
        page : int32 [batch]
            Where each was encoded; negative for sequences in which no block fills.
        """
        if page.is_cuda:
            from certkv.fast.kernels.checksum import write_filled

            write_filled(self, pool, resident, place, page)
            return
        write_filled_twin(self, pool, resident, place, page)

    def forget(self, pages: Sequence[int], sequence: int, start: int, stop: int) -> None:
        """Forget pages, and originals of a sequence; nothing is allocated."""
        for page in pages:
            self.blocks[page].zero_()
        self.originals[:, sequence, :, start:stop].zero_()

    def start(self, sequence: int, anchor: torch.Tensor, resident: Resident) -> None:
        """Take the checksums of a sequence that holds nothing."""
        self.resident[sequence] = of_resident(anchor, resident)[sequence]
        self.lengths[sequence] = 0

    def release(self, lengths: torch.Tensor, anchor: torch.Tensor, resident: Resident) -> None:
        """Take what is there off; what was damaged before stays in the difference, and so is not made good."""
        self._resident(lengths, anchor, resident, -1)

    def take(self, lengths: torch.Tensor, anchor: torch.Tensor, resident: Resident) -> None:
        """Add what is there: ``release``, a change, ``take`` keeps checksums of tails, anchors and lengths right.

        On a GPU neither allocates or synchronises, so that an append within a graph may use them.
        """
        self._resident(lengths, anchor, resident, 1)

    def _resident(self, lengths: torch.Tensor, anchor: torch.Tensor, resident: Resident, sign: int) -> None:
        if lengths.is_cuda:
            from certkv.fast.kernels.checksum import add_resident

            add_resident(self, lengths, anchor, resident, sign)
            return
        add_resident_twin(self, lengths, anchor, resident, sign)


def of_resident(anchor: torch.Tensor, resident: Resident) -> torch.Tensor:
    """Sum what stays on the device, int64 [batch, H, 2]; the anchor follows the first block's words."""
    shape = resident.norms.shape[:3]
    held = resident_fields(resident)
    found = totals(held, torch.arange(len(held[0]), device=anchor.device)).view(shape)
    rows = torch.arange(shape[0] * shape[1], device=anchor.device)
    found[..., FIRST] += totals((anchor.flatten(0, 1),), rows, anchor_start(resident)).view(shape[:2])
    return found


def anchor_start(resident: Resident) -> int:
    """Index of the anchor's first word: it follows those of the first block."""
    return sum(-(-size // 4) for size in sizes(resident_fields(resident)))


def write_filled_twin(sums: Checksums, pool: Pool, resident: Resident, place: torch.Tensor, page: torch.Tensor) -> None:
    """Twin of ``kernels.checksum.write_filled``; see `Checksums.write_filled`."""
    filled = (page >= 0).nonzero().flatten()
    if not len(filled):
        return
    block = place[filled].to(torch.int64) // resident.keys.shape[-2]
    sums.write_blocks(pool, page[filled].to(torch.int64), filled * sums.originals.shape[-1] + block)
    heads = sums.blocks.shape[1]
    rows = (filled[:, None] * heads + torch.arange(heads, device=page.device)) * 2 + TAIL
    for side, store in enumerate((resident.keys, resident.values)):
        found = totals_twin((store.flatten(0, 2),), rows.flatten()).view(rows.shape)
        sums.originals[side, filled, :, block] = found


def add_resident_twin(
    sums: Checksums, lengths: torch.Tensor, anchor: torch.Tensor, resident: Resident, sign: int
) -> None:
    """Add, or take off, what is there of every sequence; the torch twin of ``kernels.checksum.add_resident``."""
    sums.resident.add_(of_resident(anchor, resident), alpha=sign)
    sums.lengths.add_(lengths, alpha=sign)
