"""Append one token to every sequence without the host: lengths, tails, pages and originals are the device's business.

For sequence s with n tokens, t = n mod B, in this order; where nothing happens, everything stays as it was::

    refuse   k or v not finite, n = capacity, or t = B - 1 and the next block has no page: a status, and nothing more
             until the host has seen it (`TieredCache.sync`)
    admit    tail[t] = k, v;  its norms (`Resident.norms`);  mu = mean of the tail's values where the first block fills
    encode   where t = B - 1: the tail into its page, as any append does
    turn     where t = B - 1: originals = tail (through their pointer), present = 1, first block kept, tail = NaN
             n = n + 1

Every part is predicated by flags on the device, so that one captured graph serves every token. Pages are reserved
beforehand (`TieredCache.reserve`), since the free list is the host's. Bits are those of the eager append.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from certkv.fast.anchor import first_block_mean
from certkv.fast.certificate import Status
from certkv.fast.checksum import Checksums
from certkv.fast.encode import encode_keys, encode_keys_twin, encode_values, encode_values_twin
from certkv.fast.encode_planes import encode_planes
from certkv.fast.errors import CapacityError, CertkvError, NonFiniteError
from certkv.fast.formats.planar import base_of
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.host import Originals
from certkv.fast.pages import NO_PAGE
from certkv.fast.planes import Planes
from certkv.fast.pool import Pool
from certkv.fast.resident import FIRST, TAIL, Resident, slot_norms

NOT_ADMITTED = -1
"""Place of a token that is not appended."""


@dataclass(frozen=True, eq=False)
class Refusals:
    """Why a sequence takes no more tokens; it stays until the host has seen it, for its next token would follow a gap.

    Attributes
    ----------
    status : int32 [batch]
        A :class:`Status`: NONFINITE_KEY, NONFINITE_VALUE, CAPACITY, or OK.
    position : int64 [batch]
        First offending element of ``k[sequence]`` or ``v[sequence]``, flattened; -1 where there is none.
    """

    status: torch.Tensor
    position: torch.Tensor

    @classmethod
    def none(cls, batch: int, device: torch.device) -> Refusals:
        """Refuse nothing."""
        status = torch.zeros(batch, dtype=torch.int32, device=device)
        return cls(status, torch.full((batch,), -1, dtype=torch.int64, device=device))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.status.nbytes + self.position.nbytes

    def forget(self, sequence: int) -> None:
        """Let a sequence take tokens again."""
        self.status[sequence] = int(Status.OK)
        self.position[sequence] = -1


def refusal(sequence: int, status: int, position: int, head_dim: int) -> CertkvError:
    """Return the error that a status of `Refusals` stands for."""
    if status == Status.CAPACITY:
        return CapacityError(
            f"sequence {sequence} had no room for another token: it is full, or has no page reserved for its next "
            "block; it is as it was before that token. Call cache.sync(), then reserve more, or reset the sequence"
        )
    name = "k" if status == Status.NONFINITE_KEY else "v"
    return NonFiniteError(name, (sequence, *divmod(position, head_dim)))


@dataclass(frozen=True, eq=False)
class Work:
    """What the parts of an append hand to each other; allocated once.

    Attributes
    ----------
    place : int32 [batch]
        n, or `NOT_ADMITTED`.
    page : int32 [batch]
        Page of the block that fills, `NO_PAGE` where none does.
    everyone : uint8 [batch]
        1: every sequence gets a token.
    scratch : float64 [...]
        For operator norms; nothing on a CPU.
    """

    place: torch.Tensor
    page: torch.Tensor
    everyone: torch.Tensor
    scratch: torch.Tensor

    @classmethod
    def empty(cls, batch: int, kv_heads: int, block: int, head_dim: int, device: torch.device) -> Work:
        """Allocate."""
        size = 0
        if device.type == "cuda":
            from certkv.fast.kernels.operator_norm import scratch_size

            size = scratch_size(batch * kv_heads, block, head_dim, device)
        place, page = (torch.full((batch,), fill, dtype=torch.int32, device=device) for fill in (NOT_ADMITTED, NO_PAGE))
        everyone = torch.ones(batch, dtype=torch.uint8, device=device)
        return cls(place, page, everyone, torch.empty(size, dtype=torch.float64, device=device))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


@dataclass(frozen=True, eq=False)
class Held:
    """What a cache holds, as an append writes it; see `TieredCache`."""

    pool: Pool
    keys: str
    values: str
    page_table: torch.Tensor
    lengths: torch.Tensor
    anchor: torch.Tensor
    resident: Resident
    originals: Originals
    refusals: Refusals
    checksums: Checksums
    planes: Planes
    capacity: int

    @property
    def block(self) -> int:
        """Tokens per block."""
        return int(self.pool.residual_codes.shape[-1])


def append_one(k: torch.Tensor, v: torch.Tensor, active: torch.Tensor, held: Held, work: Work) -> None:
    """Append a token to each sequence that is active. Neither allocates nor synchronises on a GPU.

    Parameters
    ----------
    k, v : T [batch, kv_heads, head_dim]
        Post-RoPE key and value of each sequence's next token.
    active : uint8 [batch]
        0 where a sequence gets none; what stands there in ``k`` and ``v`` is never looked at.
    held : Held
    work : Work
    """
    state = (held.lengths, held.anchor, held.resident)
    held.checksums.release(*state)
    if k.is_cuda:
        from certkv.fast.kernels import append_one as kernels

        kernels.admit(k, v, active, held, work)
        encode_tails(held, work)
        held.checksums.write_filled(held.pool, held.resident, work.place, work.page)
        held.planes.write_filled(work.place, work.page, held.block)
        kernels.turn(held, work)
    else:
        admit_twin(k, v, active, held, work)
        encode_tails_twin(held, work)
        held.checksums.write_filled(held.pool, held.resident, work.place, work.page)
        held.planes.write_filled(work.place, work.page, held.block)
        turn_twin(held, work)
    held.checksums.take(*state)


def encode_tails(held: Held, work: Work) -> None:
    """Encode the tails that are full; a page of `NO_PAGE` skips its sequence."""
    keys, values = held.resident.keys[:, :, TAIL], held.resident.values[:, :, TAIL]
    of_keys, of_values = key_format(held.keys), value_format(held.values)
    encode_keys(keys, work.page, held.pool, base_of(of_keys), work.scratch)
    encode_values(values, work.page, held.pool, held.anchor, base_of(of_values), work.scratch)
    encode_planes(keys, values, work.page, held.pool, held.planes, of_keys, of_values, work.scratch)


def encode_tails_twin(held: Held, work: Work) -> None:
    """Twin of `encode_tails`."""
    keys, values = held.resident.keys[:, :, TAIL], held.resident.values[:, :, TAIL]
    of_keys, of_values = key_format(held.keys), value_format(held.values)
    if bool((work.page != NO_PAGE).any()):
        encode_keys_twin(keys, work.page, held.pool, base_of(of_keys))
        encode_values_twin(values, work.page, held.pool, held.anchor, base_of(of_values))
        encode_planes(keys, values, work.page, held.pool, held.planes, of_keys, of_values)


def admit_twin(k: torch.Tensor, v: torch.Tensor, active: torch.Tensor, held: Held, work: Work) -> None:
    """Look at every token, and write those that are fine behind their tails; the twin of ``kernels.append_one.admit``.

    Writes ``work.place`` and ``work.page``, tails with their norms, anchors, and refusals.
    """
    block, resident, refusals = held.block, held.resident, held.refusals
    work.place.fill_(NOT_ADMITTED)
    work.page.fill_(NO_PAGE)
    for s, n in enumerate(held.lengths.tolist()):
        if not bool(active[s]) or int(refusals.status[s]) != Status.OK:
            continue
        full, t = n // block, n % block
        filling = t == block - 1
        page = int(held.page_table[s, full]) if filling and n < held.capacity else NO_PAGE
        status, position = Status.OK, -1
        for code, new in ((Status.NONFINITE_KEY, k[s]), (Status.NONFINITE_VALUE, v[s])):
            bad = ~torch.isfinite(new).flatten()
            if status == Status.OK and bool(bad.any()):
                status, position = code, int(bad.to(torch.uint8).argmax())
        if status == Status.OK and (n >= held.capacity or (filling and page == NO_PAGE)):
            status = Status.CAPACITY
        if status != Status.OK:
            refusals.status[s], refusals.position[s] = int(status), position
            continue
        work.place[s], work.page[s] = n, page
        resident.keys[s, :, TAIL, t], resident.values[s, :, TAIL, t] = k[s], v[s]
        resident.norms[s, :, TAIL] = slot_norms(resident.norms[s, :, TAIL], k[s, None], v[s, None], t)
        if filling and full == 0:
            held.anchor[s] = first_block_mean(resident.values[s, :, TAIL])


def turn_twin(held: Held, work: Work) -> None:
    """Keep the originals of blocks that filled, start their tails anew, and count; the twin of ``turn``."""
    resident, originals = held.resident, held.originals
    for s, (n, page) in enumerate(zip(work.place.tolist(), work.page.tolist(), strict=True)):
        if n == NOT_ADMITTED:
            continue
        if page != NO_PAGE:
            full = n // held.block
            for tier, kept in ((originals.keys, resident.keys), (originals.values, resident.values)):
                tier[s, :, full].copy_(kept[s, :, TAIL])
                if full == 0:
                    kept[s, :, FIRST].copy_(kept[s, :, TAIL])
                kept[s, :, TAIL] = float("nan")
            if full == 0:
                resident.norms[s, :, FIRST] = resident.norms[s, :, TAIL]
            resident.norms[s, :, TAIL] = 0.0
            originals.present[s, :, full] = 1
        held.lengths[s] = n + 1
