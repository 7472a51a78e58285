"""Caches into which faults are put: every format and type, steps that take every rung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from certkv.fast import Budget, Naive, Step, TieredCache, float64
from certkv.fast.formats import VALUE_FORMATS
from certkv.fast.policies import PaperPolicy, Policy

KV_HEADS, GROUP, HEAD_DIM, BLOCK, TOKENS, CAPACITY = 2, 2, 16, 8, 45, 64
POLICIES: tuple[Policy, ...] = (Naive(), PaperPolicy(coverage=0.8), Budget(0.5), Budget(0.05), Budget(0.0))


@dataclass(frozen=True, eq=False)
class Scene:
    """Equal sequences, so that one step shows what as many faults do, each in a sequence of its own.

    Attributes
    ----------
    values : str
    dtype : torch.dtype
    policy : Policy
    cache : TieredCache
    q : T [batch, heads, d]
    exact : float64 [heads, d]
        Attention of the originals as they were appended.
    error_ub : float64 [heads]
        How far that can be from real-number attention.
    """

    values: str
    dtype: torch.dtype
    policy: Policy
    cache: TieredCache
    q: torch.Tensor
    exact: torch.Tensor
    error_ub: torch.Tensor

    def beyond(self, step: Step) -> torch.Tensor:
        """Which sequences have an output that is provably beyond its bound, bool [batch]."""
        error = (step.output.double() - self.exact).norm(dim=-1)
        # the norm of d differences rounds by less than 2^-40 of it; a NaN is beyond every bound
        within = error * (1.0 - 2.0**-40) - self.error_ub <= step.certificate.bound.double()
        outside: torch.Tensor = ~within.all(-1)
        return outside


KINDS = [(values, dtype) for values in VALUE_FORMATS for dtype in (torch.float16, torch.bfloat16)]
"""All formats and types."""


def scene(values: str, dtype: torch.dtype, policy: Policy, batch: int, seed: int) -> Scene:
    """Fill a cache with one random sequence, so many times; a channel is large and a token attracts."""
    made = torch.Generator().manual_seed(seed)
    settings: dict[str, Any] = {"scratch_bytes": 1 << 20} if seed % 2 else {}
    cache = TieredCache(batch, KV_HEADS, HEAD_DIM, CAPACITY, dtype, values=values, block=BLOCK, **settings)
    k, v = torch.randn(2, 1, TOKENS, KV_HEADS, HEAD_DIM, generator=made)
    k[..., 3] *= 3.0
    k[:, 17] *= 1.5
    k, v = k.to(dtype), v.to(dtype)
    cache.append(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1))
    q = (1.5 * torch.randn(1, KV_HEADS * GROUP, HEAD_DIM, generator=made)).to(dtype)
    truths = [
        float64.attention(q[0, h : h + 1], k[0, :, h // GROUP], v[0, :, h // GROUP], HEAD_DIM**-0.5)
        for h in range(KV_HEADS * GROUP)
    ]
    exact, error = torch.cat([t.output for t in truths]), torch.cat([t.error_ub for t in truths])
    return Scene(values, dtype, policy, cache, q.expand(batch, -1, -1).contiguous(), exact, error)
