"""The level of each block for each head: what was read of it beyond the base plane."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from certkv.reference.cache.host import Side
from certkv.reference.numbers.types import BoolArray, IntArray

SIDES: tuple[Side, Side] = ("keys", "values")


def _unread() -> IntArray:
    return np.zeros((0, 0), np.int64)


def any_row(marks: BoolArray) -> BoolArray:
    """Return the blocks that any row marks, [rows, blocks] -> [blocks]."""
    return np.asarray(marks.any(axis=0))


@dataclass(frozen=True, eq=False)
class Levels:
    """What each head has read of each block. A block is used at its original if that was read, else at its planes.

    Nothing that was read is ever given back: planes that an original has replaced stay here, for they have cost their
    bytes.

    Attributes
    ----------
    keys, values : bool [heads, blocks]
        Originals.
    key_planes, value_planes : int64 [heads, blocks]
        Number of refinement planes; none where they are left out.
    """

    keys: BoolArray
    values: BoolArray
    key_planes: IntArray = field(default_factory=_unread)
    value_planes: IntArray = field(default_factory=_unread)

    def __post_init__(self) -> None:
        for name in ("key_planes", "value_planes"):
            if getattr(self, name).size == 0:
                object.__setattr__(self, name, np.zeros(self.keys.shape, np.int64))

    @classmethod
    def coded(cls, heads: int, blocks: int, pinned: int = 0) -> Levels:
        """Everything at its base plane but the first ``pinned`` blocks, which are original."""
        levels = np.zeros((heads, blocks), np.bool_)
        levels[:, :pinned] = True
        return cls(levels, levels.copy())

    def rows(self, rows: IntArray | BoolArray) -> Levels:
        """Return a copy for some heads."""
        return Levels(self.keys[rows], self.values[rows], self.key_planes[rows], self.value_planes[rows])

    def originals(self, side: Side) -> BoolArray:
        """Return where the original is used, [heads, blocks]."""
        return self.keys if side == "keys" else self.values

    def planes(self, side: Side) -> IntArray:
        """Return the number of planes read, [heads, blocks]."""
        return self.key_planes if side == "keys" else self.value_planes

    def raised(self, side: Side) -> BoolArray:
        """Return where anything beyond the base plane was read, [heads, blocks]."""
        return np.asarray(self.originals(side) | (self.planes(side) > 0))

    def beyond(self, other: Levels) -> BoolArray:
        """Return the heads of which something is read here that the other has not read, [heads]."""
        more = [
            (self.originals(side) & ~other.originals(side)) | (self.planes(side) > other.planes(side)) for side in SIDES
        ]
        return np.asarray((more[0] | more[1]).any(axis=-1))

    def at(self, side: Side, level: int) -> BoolArray:
        """Return where a coded level is used, [heads, blocks]; level 0 is the base."""
        return np.asarray(~self.originals(side) & (self.planes(side) == level))

    def finer(self, side: Side) -> range:
        """Coded levels above the base that may be in use."""
        return range(1, int(self.planes(side).max(initial=0)) + 1)

    def raise_to(self, rows: IntArray, wanted: Levels) -> None:
        """Read more for some heads, in place; what ``wanted`` lacks and these have stays."""
        for side in SIDES:
            self.originals(side)[rows] |= wanted.originals(side)
            self.planes(side)[rows] = np.maximum(self.planes(side)[rows], wanted.planes(side))
