"""Coded blocks as a step reads them: the pool through the page table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats.planar import Planar, offset
from certkv.fast.formats.registry import key_format, value_format
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
    planar : Planar or None, twice
        Of keys and of values, where there are levels above the base; ``keys`` and ``values`` then name what a pass
        reads, the base.
    """

    pool: Pool
    page_table: torch.Tensor
    lengths: torch.Tensor
    anchor: torch.Tensor
    values: str
    first: int = 0
    keys: str = "int8"
    planar: tuple[Planar | None, Planar | None] = (None, None)

    @property
    def finer(self) -> tuple[int, int]:
        """Levels above the base: of keys, of values."""
        keys, values = (0 if fmt is None else len(fmt.plane_bits) for fmt in self.planar)
        return keys, values

    @property
    def key_offset(self) -> float:
        """What a key's base code stands for beside itself."""
        return 0.0 if self.planar[0] is None else offset(self.planar[0], 0)

    @property
    def value_offset(self) -> float:
        """What a value's base code stands for beside itself."""
        return 0.0 if self.planar[1] is None else offset(self.planar[1], 0)

    @property
    def block(self) -> int:
        """Tokens per block."""
        return int(self.pool.residual_codes.shape[-1])

    @property
    def key_bits(self) -> int:
        """Bits of a key's code."""
        return key_format(self.keys).bits

    @property
    def key_group(self) -> int:
        """Tokens that share a channel's step, from the first of the block on; 0 where all tokens of a block do."""
        return key_format(self.keys).group

    @property
    def key_norms(self) -> int:
        """Norms of a token: 0, 1 for all KV heads, or one for each."""
        return int(self.pool.key_norm.shape[1])

    @property
    def keys_rotated(self) -> bool:
        """Whether steps, minima and codes of keys are in the rotated basis."""
        return key_format(self.keys).rotated

    @property
    def in_halves(self) -> bool:
        """Whether a pass takes half of the channels of keys at a time; see `half_channels`."""
        head_dim, dtype = int(self.anchor.shape[2]), self.pool.key_step.dtype
        return self.key_offset == 0.0 and half_channels(self.key_bits, head_dim, self.block, dtype)

    @property
    def value_bits(self) -> int:
        """Bits of a value's code."""
        return value_format(self.values).bits

    @property
    def value_group(self) -> int:
        """Channels that share a token's step; 0 where all tokens of a block share a channel's."""
        return value_format(self.values).group

    @property
    def values_rotated(self) -> bool:
        """Whether steps, minima and codes of values are in the rotated basis."""
        return value_format(self.values).rotated

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


def by_head(x: torch.Tensor) -> torch.Tensor:
    """View head by head what lies block by block, [batch, H, blocks, G, ...] -> [batch, H, G, blocks, ...]."""
    return x.transpose(2, 3)


def half_channels(key_bits: int, head_dim: int, block: int, dtype: torch.dtype) -> bool:
    """Whether keys of few bits are multiplied in binary16, and both halves of their channels are whole tiles."""
    return key_bits < 8 and head_dim == 128 and block in (64, 128) and dtype == torch.float16
