"""Sizes that kernels are compiled for; none of them is a length."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from certkv.fast.coded import Coded

LOOKED_AHEAD = 4
"""Blocks of a program from which loading ahead pays; on an H200 a pass took 14.2 us with it and 12.5 without where each
had one block, 75 and 94 where each had 15."""

SHARED_BYTES = 32768
"""Codes that a program may keep in shared memory: a multiprocessor holds about seven such programs."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """Pass bfloat16 as int16 bit patterns: the interpreter has no arithmetic of it."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def format_constants(coded: Coded) -> dict[str, int | float | bool]:
    """Return the constants that say what is stored."""
    block, norms = coded.block, coded.key_norms
    return {
        "DP": max(64, triton.next_power_of_2(int(coded.anchor.shape[2]))),
        "NP": 4 if block >= 64 and block == triton.next_power_of_2(block) else 1,
        "KEY_BITS": coded.key_bits,
        "KEY_GROUP": coded.key_group or block,
        # with one KV head its own norms are those of all
        "NORMS": min(norms, 2),
        "KEY_OFFSET": coded.key_offset,
        "KEYS_ROTATED": coded.keys_rotated,
        "BITS": coded.value_bits,
        "GROUP": coded.value_group,
        "VALUE_OFFSET": coded.value_offset,
        "VALUES_ROTATED": coded.values_rotated,
    }


class Shape(NamedTuple):
    """What a kernel's tiles are.

    Attributes
    ----------
    kv_heads, group, head_dim, block : int
    columns : int
        Query heads of a tile, GP: a power of two, at least 4.
    channels : int
        Channels of a tile of values, VC.
    rows : int
        Pairs of tokens of a tile, RP.
    warps : int
        One, unless its registers would not hold the tile.
    """

    kv_heads: int
    group: int
    head_dim: int
    block: int
    columns: int
    channels: int
    rows: int
    warps: int

    @classmethod
    def of(cls, q: torch.Tensor, coded: Coded) -> Shape:
        """Derive from the queries and the pool."""
        heads, dtype = coded.pool.key_codes.shape[1], coded.pool.key_step.dtype
        return cls.sized(q.shape[1], heads, q.shape[2], coded.block, dtype, coded.value_group > 0)

    @classmethod
    def sized(cls, q_heads: int, kv_heads: int, head_dim: int, block: int, dtype: torch.dtype, grouped: bool) -> Shape:
        """Derive from sizes; ``grouped``: whether values have groups."""
        group = q_heads // kv_heads
        columns = max(4, triton.next_power_of_2(group))
        tokens = max(16, triton.next_power_of_2(block))
        # what one warp holds of codes, queries and output; 255 registers are enough for 128 channels and 4 heads
        load = tokens * triton.next_power_of_2(head_dim) * (columns // 4)
        if grouped and (head_dim > 128 or dtype == torch.bfloat16):
            load *= 2
        warps = 1 if load <= 64 * 128 else 2 if load <= 2 * 64 * 128 and dtype == torch.float16 else 4
        return cls(kv_heads, group, head_dim, block, columns, 64 if head_dim <= 64 else 128, tokens // 2, warps)

    def stages(self, blocks: int, coded: Coded) -> int:
        """Blocks in flight per program: more than one where a program has many, and shared memory holds them."""
        held = 2 * self.rows * self.head_dim * (coded.key_bits + coded.value_bits) // 8
        if blocks < LOOKED_AHEAD or held > SHARED_BYTES:
            return 1
        return 3 if 2 * held <= SHARED_BYTES else 2

    def constants(self) -> dict[str, int]:
        """Return the constants that kernels share."""
        return {
            "G": self.group,
            "GP": self.columns,
            "D": self.head_dim,
            "VC": self.channels,
            "B": self.block,
            "RP": self.rows,
        }
