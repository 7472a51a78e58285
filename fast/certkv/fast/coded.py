"""Coded blocks as a step reads them: the pool through the page table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.pool import VALUE_GROUP, Pool


@dataclass(frozen=True, eq=False)
class Coded:
    """Coded blocks of all sequences of a layer.

    Attributes
    ----------
    pool : Pool
    page_table : int32 [batch, max_blocks]
        What lies beyond a sequence's blocks is not read.
    lengths : int32 [batch]
        Tokens; ``lengths // B`` blocks are coded.
    anchor : float32 [batch, H, d]
        mu.
    values : str
        Name of the value format.
    first : int
        1 where the first block is among the resident tokens instead (`Budget`), otherwise 0.
    """

    pool: Pool
    page_table: torch.Tensor
    lengths: torch.Tensor
    anchor: torch.Tensor
    values: str
    first: int = 0

    @property
    def block(self) -> int:
        """Tokens per block."""
        return int(self.pool.key_codes.shape[2])

    @property
    def value_bits(self) -> int:
        """Bits of a value's code."""
        return 8 if self.pool.value_codes.shape[2] == self.block else 4

    @property
    def value_group(self) -> int:
        """Channels that share a token's step; 0 where all tokens of a block share a channel's."""
        return VALUE_GROUP.get(self.values, 0)

    def valid(self) -> torch.Tensor:
        """Which blocks a step certifies, bool [batch, 1, 1, max_blocks]."""
        at = torch.arange(self.page_table.shape[1], device=self.lengths.device)
        some = (at >= self.first) & (at < (self.lengths // self.block)[:, None])
        return some[:, None, None, :]

    def gather(self, field: torch.Tensor) -> torch.Tensor:
        """Read a field of the pool, [P, H, ...] -> [batch, H, max_blocks, ...]; page 0 in place of blocks not valid."""
        pages = torch.where(self.valid()[:, 0, 0], self.page_table, 0).to(torch.int64)
        return field[pages].movedim(2, 1)


def grouped(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Split query heads by the KV head they share, [batch, Hq, ...] -> [batch, H, G, ...]."""
    return x.view(x.shape[0], kv_heads, x.shape[1] // kv_heads, *x.shape[2:])
