"""Where appended tokens go: which of them fill blocks, and which stay in the tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Split:
    """What becomes of the tokens of one append.

    Attributes
    ----------
    block : int
    tail : tuple of int
        Tokens that are in each sequence's tail before.
    added : tuple of int
        New tokens of each sequence.
    full : tuple of int
        Blocks that fill.
    """

    block: int
    tail: tuple[int, ...]
    added: tuple[int, ...]
    full: tuple[int, ...]

    @property
    def filling(self) -> list[int]:
        """Sequences in which a block fills."""
        return [s for s, count in enumerate(self.full) if count]

    def left(self, sequence: int) -> slice:
        """Return which new tokens of a sequence end in a tail that starts anew or grows, as a slice."""
        added = self.added[sequence]
        filled = self.full[sequence] * self.block - self.tail[sequence]
        return slice(filled if self.full[sequence] else 0, added)

    def growing(self) -> tuple[list[int], list[int], list[int]]:
        """Return the new tokens of sequences in which no block fills: sequence, index, place in the tail."""
        moves = [
            (s, i, self.tail[s] + i)
            for s, (added, full) in enumerate(zip(self.added, self.full, strict=True))
            if not full
            for i in range(added)
        ]
        sequences, sources, places = ([move[axis] for move in moves] for axis in range(3))
        return sequences, sources, places


def split(tokens: Sequence[int], added: Sequence[int], block: int) -> Split:
    """Return the split of ``added`` new tokens per sequence, each of which holds ``tokens``."""
    tail = tuple(have % block for have in tokens)
    full = tuple((held + new) // block for held, new in zip(tail, added, strict=True))
    return Split(block, tail, tuple(added), full)


def assemble(new: torch.Tensor, tail: torch.Tensor, plan: Split, sequence: int) -> torch.Tensor:
    """Return the blocks that fill: the sequence's tail, continued by its new tokens.

    Parameters
    ----------
    new : T [batch, tokens, kv_heads, head_dim]
    tail : T [kv_heads, block, head_dim]
        Of the sequence.

    Returns
    -------
    T [full, kv_heads, block, head_dim]
    """
    held, full = plan.tail[sequence], plan.full[sequence]
    fresh = new[sequence, : full * plan.block - held]
    stream = torch.cat([tail[:, :held].transpose(0, 1), fresh]) if held else fresh
    return stream.reshape(full, plan.block, *stream.shape[1:]).transpose(1, 2)
