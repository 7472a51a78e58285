"""Refinement planes of every full block, on the device or in host memory, read block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from certkv.reference.cache.host import Side
from certkv.reference.errors import HostMissingError, SettingError
from certkv.reference.numbers.types import AnyArray, BoolArray, IntArray

Place = Literal["device", "host"]
PLACES: tuple[Place, ...] = ("device", "host")
TIERS: dict[Place, str] = {"device": "device memory", "host": "the host tier"}


class PlaneStore:
    """Planes of both sides, each ``[blocks, kv_heads, rows, head_dim]``.

    What lies in host memory is moved when it is read, and counted; a plane that was lost is an error wherever it
    is asked for, like an original (precondition P4).

    Parameters
    ----------
    place : {"device", "host"}

    Raises
    ------
    SettingError
        No such place.
    """

    def __init__(self, place: Place) -> None:
        if place not in PLACES:
            raise SettingError(f"planes is {place!r}; give one of {', '.join(PLACES)}")
        self.place = place
        self._store: dict[Side, tuple[AnyArray, ...]] = {"keys": (), "values": ()}
        self._present: dict[Side, tuple[BoolArray, ...]] = {"keys": (), "values": ()}
        self.moved_bytes = 0
        """Bytes really moved from host memory, over the cache's life."""

    @property
    def bytes(self) -> int:
        """Bytes held, wherever they lie."""
        return sum(plane.nbytes for planes in self._store.values() for plane in planes)

    def joined(self, new: Mapping[Side, tuple[AnyArray, ...]]) -> PlaneStore:
        """Return the store with the planes of more blocks at the end; this one stays as it is."""
        grown = PlaneStore(self.place)
        grown.moved_bytes = self.moved_bytes
        for side, planes in new.items():
            there = [np.ones(plane.shape[:2], np.bool_) for plane in planes]
            held, present = self._store[side], self._present[side]
            grown._store[side] = tuple(_appended(held, planes))
            grown._present[side] = tuple(_appended(present, there))
        return grown

    def read(self, side: Side, plane: int, kv_head: int, blocks: IntArray) -> AnyArray:
        """Return one plane of some blocks of one KV head.

        Parameters
        ----------
        side : {"keys", "values"}
        plane : int
            Counted from 0: plane l takes level l to level l + 1.
        kv_head : int
        blocks : int64 [n]

        Returns
        -------
        uint8 [n, rows, head_dim]

        Raises
        ------
        HostMissingError
            A block's plane was lost.
        """
        lost = blocks[~self._present[side][plane][blocks, kv_head]]
        if lost.size:
            what = f"refinement plane {plane + 1} of the {side}"
            raise HostMissingError(kv_head, int(lost[0]), what, TIERS[self.place])
        found = np.asarray(self._store[side][plane][blocks, kv_head])
        if self.place == "host":
            self.moved_bytes += found.nbytes
        return found

    def lose(self, kv_head: int | None = None, block: int | None = None) -> None:
        """Lose planes, as a fault would: those of one KV head, one block, or (both None) all of them."""
        where = (slice(None) if block is None else block, slice(None) if kv_head is None else kv_head)
        for side in self._present:
            for present, plane in zip(self._present[side], self._store[side], strict=True):
                present[where] = False
                plane[where] = 0xA5  # there is no NaN among bytes; presence is what protects


def _appended(held: tuple[AnyArray, ...], new: tuple[AnyArray, ...] | list[BoolArray]) -> list[AnyArray]:
    return [np.concatenate(pair) for pair in zip(held, new, strict=True)] if held else list(new)
