"""How a pass over the coded blocks is split: as many programs as run at once."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.coded import half_channels
from certkv.fast.formats.planar import planes_of
from certkv.fast.formats.registry import key_format

TWIN_SPLITS = 4
PROGRAMS_PER_MULTIPROCESSOR = 8
"""A program is one warp; this many per multiprocessor hide each other's waits. There are four schedulers, and
two warps keep one busy: on an H200 attend over eight sequences of 131,072 tokens took 539 us with eight programs, 764
with nine, and 699 with ten."""

HALVES_PER_MULTIPROCESSOR = 12
"""The same where a pass takes keys in halves: such a program has fewer registers."""

RESIDENT_PROGRAMS = 1
"""What attend runs beside the splits of coded blocks: one program for the resident tokens."""

STATES = 32
"""Splits of which a tile of the first tier has the terms; see `certkv.fast.kernels.first_tier`."""


def multiprocessors_of(device: torch.device) -> int | None:
    """Multiprocessors of a GPU; None of a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else None


def splits_of(cache: TieredCache) -> int:
    """Programs per KV head of a sequence: as many as fill a GPU, and no more than there are blocks."""
    found = multiprocessors_of(cache.device)
    return min(cache.max_blocks, TWIN_SPLITS) if found is None else splits_on(cache, found)


def programs_per_multiprocessor(cache: TieredCache) -> int:
    """Return how many programs of attend share a multiprocessor: what their registers allow."""
    fmt = key_format(cache.keys)
    halves = not planes_of(fmt) and half_channels(fmt.bits, cache.head_dim, cache.block, cache.dtype)
    return HALVES_PER_MULTIPROCESSOR if halves else PROGRAMS_PER_MULTIPROCESSOR


def splits_on(cache: TieredCache, multiprocessors: int) -> int:
    """Return what `splits_of` does on a GPU with so many multiprocessors.

    With few sequences all programs of a pass run at once, those of the resident tokens included: one that had to wait
    for another's end would begin when the others are half done. Splits are whole tiles of the first tier, which then
    masks nothing, where that leaves out few of them.
    """
    wanted = filling(cache.batch * cache.kv_heads, multiprocessors * programs_per_multiprocessor(cache))
    if wanted >= 3 * STATES:
        wanted -= wanted % STATES
    return min(cache.max_blocks, wanted)


def filling(rows: int, places: int) -> int:
    """Return the splits of each of so many rows that fill so many places, all at once if that leaves few places empty.

    On an H200 a pass over eight sequences of 131,072 tokens took 501 us with 79 % of the places filled, and 580 where
    the programs of one round were 106 % of them.
    """
    at_once = places // rows - RESIDENT_PROGRAMS
    return at_once if at_once >= 4 * RESIDENT_PROGRAMS else max(1, -(-places // rows))
