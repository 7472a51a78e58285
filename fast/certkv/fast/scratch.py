"""Scratch: a bounded pool on the device of recently fetched originals; it changes what is moved, never what is read.

An *item* is one side (0 keys, 1 values) of one block of one KV head of a sequence. Between kernels ``table[i] = s``, s
not negative, exactly where ``holder[s] = i``, and then slot s holds the original of item i bit for bit. Blocks are
encoded once, so an item does not change until its sequence is reset, which takes it out (`Scratch.clear`).

Before refinement reads, two kernels bring what it will read:

1. `reserve`: items that are resident are marked as used in this step; each other one gets a slot, the next behind the
   hand that is not so marked, whose item is taken out of the table. Where no such slot is left, an item gets none, and
   is read where it is. So what a step needs is never evicted by what else it needs.
2. `fill`: the slots are filled through the pinned pointer, and entered in the table.

Nothing is allocated and nothing waits for the host. Every order is fixed, so that runs repeat. Originals that are
missing are not served from scratch: `Originals.present` is asked first, so that no status depends on what is resident.
Kernels: `certkv.fast.kernels.scratch`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from certkv.fast.choose import Choice
from certkv.fast.coded import grouped
from certkv.fast.errors import SettingError
from certkv.fast.host import Originals, Place
from certkv.fast.refine import needed

NOWHERE = -1
"""Entry of the table for what is not resident, and of a slot that holds nothing."""

HAND, NOW, COUNT = 0, 1, 2
"""What `Scratch.marks` holds: the slot to try next, the number of the step, how many slots are to be filled."""

PLACES_AT_ONCE = 512
"""Places of work lists that `reserve` looks at together."""


def slots_for(scratch_bytes: int, block_bytes: int, place: Place) -> int:
    """Return how many blocks of one side and KV head fit.

    Raises
    ------
    SettingError
        Less than one fits, or originals are on the device already.
    """
    if not scratch_bytes:
        return 0
    if place == "device":
        raise SettingError(
            f"scratch_bytes is {scratch_bytes}, but originals on the device are read in place; give 0, or "
            'originals="host"'
        )
    if scratch_bytes < block_bytes:
        raise SettingError(
            f"scratch_bytes is {scratch_bytes}, but one side of a block of one KV head takes {block_bytes}; give at "
            "least that, or 0 for no scratch"
        )
    return scratch_bytes // block_bytes if block_bytes else 0


@dataclass(frozen=True, eq=False)
class Scratch:
    """Pool and tables; all of them are empty where there is no scratch.

    Steps of one cache that has scratch write to it, so they must be ordered: one stream at a time.

    Attributes
    ----------
    pool : T [slots, B, d]
        NaN in slots that were never filled or whose sequence was reset.
    table : int32 [batch, H, max_blocks, 2]
        Slot of every item, `NOWHERE` where it has none.
    holder : int32 [slots]
        Item of every slot, as an index into the flattened table.
    used : int32 [slots]
        Number of the step that last read or filled it.
    marks : int32 [3]
        `HAND`, `NOW`, `COUNT`.
    listed : int32 [slots, 2]
        Item and slot of what `reserve` leaves to `fill`; ``marks[COUNT]`` of them count.
    """

    pool: torch.Tensor
    table: torch.Tensor
    holder: torch.Tensor
    used: torch.Tensor
    marks: torch.Tensor
    listed: torch.Tensor

    @classmethod
    def empty(
        cls,
        slots: int,
        batch: int,
        kv_heads: int,
        max_blocks: int,
        block: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Scratch:
        """Hold nothing."""

        def numbers(value: int, *shape: int) -> torch.Tensor:
            return torch.full(shape, value, dtype=torch.int32, device=device)

        return cls(
            torch.full((slots, block, head_dim), torch.nan, dtype=dtype, device=device),
            numbers(NOWHERE, batch if slots else 0, kv_heads, max_blocks, 2),
            numbers(NOWHERE, slots),
            numbers(0, slots),
            numbers(0, 3 if slots else 0),
            numbers(NOWHERE, slots, 2),
        )

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.pool)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def clear(self, sequence: int) -> None:
        """Hold nothing of a sequence any more."""
        if not self.slots:
            return
        mine = self.table[sequence]
        gone = (self.holder >= sequence * mine.numel()) & (self.holder < (sequence + 1) * mine.numel())
        self.pool.masked_fill_(gone[:, None, None], torch.nan)
        self.holder.masked_fill_(gone, NOWHERE)
        mine.fill_(NOWHERE)

    def slot(self, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, side: int) -> torch.Tensor:
        """Slots of items, int64 [n]; `NOWHERE` for what is not resident."""
        if not self.slots:
            return torch.full(b.shape, NOWHERE, device=b.device)
        return self.table[b, h, block, side].to(torch.int64)

    def read(
        self, originals: torch.Tensor, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, side: int
    ) -> torch.Tensor:
        """Read items of one side from the pool where they are resident, else from their tier, T [n, B, d]."""
        slot = self.slot(b, h, block, side)
        away = slot == NOWHERE
        found = torch.empty((len(b), *originals.shape[-2:]), dtype=originals.dtype, device=b.device)
        found[~away] = self.pool[slot[~away]]
        found[away] = originals[tuple(x[away].to(originals.device) for x in (b, h, block))].to(b.device)
        return found


def fetch_twin(
    choice: Choice,
    levels: torch.Tensor,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    first: bool,
) -> None:
    """Bring what a round of refinement will read; the torch twin of ``kernels.scratch``. Nothing without scratch.

    Parameters
    ----------
    choice : Choice
        Blocks chosen, and the work list.
    levels : uint8 [batch, Hq, max_blocks]
        Before the round.
    originals : Originals
    scratch : Scratch
        Written.
    moved : int64 [batch]
        Bytes moved for each sequence are added.
    first : bool
        Whether this is the first round of a step.
    """
    if scratch.slots:
        reserve(choice, levels, originals.present, scratch, first)
        fill(originals, scratch, moved)


def reserve(choice: Choice, levels: torch.Tensor, present: torch.Tensor, scratch: Scratch, first: bool) -> None:
    """Mark what is resident, and give slots to what is not."""
    items = asked(choice, levels, present)
    now = scratch.marks[NOW] + int(first)
    resident = scratch.table.flatten()[items].to(torch.int64)
    scratch.used[resident[resident != NOWHERE]] = now
    new = items[resident == NOWHERE]
    behind = (scratch.marks[HAND] + torch.arange(scratch.slots, device=items.device)) % scratch.slots
    victims = behind[scratch.used[behind] != now][: len(new)]
    count = len(victims)
    evict(scratch, victims)
    scratch.used[victims] = now
    scratch.listed[:count] = torch.stack([new[:count], victims], -1).to(torch.int32)
    if count:
        scratch.marks[HAND] = (victims[-1] + 1) % scratch.slots
    scratch.marks[NOW] = now
    scratch.marks[COUNT] = count


def asked(choice: Choice, levels: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Items that a round will read and that are there, int64 [n], in the order in which the kernel meets them."""
    kv_heads, max_blocks = choice.work.shape[1:]
    chosen, level = (grouped(x, kv_heads) for x in (choice.chosen, levels))
    wanted = torch.stack([side.any(2) for side in needed(chosen, level)], -1) & (present != 0)[..., None]
    row, rank = (choice.work.flatten(0, 1) >= 0).nonzero().unbind(-1)
    at_once, ranks = tile(choice.work.shape[0] * kv_heads)
    tiles = (row // at_once) * (max_blocks // ranks + 1) + rank // ranks
    order = torch.argsort((tiles * at_once + row % at_once) * ranks + rank % ranks)
    row = row[order]
    items = (row * max_blocks + choice.work.flatten(0, 1)[row, rank[order]])[:, None] * 2 + torch.arange(
        2, device=row.device
    )
    return items[wanted.flatten()[items]]


def tile(lists: int) -> tuple[int, int]:
    """Return how many work lists, and how many places of each, `reserve` looks at together; powers of two."""
    at_once = min(1 << (lists - 1).bit_length(), PLACES_AT_ONCE // 8)
    return at_once, PLACES_AT_ONCE // at_once


def evict(scratch: Scratch, slots: torch.Tensor) -> None:
    """Take what slots hold out of the table."""
    held = scratch.holder[slots].to(torch.int64)
    scratch.table.view(-1)[held[held != NOWHERE]] = NOWHERE
    scratch.holder[slots] = NOWHERE


def fill(originals: Originals, scratch: Scratch, moved: torch.Tensor) -> None:
    """Copy what was reserved, then enter it."""
    items, slots = scratch.listed[: int(scratch.marks[COUNT])].to(torch.int64).unbind(-1)
    where, side = items // 2, items % 2
    for index, store in enumerate((originals.keys, originals.values)):
        mine = (side == index).nonzero().flatten()
        blocks = store.flatten(0, 2)[where[mine].to(store.device)]
        scratch.pool[slots[mine]] = blocks.to(scratch.pool.device)
    scratch.table.view(-1)[items] = slots.to(torch.int32)
    scratch.holder[slots] = items.to(torch.int32)
    sequences = items // scratch.table[0].numel()
    moved.index_add_(0, sequences, torch.full_like(items, originals.host_block_bytes))
