"""Levels of precision: what a head has read of every block, in one byte, and what to read next, in another.

=========  =============================================================================
bits       meaning, of levels and of choices
=========  =============================================================================
0, 1       `KEYS`, `VALUES`: the original is used
2          `refine.CHECKED`, in choices alone
3 and 4    refinement planes of keys: how many were read, or are to be read
5 and 6    of values
=========  =============================================================================

A block is used at its original if that was read, else at its planes. What was read is never given back: planes that an
original has replaced stay in the byte, for they have cost their bytes. See docs/planes.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

ORIGINAL = (1, 2)
"""Bits that say that originals are used: of keys, of values."""

SHIFT = (3, 5)
"""Where the numbers of planes begin: of keys, of values."""

MOST_PLANES = 3
"""Planes of one side that a byte has room for; all bits of their number."""

KEY_CHANGE, VALUE_CHANGE = (ORIGINAL[side] | MOST_PLANES << SHIFT[side] for side in (0, 1))
"""Bits of a choice that replace keys, and with them weights; and values."""


def planes(levels: torch.Tensor, side: int) -> torch.Tensor:
    """Return the number of planes in bytes of levels or choices, of their type; keys are side 0, values side 1."""
    return (levels >> SHIFT[side]) & MOST_PLANES


def used(levels: torch.Tensor, side: int, count: int) -> torch.Tensor:
    """Return the level that is used: 0 for the base, up to ``count`` for planes, ``count + 1`` for the original."""
    return torch.where((levels & ORIGINAL[side]) != 0, count + 1, planes(levels, side).to(torch.int64))


def raised(levels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the levels after a choice was read, uint8: levels only rise."""
    result = (levels | chosen) & (ORIGINAL[0] | ORIGINAL[1])
    for side in (0, 1):
        result = result | torch.maximum(planes(levels, side), planes(chosen, side)) << SHIFT[side]
    return result


def at(level: torch.Tensor, options: Sequence[torch.Tensor]) -> torch.Tensor:
    """Take every element from the option of its level; all broadcast against each other, the first alone as it is."""
    found = options[0]
    for index, option in enumerate(options[1:], 1):
        found = torch.where(level == index, option, found)
    return found
