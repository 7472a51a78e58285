"""Find what was damaged in a cache since it was written, and make good what can be made good.

Truth comes from where a fault does not reach: tokens and pages of every sequence are known to the host, and checksums
(`certkv.fast.checksum`) were taken when data were written. Encoding is deterministic, so that a block that is encoded
again from its originals is the block that was, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from certkv.fast.anchor import first_block_mean
from certkv.fast.checksum import of_resident, totals
from certkv.fast.encode import encode_keys, encode_values
from certkv.fast.errors import CorruptionError
from certkv.fast.formats import VALUE_FORMATS
from certkv.fast.resident import FIRST, TAIL, norms_ub

if TYPE_CHECKING:
    from certkv.fast.cache import TieredCache

CODED, ORIGINAL_KEYS, ORIGINAL_VALUES = "codes, metadata or annotations", "original keys", "original values"
PAGE, LENGTH = "its entry in the page table", "the length on the device"
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
    """List everything that is damaged, in the order of sequences; synchronises.

    Parameters
    ----------
    cache : TieredCache
    originals : bool
        Whether to read the originals too, which may be slow to reach. Those that are missing are not damaged.
    """
    found: list[Damage] = []
    lengths, copies, tables = (x.tolist() for x in (cache.lengths, cache.checksums.lengths, cache.pages.table))
    held = (of_resident(cache.anchor, cache.resident) != cache.checksums.resident).tolist()
    for s in range(cache.batch):
        if not lengths[s] == copies[s] == cache.tokens[s]:
            found.append(Damage(s, LENGTH))
        pages, blocks = cache.pages.pages(s), cache.blocks(s)
        found += [Damage(s, PAGE, b) for b in range(blocks) if tables[s][b] != pages[b]]
        at = torch.tensor(pages[:blocks], dtype=torch.int64, device=cache.device)
        found += [Damage(s, CODED, b, h) for b, h in wrong_blocks(cache, s, at).nonzero().tolist()]
        if originals:
            for side, part in enumerate((ORIGINAL_KEYS, ORIGINAL_VALUES)):
                found += [Damage(s, part, b, h) for h, b in wrong_originals(cache, s, side).nonzero().tolist()]
        for h in range(cache.kv_heads):
            found += [
                Damage(s, part, None, h) for part, bad in zip((HELD_FIRST, HELD_TAIL), held[s][h], strict=True) if bad
            ]
    return found


def wrong_blocks(cache: TieredCache, sequence: int, pages: torch.Tensor) -> torch.Tensor:
    """Which coded blocks of a sequence are damaged; its pages, int64 [blocks] -> bool [blocks, H]."""
    owner = sequence * cache.max_blocks + torch.arange(len(pages), device=pages.device)
    return cache.checksums.of_blocks(cache.pool, pages, owner) != cache.checksums.blocks[pages]


def wrong_originals(cache: TieredCache, sequence: int, side: int) -> torch.Tensor:
    """Which originals of a sequence are there and damaged, bool [H, blocks]; keys are side 0, values side 1."""
    blocks, store = cache.blocks(sequence), (cache.originals.keys, cache.originals.values)[side]
    head = sequence * cache.kv_heads + torch.arange(cache.kv_heads, device=cache.device)
    rows = head[:, None] * cache.max_blocks + torch.arange(blocks, device=cache.device)
    now = totals((store.flatten(0, 2),), rows.flatten()).view(rows.shape)
    there = cache.originals.present[sequence, :, :blocks] != 0
    return there & (now != cache.checksums.originals[side, sequence, :, :blocks])


def repair(cache: TieredCache) -> list[Damage]:
    """Make good what can be made good, and return what was damaged; synchronises.

    Raises
    ------
    CorruptionError
        Something is left that cannot be restored, the first of it: originals and tails are the only copies there are.
        All else was made good.
    """
    found = find(cache, originals=True)
    lost = {(d.sequence, d.block, d.kv_head) for d in found if d.part in (ORIGINAL_KEYS, ORIGINAL_VALUES)}
    left = []
    for damage in found:
        s, h, b = damage.sequence, damage.kv_head, damage.block
        if damage.part == LENGTH:
            cache.lengths[s] = cache.checksums.lengths[s] = cache.tokens[s]
        elif damage.part == PAGE and b is not None:
            cache.pages.table[s, b] = cache.pages.pages(s)[b]
        elif damage.part == HELD_TAIL and h is not None and _restore_norm(cache, s, h):
            continue
        elif damage.part == HELD_FIRST and h is not None and _usable(cache, s, 0, h, lost):
            _restore_first(cache, s, h)
        elif damage.part != CODED or b is None or h is None or not _usable(cache, s, b, h, lost):
            left.append(damage)
    # blocks come last: their annotations are measured from the anchor
    for damage in found:
        s, h, b = damage.sequence, damage.kv_head, damage.block
        if damage.part == CODED and b is not None and h is not None and damage not in left:
            _encode_again(cache, s, b, h)
    if left:
        raise left[0].error()
    return found


def _usable(cache: TieredCache, s: int, b: int, h: int, lost: set[tuple[int, int | None, int | None]]) -> bool:
    """Whether the originals of a block are there and what they were; of an anchor, those of the first block."""
    there = cache.blocks(s) > b and bool(cache.originals.present[s, h, b] != 0)
    return there and (s, b, h) not in lost and (s, 0, h) not in lost


def _originals(cache: TieredCache, s: int, b: int, h: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Originals of a block and KV head on the device, T [B, d] each."""
    return cache.originals.keys[s, h, b].to(cache.device), cache.originals.values[s, h, b].to(cache.device)


def _restore_norm(cache: TieredCache, s: int, h: int) -> bool:
    """Compute the norm of a tail anew; whether that was all that was wrong with it."""
    tokens, resident = cache.tokens[s] % cache.block, cache.resident
    before = resident.norms[s, h, TAIL].clone()
    resident.norms[s, h, TAIL] = norms_ub(resident.values[s, h, TAIL, :tokens]).amax() if tokens else 0.0
    good = bool(of_resident(cache.anchor, resident)[s, h, TAIL] == cache.checksums.resident[s, h, TAIL])
    if not good:
        resident.norms[s, h, TAIL] = before
    return good


def _restore_first(cache: TieredCache, s: int, h: int) -> None:
    """Read the first block and its anchor from the originals."""
    keys, values = _originals(cache, s, 0, h)
    resident = cache.resident
    resident.keys[s, h, FIRST], resident.values[s, h, FIRST] = keys, values
    resident.norms[s, h, FIRST] = norms_ub(values).amax()
    cache.anchor[s, h] = first_block_mean(values)
    cache.checksums.resident[s, h, FIRST] = of_resident(cache.anchor, resident)[s, h, FIRST]


def _encode_again(cache: TieredCache, s: int, b: int, h: int) -> None:
    """Encode a block of one KV head from its originals; other heads of its page stay as they are."""
    page = cache.pages.pages(s)[b]
    to = torch.tensor([page], dtype=torch.int32, device=cache.device)
    kept = {name: tensor[page].clone() for name, tensor in cache.pool.tensors().items()}
    keys, values = (x[None, None].expand(1, cache.kv_heads, -1, -1).contiguous() for x in _originals(cache, s, b, h))
    encode_keys(keys, to, cache.pool)
    encode_values(values, to, cache.pool, cache.anchor[s][None], VALUE_FORMATS[cache.values])
    for name, tensor in cache.pool.tensors().items():
        for other in range(cache.kv_heads):
            if other != h:
                tensor[page, other] = kept[name][other]
    owner = torch.tensor([s * cache.max_blocks + b], device=cache.device)
    # equal to what it was, unless the checksum itself was what was damaged
    cache.checksums.blocks[page, h] = cache.checksums.of_blocks(cache.pool, to.to(torch.int64), owner)[0, h]
