"""Random keys and values like those of trained models, a cache of them, queries, and what the outputs should have been.

Truth is float64 attention of the originals with a proved error (`certkv.fast.float64`), on the device itself.
"""

from __future__ import annotations

import time
from typing import cast

import torch

from certkv.cli.bench.options import Options
from certkv.fast import Step, TieredCache, float64
from certkv.fast.host import Place

KINDS = ("diffuse", "needle")

APPENDED_AT_ONCE = 1 << 18
"""Tokens of all sequences together: what an append takes besides what it stores is a small multiple of these."""


class Drawn:
    """Keys and values T [batch, tokens, kv_heads, head_dim], laid out as a preallocated dense cache is: heads first.

    Parameters
    ----------
    options : Options
    batch, tokens : int
    device : torch.device
    """

    def __init__(self, options: Options, batch: int, tokens: int, device: torch.device) -> None:
        shape = (batch, options.kv_heads, tokens, options.head_dim)
        dtype: torch.dtype = getattr(torch, options.dtype)
        keys, values = (torch.empty(shape, dtype=dtype, device=device).normal_() for _ in range(2))
        # a few channels are large, as after RoPE in trained models, and a first token that attracts
        keys[..., ::17] *= 4.0
        keys[:, :, 0] *= 2.0
        self.k, self.v = keys.transpose(1, 2), values.transpose(1, 2)


class Scene:
    """A filled cache, and what went into it.

    Parameters
    ----------
    options : Options
    keys, values : str
        Formats.
    lengths : list of int
        Tokens of each sequence.
    device : torch.device
    capacity : int
        Tokens that a sequence has room for, if more than the longest has.
    drawn : Drawn or None
        Keys and values for sequences of equal length, if they are there already.

    Attributes
    ----------
    fill_s : float
        Seconds that appending took.
    """

    def __init__(
        self,
        options: Options,
        keys: str,
        values: str,
        lengths: list[int],
        device: torch.device,
        capacity: int = 0,
        drawn: Drawn | None = None,
    ) -> None:
        self.options, self.lengths, self.device = options, lengths, device
        self.dtype: torch.dtype = getattr(torch, options.dtype)
        heads, d, longest = options.kv_heads, options.head_dim, max(lengths)
        self.cache = TieredCache(
            batch=len(lengths),
            kv_heads=heads,
            head_dim=d,
            capacity=max(capacity, longest),
            dtype=self.dtype,
            keys=keys,
            values=values,
            block=options.block,
            originals=cast(Place, options.originals),
            scratch_bytes=options.scratch_bytes,
            device=device,
        )
        drawn = Drawn(options, len(lengths), longest, device) if drawn is None else drawn
        self.k, self.v = drawn.k, drawn.v
        self.scale = d**-0.5
        begun = time.perf_counter()
        self._fill()
        self.fill_s = time.perf_counter() - begun

    def _fill(self) -> None:
        """Append, a number of whole blocks of every sequence at a time."""
        block, ragged = self.options.block, len(set(self.lengths)) > 1
        at_once = max(1, APPENDED_AT_ONCE // len(self.lengths) // block) * block
        for start in range(0, max(self.lengths), at_once):
            part = slice(start, start + at_once)
            added = [min(max(n - start, 0), at_once) for n in self.lengths]
            self.cache.append(self.k[:, part], self.v[:, part], lengths=added if ragged else None)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def queries(self, kind: str) -> torch.Tensor:
        """Draw queries [batch, q_heads, head_dim]: diffuse ones, or ones that look for a token each."""
        heads = self.options.q_heads
        q = torch.randn(len(self.lengths), heads, self.options.head_dim, device=self.device)
        if kind == "needle":
            kv = torch.arange(heads, device=self.device) // (heads // self.options.kv_heads)
            for s, n in enumerate(self.lengths):
                at = torch.randint(0, n, (heads,), device=self.device)
                q[s] += 1.5 * torch.rand(heads, 1, device=self.device) * self.k[s, at, kv].float()
        return q.to(self.dtype)

    def ratios(self, q: torch.Tensor, step: Step) -> tuple[int, list[float]]:
        """Judge every head of a step; see `judged`."""
        return self.judged(q, step.output, step.certificate.bound)

    def judged(self, q: torch.Tensor, outputs: torch.Tensor, bounds: torch.Tensor) -> tuple[int, list[float]]:
        """Judge every head; return how many errors provably exceed their bounds, and bound over error."""
        wrong, found = 0, []
        group = self.options.q_heads // self.options.kv_heads
        for s, n in enumerate(self.lengths):
            for h in range(self.options.kv_heads):
                mine = slice(h * group, (h + 1) * group)
                exact = float64.attention(q[s, mine], self.k[s, :n, h], self.v[s, :n, h], self.scale)
                error = (outputs[s, mine].double() - exact.output).norm(dim=-1)
                bound = bounds[s, mine].double()
                # 2^-40 covers the rounding of differences and norm; asked so that a NaN is wrong
                wrong += int((~(error * (1.0 - 2.0**-40) - exact.error_ub <= bound)).sum())
                found += (bound / error.clamp(min=1e-30)).tolist()
        return wrong, found
