"""Scratch: a bounded pool of recently fetched originals on the device. It changes what is moved, never what is read."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from certkv.reference.cache.host import HostTier, Side
from certkv.reference.numbers.types import AnyArray, IntArray

Key = tuple[Side, int, int]


class Scratch:
    """Least-recently-used pool in front of a host tier.

    Slots are filled with NaN until something is fetched into them, so that a slot read by mistake cannot pass.

    Parameters
    ----------
    host : HostTier
    capacity_bytes : int
        Size of the pool; 0 for none.
    """

    def __init__(self, host: HostTier, capacity_bytes: int) -> None:
        self._host = host
        self._slots = capacity_bytes // host.block_bytes
        self._table: OrderedDict[Key, int] = OrderedDict()
        self._pool: AnyArray | None = None
        self.moved_bytes = 0
        """Bytes really moved from the host tier, over the cache's life."""

    @property
    def bytes(self) -> int:
        """Bytes of the pool."""
        return int(self._slots * self._host.block_bytes)

    def fetch(self, side: Side, kv_head: int, blocks: IntArray) -> AnyArray:
        """Return the originals of some blocks, from the pool where they are, else from the host tier.

        Parameters
        ----------
        side : {"keys", "values"}
        kv_head : int
        blocks : int64 [n]

        Returns
        -------
        float16 or bfloat16 [n, block, head_dim]
            A copy, owned by the caller.

        Raises
        ------
        HostMissingError
            A block is in neither.
        """
        found = {int(b): slot for b in blocks if (slot := self.lookup((side, kv_head, int(b)))) is not None}
        missing = np.array([b for b in blocks if int(b) not in found], np.int64)
        fetched = self._host.read(side, kv_head, missing)
        self.moved_bytes += fetched.nbytes
        out = np.empty((len(blocks), *fetched.shape[1:]), fetched.dtype)
        fresh = {int(b): row for b, row in zip(missing, fetched, strict=True)}
        for index, b in enumerate(blocks):
            out[index] = fresh[int(b)] if int(b) in fresh else self._pool_of(fetched)[found[int(b)]]
        for b, row in fresh.items():  # after the copy: storing may evict a block that this very call has found
            self._store((side, kv_head, b), row)
        return out

    def stream(self, side: Side, kv_head: int, blocks: slice) -> AnyArray:
        """Return originals straight from the host tier, past the pool: for rungs 3 and 4, which read everything once.

        Raises
        ------
        HostMissingError
        """
        fetched = self._host.read(side, kv_head, blocks)
        self.moved_bytes += fetched.nbytes
        return fetched

    def lookup(self, key: Key) -> int | None:
        """Return the slot that holds ``key`` and mark it as just used; None where it is not resident."""
        slot = self._table.get(key)
        if slot is not None:
            self._table.move_to_end(key)
        return slot

    def _pool_of(self, like: AnyArray) -> AnyArray:
        """Return the pool, allocated and NaN-filled on first use."""
        if self._pool is None:
            self._pool = np.full((self._slots, *like.shape[1:]), np.nan, like.dtype)
        return self._pool

    def _store(self, key: Key, row: AnyArray) -> None:
        """Put one block into a free slot, or into that of the block unused for longest."""
        if self._slots == 0:
            return
        slot = len(self._table) if len(self._table) < self._slots else self._table.popitem(last=False)[1]
        self._pool_of(row[None])[slot] = row
        self._table[key] = slot
