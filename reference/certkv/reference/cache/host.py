"""The host tier: the 16-bit originals of every full block, never dropped by us, allocated as tokens arrive."""

from __future__ import annotations

from typing import Literal

import numpy as np

from certkv.reference.errors import HostMissingError
from certkv.reference.numbers.types import AnyArray, BoolArray, IntArray

Side = Literal["keys", "values"]


class HostTier:
    """Originals of full blocks, ``[blocks, kv_heads, block, head_dim]`` for keys and for values.

    A block that is missing is an error wherever it is asked for (precondition P4); there is no substitute for it.
    """

    def __init__(self, kv_heads: int, block: int, head_dim: int, dtype: np.dtype[np.generic]) -> None:
        empty = np.empty((0, kv_heads, block, head_dim), dtype)
        self._store: dict[Side, AnyArray] = {"keys": empty, "values": empty.copy()}
        self._present: dict[Side, BoolArray] = {
            "keys": np.empty((0, kv_heads), np.bool_),
            "values": np.empty((0, kv_heads), np.bool_),
        }

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of one side and KV head."""
        store = self._store["keys"]
        return int(store.shape[2] * store.shape[3] * store.dtype.itemsize)

    @property
    def blocks(self) -> int:
        """Blocks stored, lost ones included."""
        return len(self._store["keys"])

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(store.nbytes for store in self._store.values())

    def append(self, keys: AnyArray, values: AnyArray) -> None:
        """Store full blocks.

        Parameters
        ----------
        keys, values : float16 or bfloat16 [blocks, kv_heads, block, head_dim]
        """
        sides: tuple[tuple[Side, AnyArray], ...] = (("keys", keys), ("values", values))
        stored = {side: np.concatenate([self._store[side], blocks]) for side, blocks in sides}
        held = {
            side: np.concatenate([self._present[side], np.ones(blocks.shape[:2], np.bool_)]) for side, blocks in sides
        }
        # both sides or, where memory ran out above, neither
        self._store, self._present = stored, held

    def read(self, side: Side, kv_head: int, blocks: IntArray | slice) -> AnyArray:
        """Return originals of the given blocks of one KV head.

        Parameters
        ----------
        side : {"keys", "values"}
        kv_head : int
        blocks : int64 [n] or slice
            A slice has a stop and no step.

        Returns
        -------
        float16 or bfloat16 [n, block, head_dim]

        Raises
        ------
        HostMissingError
            One of the blocks was lost or never stored.
        """
        present = self._present[side][:, kv_head]
        # a slice past the end names blocks that are not there, which must not go unnoticed
        wanted = np.arange(blocks.start or 0, blocks.stop) if isinstance(blocks, slice) else blocks
        beyond = wanted[(wanted < 0) | (wanted >= len(present))]
        if beyond.size:
            raise HostMissingError(kv_head, int(beyond[0]))
        lost = wanted[~present[wanted]]
        if lost.size:
            raise HostMissingError(kv_head, int(lost[0]))
        return np.asarray(self._store[side][wanted, kv_head])

    def lose(self, kv_head: int | None = None, block: int | None = None) -> None:
        """Lose originals, as a fault would: those of one KV head, one block, or (both None) all of them."""
        rows = slice(None) if block is None else block
        columns = slice(None) if kv_head is None else kv_head
        for side in self._present:
            self._present[side][rows, columns] = False
            self._store[side][rows, columns] = np.nan  # what is lost must not be readable by accident
