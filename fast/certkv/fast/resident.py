"""Originals that stay on the device: each sequence's first block, which `Budget` pins, and its tail."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from certkv.fast.append import Split
from certkv.fast.numbers import fp32, norm_factor, round_up, row_norms

FIRST, TAIL = 0, 1
"""Slots."""

NORMS = ("largest_value", "largest_key", "mean_value", "sum_of_values")
"""Meaning of the last axis of ``Resident.norms``."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Slot 0 is the first block, once it is full; slot 1 the tail. NaN where there is no token.

    Attributes
    ----------
    keys, values : T [batch, kv_heads, 2, block, head_dim]
    norms : float32 [batch, kv_heads, 2, 4]
        Of the tokens in each slot, 0 where it is empty (`NORMS`): upper bounds of the largest norm of a value and of a
        key; the mean of upper bounds of norms of values, and their sum, which is added up token by token.
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
        return cls(keys, values, torch.zeros((*shape[:3], len(NORMS)), dtype=torch.float32, device=device))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def tails(self, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sequence's tail of keys and of values, T [kv_heads, block, head_dim]."""
        return self.keys[sequence, :, TAIL], self.values[sequence, :, TAIL]

    def norms_after(
        self, k: torch.Tensor, v: torch.Tensor, plan: Split, firsts: list[int], moves: torch.Tensor
    ) -> torch.Tensor:
        """Return `norms` as they are after an append; rounding is monotone, so maxima of rounded norms serve.

        Parameters
        ----------
        k, v : T [batch, tokens, kv_heads, head_dim]
        plan : Split
        firsts : list of int
            Sequences whose first block fills.
        moves : int64 [3, n]
            `Split.growing`.
        """
        after, tails = self.norms.clone(), self.norms[:, :, TAIL]
        for s in plan.filling:
            if s in firsts:
                tail = plan.tail[s]
                after[s, :, FIRST] = slot_norms(tails[s], k[s, : plan.block - tail], v[s, : plan.block - tail], tail)
            left = plan.left(s)
            after[s, :, TAIL] = slot_norms(torch.zeros_like(tails[s]), k[s, left], v[s, left], 0)
        sequences, sources, places = moves
        if len(sequences):
            # all at once; a row of zeros, where a sequence has no more tokens, changes nothing
            shape = (max(plan.added), *tails.shape[:2])
            keys, values = (x.new_zeros(shape, dtype=torch.float32) for x in (k, v))
            keys[sources, sequences] = norms_ub(k[sequences, sources])
            values[sources, sequences] = norms_ub(v[sequences, sources])
            count = torch.ones(shape[1], dtype=torch.int64, device=v.device)
            count.scatter_reduce_(0, sequences, places + 1, "amax")
            after[sequences, :, TAIL] = grown(tails, keys, values, count[:, None])[sequences]
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


def slot_norms(before: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int) -> torch.Tensor:
    """Return `Resident.norms` of a slot with new tokens behind the ``count`` that it has.

    Parameters
    ----------
    before : float32 [kv_heads, 4]
    k, v : T [tokens, kv_heads, head_dim]

    Returns
    -------
    float32 [kv_heads, 4]
    """
    if not len(v):
        return before
    return grown(before, norms_ub(k), norms_ub(v), torch.full((1,), count + len(v), device=v.device))


def grown(before: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return norms of slots, [..., 4], that hold ``count`` tokens with those whose norms are given, [tokens, ...]."""
    largest_value, largest_key, _, total = before.unbind(-1)
    for norms in values:
        total = total + norms
    mean = fp32(total.to(torch.float64) / count.to(torch.float64)).to(torch.float32)
    largest = (torch.maximum(a, b.amax(0)) for a, b in ((largest_value, values), (largest_key, keys)))
    return torch.stack([*largest, mean, total], dim=-1)


def norms_ub(values: torch.Tensor) -> torch.Tensor:
    """Upper bound of every token's norm, T [..., head_dim] -> float32 [...], one rounding up from the float64 one."""
    norms = row_norms(values.to(torch.float64)) * norm_factor(values.shape[-1])
    return round_up(norms, torch.float32)
