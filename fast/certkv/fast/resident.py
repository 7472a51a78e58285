"""Originals that stay on the device: each sequence's first block, which `Budget` pins, and its tail."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from certkv.fast.append import Split
from certkv.fast.numbers import norm_factor, round_up, row_norms

FIRST, TAIL = 0, 1
"""Slots."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Slot 0 is the first block, once it is full; slot 1 the tail. NaN where there is no token.

    Attributes
    ----------
    keys, values : T [batch, kv_heads, 2, block, head_dim]
    norms : float32 [batch, kv_heads, 2]
        Upper bound of the largest value norm in each slot; 0 where it is empty.
    """

    keys: torch.Tensor
    values: torch.Tensor
    norms: torch.Tensor

    @classmethod
    def empty(
        cls, batch: int, kv_heads: int, block: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> Resident:
        """Hold nothing."""
        shape = (batch, kv_heads, 2, block, head_dim)
        keys, values = (torch.full(shape, float("nan"), dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values, torch.zeros(shape[:3], dtype=torch.float32, device=device))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def tails(self, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sequence's tail of keys and of values, T [kv_heads, block, head_dim]."""
        return self.keys[sequence, :, TAIL], self.values[sequence, :, TAIL]

    def norms_after(self, v: torch.Tensor, plan: Split, firsts: list[int], moves: torch.Tensor) -> torch.Tensor:
        """Return `norms` as they are after an append; rounding is monotone, so maxima of rounded norms serve.

        Parameters
        ----------
        v : T [batch, tokens, kv_heads, head_dim]
        plan : Split
        firsts : list of int
            Sequences whose first block fills.
        moves : int64 [3, n]
            `Split.growing`.
        """
        after = self.norms.clone()
        for s in plan.filling:
            if s in firsts:
                new = norms_ub(v[s, : plan.block - plan.tail[s]])
                after[s, :, FIRST] = torch.maximum(self.norms[s, :, TAIL], new.amax(0))
            left = v[s, plan.left(s)]
            after[s, :, TAIL] = norms_ub(left).amax(0) if len(left) else 0.0
        sequences, sources, _ = moves
        if len(sequences):
            new = norms_ub(v[sequences, sources])
            after[:, :, TAIL].scatter_reduce_(0, sequences[:, None].expand_as(new), new, "amax")
        return after

    def grow(self, k: torch.Tensor, v: torch.Tensor, moves: torch.Tensor) -> None:
        """Write the new tokens of sequences in which no block fills, behind the tokens that count.

        Parameters
        ----------
        k, v : T [batch, tokens, kv_heads, head_dim]
        moves : int64 [3, n]
            `Split.growing`.
        """
        sequences, sources, places = moves
        if len(sequences):
            for held, new in ((self.keys, k), (self.values, v)):
                held[sequences, :, TAIL, places] = new[sequences, sources]

    def shrink(self, plan: Split) -> None:
        """Take back what `grow` wrote."""
        for s, (tail, full) in enumerate(zip(plan.tail, plan.full, strict=True)):
            if not full:
                for held in (self.keys, self.values):
                    held[s, :, TAIL, tail:] = float("nan")

    def turn_over(self, k: torch.Tensor, v: torch.Tensor, plan: Split, firsts: list[int]) -> None:
        """Start the tail of sequences in which a block fills anew, and keep their first block; allocates nothing."""
        for s in plan.filling:
            known, left = plan.tail[s], plan.left(s)
            for held, new in ((self.keys, k), (self.values, v)):
                if s in firsts:
                    held[s, :, FIRST, :known].copy_(held[s, :, TAIL, :known])
                    held[s, :, FIRST, known:].copy_(new[s, : plan.block - known].transpose(0, 1))
                held[s, :, TAIL].fill_(float("nan"))
                held[s, :, TAIL, : left.stop - left.start].copy_(new[s, left].transpose(0, 1))

    def clear(self, sequence: int) -> None:
        """Hold nothing of a sequence."""
        self.keys[sequence], self.values[sequence], self.norms[sequence] = float("nan"), float("nan"), 0.0


def norms_ub(values: torch.Tensor) -> torch.Tensor:
    """Upper bound of every token's norm, T [..., head_dim] -> float32 [...], one rounding up from the float64 one."""
    norms = row_norms(values.to(torch.float64)) * norm_factor(values.shape[-1])
    return round_up(norms, torch.float32)
