"""Rung 4: all heads of a sequence by torch's own attention of the originals, and how far that is from exact.

The output is, bit for bit, what ``scaled_dot_product_attention`` returns for contiguous ``[1, heads, tokens, d]``
originals and the caller's scale: with the FLASH_ATTENTION backend on a GPU, with the default one on a CPU. Its bound is
measured, not modelled: the distance from attention in float64, and that one's proved error (`float64`). Nothing here is
for a graph: torch bakes the number of tokens into it, and the originals come over the bus.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from certkv.fast import float64
from certkv.fast.cache import TieredCache
from certkv.fast.checksum import of_resident, totals
from certkv.fast.damage import HELD_TAIL, LENGTH, ORIGINAL_KEYS, ORIGINAL_VALUES
from certkv.fast.errors import CorruptionError, HostMissingError
from certkv.fast.numbers import round_up
from certkv.fast.resident import TAIL


class Dense(NamedTuple):
    """Rung 4 of one sequence.

    Attributes
    ----------
    output : T [q_heads, head_dim]
    lse : float32 [q_heads]
    bound : float32 [q_heads]
    """

    output: torch.Tensor
    lse: torch.Tensor
    bound: torch.Tensor


def staging_shape(cache: TieredCache) -> tuple[int, int]:
    """Shape of the buffer into which one sequence's originals are gathered; of the originals' type."""
    return 2, cache.kv_heads * cache.capacity * cache.head_dim


def staging(cache: TieredCache) -> torch.Tensor:
    """Allocate the buffer, on the cache's device."""
    return torch.empty(staging_shape(cache), dtype=cache.dtype, device=cache.device)


def gather(cache: TieredCache, sequence: int, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a sequence's originals, tail included, into the buffer.

    Parameters
    ----------
    cache : TieredCache
    sequence : int
        With at least one token.
    buffer : T, of `staging_shape`

    Returns
    -------
    keys, values : T [1, kv_heads, tokens, head_dim]
        Contiguous views of the buffer.

    Raises
    ------
    HostMissingError
    CorruptionError
        What was copied is not what was written.
    """
    blocks, tokens = cache.blocks(sequence), cache.tokens[sequence]
    if int(cache.checksums.lengths[sequence]) != tokens:
        raise CorruptionError(sequence, None, None, LENGTH)  # where the device knows first, the host has it from there
    if not bool((cache.originals.present[sequence, :, :blocks] == 1).all()):
        raise HostMissingError(sequence)
    shape = (cache.kv_heads, tokens, cache.head_dim)
    full = blocks * cache.block
    sides = []
    for index, store in enumerate((cache.originals.keys, cache.originals.values)):
        held = buffer[index][: shape[0] * shape[1] * shape[2]].view(shape)
        # head by head: contiguous on both sides, so that it is one plain copy from pinned memory
        for head in range(cache.kv_heads):
            held[head, :full].copy_(store[sequence, head, :blocks].flatten(0, 1), non_blocking=True)
            _compare(cache, index, sequence, head, held[head, :full])
        tail = (cache.resident.keys, cache.resident.values)[index][sequence, :, TAIL, : tokens - full]
        held[:, full:].copy_(tail)
        sides.append(held[None])
    wrong = (of_resident(cache.anchor, cache.resident) != cache.checksums.resident)[sequence, :, TAIL]
    if bool(wrong.any()):
        raise CorruptionError(sequence, int(wrong.nonzero()[0]), None, HELD_TAIL)
    return sides[0], sides[1]


def _compare(cache: TieredCache, side: int, sequence: int, head: int, copied: torch.Tensor) -> None:
    """Compare copied originals, T [tokens, d], with their checksums.

    Raises
    ------
    CorruptionError
    """
    blocks = copied.view(-1, cache.block, cache.head_dim)
    found = totals((blocks,), torch.arange(len(blocks), device=copied.device))
    wrong = found != cache.checksums.originals[side, sequence, head, : len(blocks)]
    if bool(wrong.any()):
        part = (ORIGINAL_KEYS, ORIGINAL_VALUES)[side]
        raise CorruptionError(sequence, head, int(wrong.nonzero()[0]), part)


def pinned_backend(device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which torch's attention runs."""
    if device.type == "cuda":
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    return nullcontext()


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Call torch's attention as rung 4 does.

    Parameters
    ----------
    q : T [1, q_heads, 1, head_dim]
    k, v : T [1, kv_heads, tokens, head_dim]
    scale : float

    Returns
    -------
    T [1, q_heads, 1, head_dim]
    """
    with pinned_backend(q.device):
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )


@torch.no_grad()
def dense(q: torch.Tensor, cache: TieredCache, sequence: int, scale: float, buffer: torch.Tensor) -> Dense:
    """Attend to a sequence's originals. Synchronises and allocates.

    Parameters
    ----------
    q : T [batch, q_heads, head_dim]
    cache : TieredCache
    sequence : int
    scale : float
    buffer : T, of `staging_shape`

    Raises
    ------
    HostMissingError, CorruptionError
    """
    k, v = gather(cache, sequence, buffer)
    queries = q[sequence].contiguous()[None, :, None]
    output = attention(queries, k, v, scale)[0, :, 0]
    group = q.shape[1] // cache.kv_heads
    bounds, lse = [], []
    for head in range(cache.kv_heads):
        mine = slice(head * group, (head + 1) * group)
        exact = float64.attention(q[sequence, mine], k[0, head], v[0, head], scale)
        bounds.append(round_up(float64.distance_ub(output[mine], exact), torch.float32))
        lse.append(exact.lse.to(torch.float32))
    return Dense(output, torch.cat(lse), torch.cat(bounds))
