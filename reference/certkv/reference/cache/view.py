"""The cache as one query sees it: so many coded blocks, then a tail of originals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
from certkv.reference.cache.host import Side
from certkv.reference.formats import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray

if TYPE_CHECKING:
    from certkv.reference.cache.cache import Cache


@dataclass(frozen=True, eq=False)
class View:
    """One KV head of the cache at one moment.

    Attributes
    ----------
    cache : Cache
    kv_head : int
    blocks : int
        Number of coded blocks visible.
    tokens : int
        Number of tokens visible; those after the coded blocks are the tail.
    """

    cache: Cache
    kv_head: int
    blocks: int
    tokens: int

    @property
    def tail(self) -> int:
        """Number of tokens in the tail."""
        return self.tokens - self.blocks * self.cache.block

    def encoded(self, side: Side) -> Encoded:
        """Codes and metadata of the visible blocks, leading axis [blocks]."""
        return self.cache.encoded(side).take((slice(0, self.blocks), self.kv_head))

    def decoded(self, side: Side) -> FloatArray:
        """Float64 of what the codes mean, one rounding from exact.

        Returns
        -------
        float64 [blocks, block, head_dim]
        """
        return self.cache.format(side).decode(self.encoded(side))

    def key_annotations(self, level: int = 0) -> KeyAnnotations:
        """Annotations of the visible blocks' keys at a coded level, arrays [blocks]."""
        return self.cache.key_annotations(level).take((slice(0, self.blocks), self.kv_head))

    def value_annotations(self, level: int = 0) -> ValueAnnotations:
        """Annotations of the visible blocks' values at a coded level, arrays [blocks]."""
        return self.cache.value_annotations(level).take((slice(0, self.blocks), self.kv_head))

    def plane(self, side: Side, plane: int, blocks: IntArray) -> AnyArray:
        """Return one refinement plane of some blocks, counted from 0, uint8 [n, rows, head_dim].

        Raises
        ------
        HostMissingError
        """
        return self.cache.planes.read(side, plane, self.kv_head, blocks)

    def anchor(self) -> FloatArray | None:
        """Return the anchor, float64 [head_dim]; None before the first block is full."""
        return None if self.blocks == 0 else self.cache.anchor()[self.kv_head]

    def originals(self, side: Side, blocks: IntArray) -> FloatArray:
        """Return promoted originals, through scratch, as float64 (exact).

        Returns
        -------
        float64 [n, block, head_dim]

        Raises
        ------
        HostMissingError
        """
        return self.cache.scratch.fetch(side, self.kv_head, blocks).astype(np.float64)

    def resident(self, side: Side, blocks: IntArray) -> FloatArray:
        """Return originals that the policy pins to the device (no transfer counted), float64 [n, block, head_dim]."""
        return self.cache.host.read(side, self.kv_head, blocks).astype(np.float64)

    def tail_originals(self, side: Side) -> FloatArray:
        """Return the tail as float64 [tail, head_dim]."""
        return self._tail(side).astype(np.float64)

    def all_originals(self, side: Side) -> AnyArray:
        """Return every visible token's original, tail included: what rungs 3 and 4 attend to.

        Returns
        -------
        float16 or bfloat16 [tokens, head_dim]

        Raises
        ------
        HostMissingError
        """
        full = self.cache.scratch.stream(side, self.kv_head, slice(0, self.blocks))
        return np.concatenate([full.reshape(-1, self.cache.head_dim), self._tail(side)])

    def _tail(self, side: Side) -> AnyArray:
        """Return the tail: of the live cache, or (for a past position) the start of blocks that were coded since."""
        if self.blocks == self.cache.blocks:
            return np.asarray(self.cache.tail(side)[: self.tail, self.kv_head])
        if self.tail == 0:
            return np.empty((0, self.cache.head_dim), self.cache.dtype)
        since = np.arange(self.blocks, self.blocks - (-self.tail // self.cache.block))
        blocks = self.cache.host.read(side, self.kv_head, since)
        return np.asarray(blocks.reshape(-1, self.cache.head_dim)[: self.tail])
