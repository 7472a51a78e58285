"""Coded blocks as a step reads them: the pool through the page table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.fast.pool import Pool


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
    keys : str
        Name of the key format.
    """

    pool: Pool
    page_table: torch.Tensor
    lengths: torch.Tensor
    anchor: torch.Tensor
    values: str
    first: int = 0
    keys: str = "int8"

    @property
    def block(self) -> int:
        """Tokens per block."""
        return int(self.pool.residual_codes.shape[-1])

    @property
    def key_bits(self) -> int:
        """Bits of a key's code."""
        return KEY_FORMATS[self.keys].bits

    @property
    def key_group(self) -> int:
        """Tokens that share a channel's step, from the first of the block on; 0 where all tokens of a block do."""
        return KEY_FORMATS[self.keys].group

    @property
    def key_norms(self) -> int:
        """Norms of a token: 0, 1 for all KV heads, or one for each."""
        return int(self.pool.key_norm.shape[1])

    @property
    def keys_rotated(self) -> bool:
        """Whether steps, minima and codes of keys are in the rotated basis."""
        return KEY_FORMATS[self.keys].rotated

    @property
    def value_bits(self) -> int:
        """Bits of a value's code."""
        return VALUE_FORMATS[self.values].bits

    @property
    def value_group(self) -> int:
        """Channels that share a token's step; 0 where all tokens of a block share a channel's."""
        return VALUE_FORMATS[self.values].group

    @property
    def values_rotated(self) -> bool:
        """Whether steps, minima and codes of values are in the rotated basis."""
        return VALUE_FORMATS[self.values].rotated

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
