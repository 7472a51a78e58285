"""Find what was damaged in a cache since it was written, and make good what can be made good.

Truth comes from where a fault does not reach: tokens and pages of every sequence are known to the host, and checksums
(`certkv.fast.checksum`) were taken when data were written. Encoding is deterministic, so that a block that is encoded
again from its originals is the block that was, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from certkv.fast.anchor import first_block_mean
from certkv.fast.checksum import of_resident, totals
from certkv.fast.encode import encode_keys, encode_values
from certkv.fast.encode_planes import encode_planes
from certkv.fast.errors import CorruptionError
from certkv.fast.formats.planar import base_of
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.resident import FIRST, TAIL, slot_norms

if TYPE_CHECKING:
    from certkv.fast.cache import TieredCache

CODED, ORIGINAL_KEYS, ORIGINAL_VALUES = "codes, metadata or annotations", "original keys", "original values"
PAGE, LENGTH = "its entry in the page table", "the length on the device"
SCRATCH = "an original in scratch"
PLANES = "refinement planes"
HELD_FIRST, HELD_TAIL = "the first block as the device keeps it, or the anchor", "the tail"


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written.

    Attributes
    ----------
    sequence : int
    part : str
        What it is.
    block, kv_head : int or None
        None where the thing has none.
    """

    sequence: int
    part: str
    block: int | None = None
    kv_head: int | None = None

    def error(self) -> CorruptionError:
        """Return the error that says so."""
        return CorruptionError(self.sequence, self.kv_head, self.block, self.part)


def find(cache: TieredCache, originals: bool) -> list[Damage]:
    """List everything that is damaged, tables first; synchronises.

    Parameters
    ----------
    cache : TieredCache
    originals : bool
        Whether to read the originals too, which may be slow to reach. Those that are missing are not damaged.
    """
    found: list[Damage] = []
    lengths, copies, tables = (x.tolist() for x in (cache.lengths, cache.checksums.lengths, cache.pages.table))
    for s in range(cache.batch):
        if not lengths[s] == copies[s] == cache.tokens[s]:
            found.append(Damage(s, LENGTH))
        found += [Damage(s, PAGE, b) for b, page in enumerate(cache.pages.pages(s)) if tables[s][b] != page]
    at = _blocks(cache)
    found += [Damage(s, CODED, b, h) for s, b, h in _listed(at, wrong_blocks(cache, at))]
    if cache.planes.some and (originals or cache.planes.place == "device"):
        found += [Damage(s, PLANES, b, h) for s, b, h in _listed(at, wrong_planes(cache, at))]
    for side, part in enumerate((ORIGINAL_KEYS, ORIGINAL_VALUES)):
        if originals:
            found += [Damage(s, part, b, h) for s, b, h in _listed(at, wrong_originals(cache, at, side))]
        found += [Damage(s, SCRATCH, b, h) for s, b, h in _listed(at, wrong_scratch(cache, at, side))]
    wrong = of_resident(cache.anchor, cache.resident) != cache.checksums.resident
    found += [Damage(s, (HELD_FIRST, HELD_TAIL)[slot], None, h) for s, h, slot in wrong.nonzero().tolist()]
    return found


class Blocks(NamedTuple):
    """All coded blocks, int64 [n] each."""

    sequence: torch.Tensor
    block: torch.Tensor
    page: torch.Tensor


def _blocks(cache: TieredCache) -> Blocks:
    """List the blocks that the host knows of."""
    listed = [(s, b, page) for s in range(cache.batch) for b, page in enumerate(cache.pages.pages(s))]
    columns = torch.tensor(listed, dtype=torch.int64, device=cache.device).view(-1, 3)
    return Blocks(*columns.unbind(-1))


def _listed(at: Blocks, wrong: torch.Tensor) -> list[tuple[int, int, int]]:
    """Return sequence, block and KV head of what is wrong, bool [n, H]."""
    i, h = wrong.nonzero().unbind(-1)
    return list(zip(at.sequence[i].tolist(), at.block[i].tolist(), h.tolist(), strict=True))


def wrong_blocks(cache: TieredCache, at: Blocks) -> torch.Tensor:
    """Which coded blocks are damaged, bool [n, H]."""
    owner = at.sequence * cache.max_blocks + at.block
    return cache.checksums.of_blocks(cache.pool, at.page, owner) != cache.checksums.blocks[at.page]


def wrong_planes(cache: TieredCache, at: Blocks) -> torch.Tensor:
    """Which refinement planes are there and damaged, bool [n, H]."""
    owner, planes = at.sequence * cache.max_blocks + at.block, cache.planes
    return (planes.present[at.page] != 0) & (planes.of_blocks(at.page, owner) != planes.sums[at.page])


def _expected(cache: TieredCache, at: Blocks, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of originals and their checksums, int64 [n, H] each; keys are side 0, values side 1."""
    head = torch.arange(cache.kv_heads, device=cache.device)
    rows = (at.sequence[:, None] * cache.kv_heads + head) * cache.max_blocks + at.block[:, None]
    return rows, cache.checksums.originals[side].flatten()[rows]


def wrong_originals(cache: TieredCache, at: Blocks, side: int) -> torch.Tensor:
    """Which originals are there and damaged, bool [n, H]."""
    rows, expected = _expected(cache, at, side)
    store = (cache.originals.keys, cache.originals.values)[side].flatten(0, 2)
    there = cache.originals.present.flatten()[rows] != 0
    return there & (totals((store,), rows.flatten()).view(rows.shape) != expected)


def wrong_scratch(cache: TieredCache, at: Blocks, side: int) -> torch.Tensor:
    """Which originals are damaged where scratch holds them, bool [n, H]; a slot that is none counts."""
    rows, expected = _expected(cache, at, side)
    if not cache.scratch.slots:
        return torch.zeros_like(rows, dtype=torch.bool)
    slot = cache.scratch.table.flatten()[2 * rows + side].to(torch.int64)
    good = slot.clamp(0, cache.scratch.slots - 1)
    now = totals((cache.scratch.pool,), good.flatten()).view(rows.shape)
    return (slot >= 0) & ((slot != good) | (now != expected))


def repair(cache: TieredCache) -> list[Damage]:
    """Make good what can be made good, and return what was damaged; synchronises.

    Refinement planes that are missing, which is no damage, are cut again where their originals are there.

    Raises
    ------
    CorruptionError
        Something is left that cannot be restored, the first of it: originals and tails are the only copies there are.
        All else was made good.
    """
    lengths = [s for s in range(cache.batch) if _restore_length(cache, s)]
    found = [Damage(s, LENGTH) for s in lengths] + find(cache, originals=True)
    lost = {(d.sequence, d.block, d.kv_head) for d in found if d.part in (ORIGINAL_KEYS, ORIGINAL_VALUES)}
    left, again, at = [], [], _blocks(cache)
    if cache.planes.some:
        missing = _listed(at, cache.planes.present[at.page] == 0)
        found += [Damage(s, PLANES, b, h) for s, b, h in missing if _usable(cache, s, b, h, lost)]
    for s in {damage.sequence for damage in found}:
        cache.scratch.clear(s)
    for damage in found:
        s, h, b = damage.sequence, damage.kv_head, damage.block
        if damage.part == LENGTH and s in lengths:
            continue
        if damage.part == PAGE and b is not None:
            cache.pages.table[s, b] = cache.pages.pages(s)[b]
        elif damage.part in (CODED, PLANES) and b is not None and h is not None and _usable(cache, s, b, h, lost):
            again.append((s, b, h))
        elif damage.part == HELD_FIRST and h is not None and _usable(cache, s, 0, h, lost):
            _restore_first(cache, s, h)
        elif damage.part != SCRATCH and not (damage.part == HELD_TAIL and h is not None and _restore_norm(cache, s, h)):
            left.append(damage)
    if again:
        _encode_again(cache, again)
    if left:
        raise left[0].error()
    return found


def _usable(cache: TieredCache, s: int, b: int, h: int, lost: set[tuple[int, int | None, int | None]]) -> bool:
    """Whether a block's originals are there and what they were, and those of the first block, which give the anchor.

    Norms that KV heads share are taken over the originals of all of them.
    """
    if cache.blocks(s) <= b:
        return False
    needed = {(s, b, h), (s, 0, h)}
    if key_format(cache.keys).scope == "joint":
        needed |= {(s, b, other) for other in range(cache.kv_heads)}
    return all(bool(cache.originals.present[i, k, j]) for i, j, k in needed) and not needed & lost


def _restore_length(cache: TieredCache, s: int) -> bool:
    """Take the one of length, its copy and the host's that what is stored bears out; whether they had differed."""
    known = {int(cache.lengths[s]), int(cache.checksums.lengths[s]), cache.tokens[s]}
    if len(known) == 1:
        return False
    # originals are finite, and places of a tail without a token are not
    live = int(torch.isfinite(cache.resident.values[s, 0, TAIL, :, 0]).sum())
    stored = int((cache.originals.present[s, 0] != 0).sum()) * cache.block + live
    if stored not in known:
        return False
    cache.lengths[s] = cache.checksums.lengths[s] = stored
    cache.learn(s, stored)
    return True


def _restore_norm(cache: TieredCache, s: int, h: int) -> bool:
    """Compute the norm of a tail anew; whether that was all that was wrong with it."""
    tokens, resident = cache.tokens[s] % cache.block, cache.resident
    before = resident.norms[s, h, TAIL].clone()
    keys, values = (x[s, h, TAIL, :tokens, None] for x in (resident.keys, resident.values))
    resident.norms[s, h, TAIL] = slot_norms(torch.zeros_like(before)[None], keys, values, 0)[0]
    good = bool(of_resident(cache.anchor, resident)[s, h, TAIL] == cache.checksums.resident[s, h, TAIL])
    if not good:
        resident.norms[s, h, TAIL] = before
    return good


def _restore_first(cache: TieredCache, s: int, h: int) -> None:
    """Read the first block and its anchor from the originals."""
    keys, values = (x[s, h, 0].to(cache.device) for x in (cache.originals.keys, cache.originals.values))
    resident = cache.resident
    resident.keys[s, h, FIRST], resident.values[s, h, FIRST] = keys, values
    none = torch.zeros_like(resident.norms[s, h, FIRST])[None]
    resident.norms[s, h, FIRST] = slot_norms(none, keys[:, None], values[:, None], 0)[0]
    cache.anchor[s, h] = first_block_mean(values)
    cache.checksums.resident[s, h, FIRST] = of_resident(cache.anchor, resident)[s, h, FIRST]


def _encode_again(cache: TieredCache, damaged: list[tuple[int, int, int]]) -> None:
    """Encode blocks from their originals, by sequence, block and KV head; other heads of their pages stay as they are.

    Anchors have been restored: annotations are measured from them.
    """
    blocks = list(dict.fromkeys((s, b) for s, b, _ in damaged))
    s, b = (torch.tensor(column) for column in zip(*blocks, strict=True))
    pages = torch.tensor([cache.pages.pages(i)[j] for i, j in blocks], device=cache.device)
    rewritten = torch.zeros(len(blocks), cache.kv_heads, dtype=torch.bool)
    for i, j, h in damaged:
        rewritten[blocks.index((i, j)), h] = True
    rewritten = rewritten.to(cache.device)
    keys, values = (
        x[s.to(x.device), :, b.to(x.device)].to(cache.device) for x in (cache.originals.keys, cache.originals.values)
    )
    # originals of other heads may be missing, which are NaN; where norms are joint, they are there
    fmt, of_values = key_format(cache.keys), value_format(cache.values)
    joint = fmt.scope == "joint"
    values = torch.where(rewritten[..., None, None], values, 0.0)
    keys = keys if joint else torch.where(rewritten[..., None, None], keys, 0.0)
    kept = {name: tensor[pages] for name, tensor in cache.pool.tensors().items()}
    planes = cache.planes
    held = [(x, x[pages.to(x.device)]) for x in (*planes.keys, *planes.values, planes.present)] if planes.some else []
    encode_keys(keys, pages, cache.pool, base_of(fmt))
    encode_values(values, pages, cache.pool, cache.anchor[s.to(cache.device)], base_of(of_values))
    encode_planes(keys, values, pages, cache.pool, planes, fmt, of_values)
    for name, tensor in cache.pool.tensors().items():
        mine = rewritten.any(1, keepdim=True) if name == "key_norm" and joint else rewritten
        if tensor.shape[1] == 0:
            continue
        mine = mine.view(*mine.shape, *[1] * (tensor.ndim - 2))
        tensor[pages] = torch.where(mine, tensor[pages], kept[name])
    if planes.some and cache.device.type == "cuda":
        torch.cuda.current_stream(cache.device).synchronize()  # kernels have written host memory
    for tensor, before in held:
        mine, to = rewritten.view(*rewritten.shape, *[1] * (tensor.ndim - 2)).to(tensor.device), pages.to(tensor.device)
        tensor[to] = torch.where(mine, tensor[to], before)
    # equal to what they were, unless the checksum itself was what was damaged
    owner = (s * cache.max_blocks + b).to(cache.device)
    now = cache.checksums.of_blocks(cache.pool, pages, owner)
    cache.checksums.blocks[pages] = torch.where(rewritten, now, cache.checksums.blocks[pages])
    if planes.some:
        planes.sums[pages] = torch.where(rewritten, planes.of_blocks(pages, owner), planes.sums[pages])
