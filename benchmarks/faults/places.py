"""Where faults are put: every byte of a cache that counts for a sequence, by field."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from certkv.fast import TieredCache
from certkv.fast.resident import FIRST, TAIL

Place = Callable[[TieredCache, int, random.Random], torch.Tensor]
"""Returns a contiguous part of one of the cache's tensors, drawn for a sequence."""

SCRATCH = "scratch"
"""It holds something only after a step."""

TABLES = ("page table", "length")
"""Fields that say where to read; what they hold may lead out of the pool."""


def _page(name: str) -> Place:
    def place(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
        page = rng.choice(cache.pages.pages(s))
        tensor = cache.pool.tensors()[name]
        return tensor[page, rng.randrange(tensor.shape[1])]  # heads, or one for all of them

    return place


def _held(side: str, slot: int) -> Place:
    def place(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
        tokens = cache.block if slot == FIRST else cache.tokens[s] % cache.block
        store: torch.Tensor = getattr(cache.resident, side)
        return store[s, rng.randrange(cache.kv_heads), slot, :tokens]

    return place


def _norm(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    slot = rng.choice((FIRST, TAIL))
    return cache.resident.norms[s, rng.randrange(cache.kv_heads), slot : slot + 1]


def _original(side: str) -> Place:
    def place(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
        store: torch.Tensor = getattr(cache.originals, side)
        return store[s, rng.randrange(cache.kv_heads), rng.randrange(cache.blocks(s))]

    return place


def _present(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    block = rng.randrange(cache.blocks(s))
    return cache.originals.present[s, rng.randrange(cache.kv_heads), block : block + 1]


def _entry(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    block = rng.randrange(cache.blocks(s))
    return cache.pages.table[s, block : block + 1]


def _length(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    return cache.lengths[s : s + 1]


def _anchor(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    return cache.anchor[s, rng.randrange(cache.kv_heads)]


def _checksum(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    head, sums = rng.randrange(cache.kv_heads), cache.checksums
    block = rng.randrange(cache.blocks(s))
    page, slot = cache.pages.pages(s)[block], rng.randrange(2)
    return rng.choice(
        (
            sums.blocks[page, head : head + 1],
            sums.originals[slot, s, head, block : block + 1],
            sums.resident[s, head, slot : slot + 1],
            sums.lengths[s : s + 1],
        )
    )


def _scratch(cache: TieredCache, s: int, rng: random.Random) -> torch.Tensor:
    """Return a slot that holds something of the sequence, else any."""
    slots = cache.scratch.table[s][cache.scratch.table[s] >= 0].tolist()
    return cache.scratch.pool[rng.choice(slots) if slots else rng.randrange(cache.scratch.slots)]


def fields(cache: TieredCache) -> dict[str, Place]:
    """Return every field by name."""
    return {
        **({SCRATCH: _scratch} if cache.scratch.slots else {}),
        **{name.replace("_", " "): _page(name) for name, tensor in cache.pool.tensors().items() if tensor.numel()},
        "page table": _entry,
        "length": _length,
        "anchor": _anchor,
        "first block, keys": _held("keys", FIRST),
        "first block, values": _held("values", FIRST),
        "tail, keys": _held("keys", TAIL),
        "tail, values": _held("values", TAIL),
        "resident norms": _norm,
        "original keys": _original("keys"),
        "original values": _original("values"),
        "originals present": _present,
        "checksums": _checksum,
    }


def octets(part: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous part."""
    return part.view(-1).view(torch.uint8)


def flip_bit(part: torch.Tensor, rng: random.Random) -> None:
    """Flip one bit."""
    found = octets(part)
    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)


def overwrite(part: torch.Tensor, rng: random.Random) -> None:
    """Write random bytes over up to 32 neighbours, of which at least one changes."""
    found = octets(part)
    size = rng.randint(1, min(32, len(found)))
    at = rng.randint(0, len(found) - size)
    part_of = found[at : at + size]
    part_of ^= torch.tensor([rng.randint(1, 255), *(rng.randrange(256) for _ in range(size - 1))], dtype=torch.uint8)


DAMAGE: dict[str, Callable[[torch.Tensor, random.Random], None]] = {"one bit": flip_bit, "up to 32 bytes": overwrite}
