"""What a group reads of refinement planes: each plane of each block at most once in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from certkv.reference.cache import Side, View
from certkv.reference.formats import Encoded
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray


@dataclass(eq=False)
class Finer:
    """The refined levels of one view, read and decoded as they are wanted.

    Attributes
    ----------
    view : View
    heads : int
        Query heads that share it.
    score : callable
        From encoded keys [n] to their scores, float64 [heads, n, block].
    """

    view: View
    heads: int
    score: Callable[[Encoded], FloatArray]
    _planes: dict[tuple[Side, int], AnyArray] = field(init=False, default_factory=dict)
    _have: dict[tuple[Side, int], BoolArray] = field(init=False, default_factory=dict)
    _known: dict[tuple[Side, int], BoolArray] = field(init=False, default_factory=dict)
    _scores: dict[int, FloatArray] = field(init=False, default_factory=dict)
    _values: dict[int, FloatArray] = field(init=False, default_factory=dict)

    def levels(self, side: Side) -> range:
        """Return the coded levels above the base; none before the first block is full."""
        return range(1, self.view.cache.levels(side)) if self.view.blocks else range(0)

    @property
    def any(self) -> bool:
        """Whether either side has a level between base and original."""
        return bool(self.levels("keys")) or bool(self.levels("values"))

    def scores(self, level: int, wanted: BoolArray) -> FloatArray:
        """Make the scores of the wanted blocks available.

        Parameters
        ----------
        level : int
            At least 1.
        wanted : bool [blocks]

        Returns
        -------
        float64 [heads, blocks, block]
            NaN in every block that no call has wanted at this level.

        Raises
        ------
        HostMissingError
        """
        shape = (self.heads, self.view.blocks, self.view.cache.block)
        scores = self._scores.setdefault(level, np.full(shape, np.nan))
        new = self._new("keys", level, wanted)
        if new.any():
            scores[:, new] = self.score(self._encoded("keys", level, new))
        return scores

    def values(self, level: int, wanted: BoolArray) -> FloatArray:
        """Make the decoded values of the wanted blocks available, float64 [blocks, block, head_dim]; else as `scores`.

        Raises
        ------
        HostMissingError
        """
        cache = self.view.cache
        values = self._values.setdefault(level, np.full((self.view.blocks, cache.block, cache.head_dim), np.nan))
        new = self._new("values", level, wanted)
        if new.any():
            values[new] = cache.format("values").decode(self._encoded("values", level, new))
        return values

    def _new(self, side: Side, level: int, wanted: BoolArray) -> BoolArray:
        """Return the wanted blocks that no call has wanted before, and remember them."""
        known = self._known.setdefault((side, level), np.zeros(self.view.blocks, np.bool_))
        new = wanted & ~known
        known |= new
        return np.asarray(new)

    def _encoded(self, side: Side, level: int, blocks: BoolArray) -> Encoded:
        """Return the marked blocks at a level: base plane and the planes that it needs."""
        planes = tuple(self._plane(side, plane, blocks)[blocks] for plane in range(level))
        return replace(self.view.encoded(side).take(blocks), planes=planes)

    def _plane(self, side: Side, plane: int, wanted: BoolArray) -> AnyArray:
        """Make one plane of the wanted blocks available, uint8 [blocks, rows, head_dim]."""
        key = (side, plane)
        have = self._have.setdefault(key, np.zeros(self.view.blocks, np.bool_))
        new = np.flatnonzero(wanted & ~have)
        if new.size:
            found = self.view.plane(side, plane, new)
            held = self._planes.setdefault(key, np.zeros((self.view.blocks, *found.shape[1:]), found.dtype))
            held[new] = found
            have[new] = True
        return self._planes[key]
