"""Random keys and values like those of trained models, a cache of them, queries, and what the outputs should have been.

Truth is float64 attention of the originals with a proved error (`certkv.fast.float64`), on the device itself.
"""

from __future__ import annotations

import torch

from certkv.cli.bench.options import Options
from certkv.fast import Step, TieredCache, float64

KINDS = ("diffuse", "needle")


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
    """

    def __init__(
        self,
        options: Options,
        keys: str,
        values: str,
        lengths: list[int],
        device: torch.device,
        capacity: int = 0,
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
            scratch_bytes=options.scratch_bytes,
            device=device,
        )
        self.k, self.v = (self._drawn(side) for side in ("keys", "values"))
        self.cache.append(self.k, self.v, lengths=lengths if len(set(lengths)) > 1 else None)
        self.scale = d**-0.5

    def _drawn(self, side: str) -> torch.Tensor:
        heads, d = self.options.kv_heads, self.options.head_dim
        x = torch.empty(len(self.lengths), max(self.lengths), heads, d, dtype=self.dtype, device=self.device).normal_()
        if side == "keys":
            # a few channels are large, as after RoPE in trained models, and a first token that attracts
            x[..., ::17] *= 4.0
            x[:, 0] *= 2.0
        return x

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
        """Judge every head; return how many errors provably exceed their bounds, and bound over error."""
        wrong, found = 0, []
        group = self.options.q_heads // self.options.kv_heads
        for s, n in enumerate(self.lengths):
            for h in range(self.options.kv_heads):
                mine = slice(h * group, (h + 1) * group)
                exact = float64.attention(q[s, mine], self.k[s, :n, h], self.v[s, :n, h], self.scale)
                error = (step.output[s, mine].double() - exact.output).norm(dim=-1)
                bound = step.certificate.bound[s, mine].double()
                # 2^-40 covers the rounding of differences and norm; asked so that a NaN is wrong
                wrong += int((~(error * (1.0 - 2.0**-40) - exact.error_ub <= bound)).sum())
                found += (bound / error.clamp(min=1e-30)).tolist()
        return wrong, found
