"""Verify within a step: what it is about to read is sane, and what it has read is what was written.

`guard` comes first and is small: lengths are compared with their checksums, pages are looked for in the pool, and the
step goes on with copies in which what is wrong is replaced by something that is there, so that no kernel leaves its
memory. `verify` comes last and reads every coded block, what stays on the device, and those originals that the step has
read, once more, at the speed of memory; it compares their checksums (`certkv.fast.checksum`). Both write the first
offender of a sequence, and `withdraw` takes back what the step returns for it.

An offender is ``unit * kv_heads + head``: units are the blocks, then the first block as the device keeps it with the
anchor, then the tail, then the length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from certkv.fast.certificate import Status
from certkv.fast.checksum import Checksums, of_resident, owned, pool_fields, totals_twin
from certkv.fast.choose import EXACT_HEAD, KEYS, VALUES, Choice
from certkv.fast.coded import Coded, grouped
from certkv.fast.damage import HELD_FIRST, HELD_TAIL, LENGTH
from certkv.fast.errors import CorruptionError
from certkv.fast.finish import Result
from certkv.fast.host import Originals
from certkv.fast.levels import SHIFT
from certkv.fast.planes import Planes
from certkv.fast.resident import Resident
from certkv.fast.scratch import Scratch
from certkv.fast.workspace import Workspace

if TYPE_CHECKING:
    from certkv.fast.cache import TieredCache

Verify = Literal["off", "step"]
VERIFY: tuple[Verify, ...] = ("off", "step")

NOBODY = 2**31 - 1
"""Offender where there is none; larger than all others, so that programs keep the smallest."""


class Read(NamedTuple):
    """What says which originals a step has read.

    Attributes
    ----------
    levels : uint8 [batch, Hq, max_blocks]
    action : uint8 [batch, Hq]
    exact : bool
        Whether the step computes heads by rung 3.
    """

    levels: torch.Tensor
    action: torch.Tensor
    exact: bool


def verify_planes_twin(coded: Coded, planes: Planes, levels: torch.Tensor, offender: torch.Tensor) -> None:
    """Compare the checksums of refinement planes that a step has read; the torch twin of ``kernels.planes``.

    Parameters
    ----------
    coded : Coded
    planes : Planes
    levels : uint8 [batch, Hq, max_blocks]
    offender : int32 [batch]
        Lowered where something is wrong.
    """
    heads = planes.present.shape[1]
    read = (grouped(levels, heads) >> SHIFT[0] != 0).any(2)
    unit = torch.arange(levels.shape[-1], device=levels.device)
    s, h, b = (read & (unit < (coded.lengths // coded.block)[:, None])[:, None]).nonzero().unbind(-1)
    page = coded.page_table[s, b].to(torch.int64)
    s, h, b, page = (x[planes.present[page, h] != 0] for x in (s, h, b, page))
    found = totals_twin(planes.fields(), page * heads + h) + owned(s * levels.shape[-1] + b)
    first = torch.full(read.shape, NOBODY, device=levels.device)
    first[s, h, b] = torch.where(found != planes.sums[page, h], b * heads + h, NOBODY)
    offender.copy_(torch.minimum(offender, first.flatten(1).amin(-1).to(torch.int32)))


class Comparison(NamedTuple):
    """Functions of one implementation."""

    guard: Callable[..., None]
    verify: Callable[..., None]
    planes: Callable[..., None]
    withdraw: Callable[..., None]


def twins() -> Comparison:
    """Return what runs on a CPU."""
    return Comparison(guard_twin, verify_twin, verify_planes_twin, withdraw_twin)


def kernels() -> Comparison:
    """Return what runs on a GPU, and in Triton's interpreter."""
    from certkv.fast.kernels import planes, verify

    return Comparison(verify.guard, verify.verify, planes.verify_planes, verify.withdraw)


@dataclass(eq=False)
class Verifier:
    """What a plan holds to compare checksums in every step, planned once.

    Attributes
    ----------
    use : Comparison
    table : int32 [batch, max_blocks]
    lengths : int32 [batch]
        Page table and lengths as steps read them.
    offender : int32 [batch]
    """

    use: Comparison
    table: torch.Tensor
    lengths: torch.Tensor
    offender: torch.Tensor

    @classmethod
    def planned(cls, cache: TieredCache) -> Verifier:
        """Allocate."""
        numbers = torch.zeros_like(cache.lengths)
        use = kernels() if cache.device.type == "cuda" else twins()
        return cls(use, torch.zeros_like(cache.pages.table), numbers, torch.full_like(numbers, NOBODY))

    @property
    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Page table and lengths that a step may read."""
        return self.table, self.lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.table.nbytes + self.lengths.nbytes + self.offender.nbytes

    def before(self, cache: TieredCache, ws: Workspace) -> None:
        """Make the tables harmless."""
        self.offender.fill_(NOBODY)
        ws.levels.zero_()  # a step that ends early leaves those of another step
        pages = len(cache.pool.key_codes)
        settings = (pages, cache.capacity, cache.block)
        self.use.guard(cache.pages.table, cache.lengths, cache.checksums, *settings, *self.tables, self.offender)

    def after(self, cache: TieredCache, coded: Coded, ws: Workspace, choice: Choice, exact: bool, out: Result) -> None:
        """Compare what was read, and take back outputs of sequences in which something is wrong."""
        read = Read(ws.levels, choice.action, exact)
        self.use.verify(coded, cache.resident, cache.originals, cache.scratch, cache.checksums, read, self.offender)
        if cache.planes.some:
            self.use.planes(coded, cache.planes, ws.levels, self.offender)
        self.use.withdraw(self.offender, out)
        if cache.planes.some:
            nothing = (out.certificate.status != int(Status.OK))[..., None]
            out.certificate.plane_bytes.masked_fill_(nothing[..., 0], 0)
            out.certificate.finer.masked_fill_(nothing[..., None], 0)


def offence(sequence: int, offender: int, kv_heads: int, max_blocks: int) -> CorruptionError:
    """Return the error that an offender stands for."""
    unit, head = divmod(offender, kv_heads)
    if unit < max_blocks:
        part = "codes, metadata, annotations, planes, originals or the page table"
        return CorruptionError(sequence, head, unit, part)
    part = (HELD_FIRST, HELD_TAIL, LENGTH)[unit - max_blocks]
    return CorruptionError(sequence, None if part == LENGTH else head, None, part)


def guard_twin(
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    sums: Checksums,
    pages: int,
    capacity: int,
    block: int,
    safe_table: torch.Tensor,
    safe_lengths: torch.Tensor,
    offender: torch.Tensor,
) -> None:
    """Copy page table and lengths, made harmless; the torch twin of ``kernels.verify.guard``.

    Parameters
    ----------
    page_table : int32 [batch, max_blocks]
    lengths : int32 [batch]
    sums : Checksums
    pages, capacity, block : int
        Pages in the pool, most tokens of a sequence, tokens of a block.
    safe_table, safe_lengths
        Written: page 0 in place of what is none, lengths from 1 to the capacity.
    offender : int32 [batch]
        Lowered where something is wrong.
    """
    max_blocks, heads = page_table.shape[1], sums.blocks.shape[1]
    safe_lengths.copy_(lengths.clamp(1, capacity))
    unit = torch.arange(max_blocks, device=lengths.device)
    there = (page_table >= 0) & (page_table < pages)
    wrong = ~there & (unit < (safe_lengths // block)[:, None])
    safe_table.copy_(torch.where(there, page_table, 0))
    first = torch.where(wrong, unit * heads, NOBODY).amin(-1)
    right = (lengths == sums.lengths) & (lengths == safe_lengths)
    first = torch.where(right, first, first.clamp(max=(max_blocks + 2) * heads))
    offender.copy_(torch.minimum(offender, first.to(torch.int32)))


def verify_twin(
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    sums: Checksums,
    read: Read,
    offender: torch.Tensor,
) -> None:
    """Compare checksums; the torch twin of ``kernels.verify.verify``.

    Parameters
    ----------
    coded : Coded
        With the tables that `guard_twin` wrote.
    resident : Resident
    originals : Originals
        Those that the step has read are compared, where they are present.
    scratch : Scratch
        Where it has read those that are in it.
    sums : Checksums
    read : Read
    offender : int32 [batch]
        Lowered where something is wrong.
    """
    heads, max_blocks = sums.blocks.shape[1], coded.page_table.shape[1]
    unit = torch.arange(max_blocks + 2, device=coded.lengths.device)
    valid = unit[:max_blocks] < (coded.lengths // coded.block)[:, None]
    s, b = valid.nonzero().unbind(-1)
    page = coded.page_table[s, b].to(torch.int64)
    rows = page[:, None] * heads + torch.arange(heads, device=page.device)
    found = totals_twin(pool_fields(coded.pool), rows.flatten()).view(-1, heads)
    wrong = torch.zeros(len(valid), heads, max_blocks + 2, dtype=torch.bool, device=valid.device)
    wrong[s, :, b] = found + owned(s * max_blocks + b)[:, None] != sums.blocks[page]
    for side, needed in enumerate(originals_read(coded, read, heads)):
        n, h, at = (needed & (originals.present != 0)).nonzero().unbind(-1)
        store = (originals.keys, originals.values)[side].flatten(0, 2)
        slot = scratch.slot(n, h, at, side)
        held = (slot >= 0) & (slot < scratch.slots)
        found = torch.zeros_like(slot)
        found[held] = totals_twin((scratch.pool,), slot[held])
        found[~held] = totals_twin((store,), ((n * heads + h) * max_blocks + at)[~held])
        wrong[n, h, at] |= found != sums.originals[side, n, h, at]
    wrong[..., max_blocks:] = of_resident(coded.anchor, resident) != sums.resident
    place = unit * heads + torch.arange(heads, device=unit.device)[:, None]
    offender.copy_(torch.minimum(offender, torch.where(wrong, place, NOBODY).flatten(1).amin(-1).to(torch.int32)))


def originals_read(coded: Coded, read: Read, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which originals of keys and of values a step has read, bool [batch, H, max_blocks]."""
    levels = grouped(read.levels, kv_heads)
    unit = torch.arange(levels.shape[-1], device=levels.device)
    full = (unit < (coded.lengths // coded.block)[:, None])[:, None]
    exact = full & (unit >= coded.first) & (grouped(read.action, kv_heads) == EXACT_HEAD).any(2)[..., None] & read.exact
    return ((levels & KEYS) != 0).any(2) | exact, ((levels & VALUES) != 0).any(2) | exact


def withdraw_twin(offender: torch.Tensor, out: Result) -> None:
    """Take back what a step returns for sequences with an offender; the torch twin of ``kernels.verify.withdraw``.

    A status that has to do with what the caller gave (a query or a token that is refused) stays.
    """
    made = out.certificate
    status = made.status[:, 0]
    ours = torch.zeros_like(status, dtype=torch.bool)
    for code in (Status.OK, Status.HOST_MISSING, Status.CHECKSUM, Status.NEEDS_DENSE):
        ours |= status == int(code)
    wrong = (offender != NOBODY) & ours
    out.position.copy_(torch.where(wrong, offender.to(torch.int64), out.position))
    for tensor in (out.output, out.lse):
        tensor.masked_fill_(wrong.view(-1, *[1] * (tensor.ndim - 1)), torch.nan)
    for field in fields(made):
        tensor = getattr(made, field.name)
        blank = int(Status.CHECKSUM) if field.name == "status" else torch.inf if tensor.dtype == torch.float32 else 0
        tensor.masked_fill_(wrong.view(-1, *[1] * (tensor.ndim - 1)), blank)
