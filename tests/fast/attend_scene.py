"""Caches to attend to, exact attention of what they hold, and the bound that an arithmetic model promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from certkv.fast.arithmetic import Arithmetic, Sums, charges, query_loss
from certkv.fast.cache import TieredCache
from certkv.fast.charges import Charges
from certkv.fast.coded import Coded
from certkv.fast.decoded import decoded_keys, decoded_values
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.pool import KEYS
from certkv.fast.resident import FIRST, TAIL
from certkv.fast.workspace import Workspace, plan_workspace

from .heads import of_heads


class Scene(NamedTuple):
    """A filled cache, queries, and how to attend."""

    cache: TieredCache
    coded: Coded
    q: torch.Tensor
    scale: float
    splits: int

    def workspace(self) -> Workspace:
        """Plan, with every weight poisoned."""
        cache = self.cache
        heads, blocks = (self.q.shape[1], cache.kv_heads), (cache.block, cache.max_blocks)
        out = plan_workspace(cache.batch, *heads, cache.head_dim, *blocks, self.splits, cache.device)
        out.weights.fill_(torch.nan)
        out.resident_weights.fill_(torch.nan)
        return out

    def sums(self) -> Sums:
        """What the pass sums."""
        cache = self.cache
        return Sums.of(
            key_format(cache.keys),
            value_format(cache.values),
            tokens=max(cache.tokens),
            head_dim=cache.head_dim,
            block=cache.block,
            splits=self.splits,
            bfloat16=cache.dtype == torch.bfloat16,
        )


def scene(
    lengths: Sequence[int],
    *,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    block: int,
    values: str,
    keys: str = "int8",
    dtype: torch.dtype = torch.float16,
    pinned: int = 0,
    splits: int = 3,
    loud: float = 1.0,
    scale: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Scene:
    """Append random tokens; pages are handed out in an order of their own, and unused ones are poisoned."""
    random = torch.Generator().manual_seed(seed)
    batch, longest = len(lengths), max(lengths)
    k, v = (torch.randn(batch, longest, kv_heads, head_dim, generator=random) for _ in range(2))
    k = loud * k + 3.0 * loud * torch.randn(1, 1, kv_heads, head_dim, generator=random)
    cache = TieredCache(
        batch, kv_heads, head_dim, max(longest, block), dtype, keys=keys, values=values, block=block, device=device
    )
    cache.append(k.to(dtype).to(device), v.to(dtype).to(device), lengths)
    q = torch.randn(batch, q_heads, head_dim, generator=random).to(dtype).to(device)
    coded = Coded(cache.pool, cache.pages.table, cache.lengths, cache.anchor, values, pinned, keys)
    return Scene(cache, coded, q, head_dim**-0.5 if scale is None else scale, splits)


def decoded(s: Scene, sequence: int, head: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Keys, values and sizes of keys as a pass uses them, float64 [N, d], and the number of resident tokens, last.

    Tokens are in the order: coded blocks, pinned block, tail. Where keys have groups, a token's size is one number, of
    which every channel has an equal share.
    """
    cache, first, block = s.cache, s.coded.first, s.cache.block
    tokens = cache.tokens[sequence]
    pages = cache.pages.table[sequence, first : tokens // block].to(torch.int64)
    heads = torch.full_like(pages, head)
    sides = [
        found[0].reshape(-1, cache.head_dim)
        for found in (
            decoded_keys(cache.pool, cache.keys, pages, heads),
            decoded_values(cache.pool, cache.values, pages, heads),
        )
    ]
    if s.coded.key_group:
        whole = cache.pool.sizes[pages, head, KEYS].to(torch.float64) / cache.head_dim**0.5
        sizes = [whole[:, None, None].expand(-1, block, cache.head_dim).reshape(-1, cache.head_dim)]
    else:
        step, minimum = (
            x[pages, head].to(torch.float64)[:, None] for x in (cache.pool.key_step, cache.pool.key_minimum)
        )
        sizes = [(minimum.abs() + 255.0 * step).expand(-1, block, -1).reshape(-1, cache.head_dim)]
    held = block * first * (tokens >= block), tokens % block
    for i, x in enumerate((cache.resident.keys, cache.resident.values)):
        originals = [x[sequence, head, slot, :n].to(torch.float64) for slot, n in zip((FIRST, TAIL), held, strict=True)]
        sides[i] = torch.cat([sides[i], *originals])
        if i == 0:
            sizes += [original.abs() for original in originals]
    return sides[0], sides[1], torch.cat(sizes), sum(held)


class Judged(NamedTuple):
    """Errors over what the model allows, of all heads; at most 1 if the model holds."""

    output: float
    lse: float
    weights: float


def judge(s: Scene, out: Workspace, model: Arithmetic) -> Judged:
    """Compare a pass with float64 attention of the decoded cache, by the terms of the arithmetic model.

    With ``eps_t`` the charge of a token's score and a' its exact share, theorem ``quotient`` bounds the distance of the
    exact output O from the one with the executed weights, and eps_acc the rest::

        ||c - O|| <= ( sum a'_t (e^eps_t - 1) ||v_t - O|| + eps_acc ) / sum a'_t e^-eps_t

    (the shares are the exact ones here, the errors are symmetric). Executed weights are compared with the exact ones
    through one unknown constant per head.
    """
    sums, worst = s.sums(), [0.0, 0.0, 0.0]
    allowed, extra = charges(model, sums), query_loss(model, sums)
    heads, group = s.cache.kv_heads, s.q.shape[1] // s.cache.kv_heads
    executed = all_weights(s, out)
    for sequence in range(s.cache.batch):
        for head in range(heads):
            k, v, sizes, resident = decoded(s, sequence, head)
            for i in range(group):
                q = s.q[sequence, head * group + i].to(torch.float64)
                at = sequence, head * group + i
                scores = k @ q * s.scale
                shares = torch.softmax(scores, 0)
                exact = shares @ v
                eps = score_errors(s, allowed, extra, q, sizes, resident)
                mine = out.output[at].to(torch.float64)
                bound = output_bound(allowed, shares, v, exact, eps, s.coded.value_group)
                worst[0] = max(worst[0], ratio((mine - exact).norm(), bound))
                # l: every weight is within eps, and the sum within of_output; then a logarithm in binary32
                far = (eps.max() + 2.0 * allowed.of_output) + 2.0**-22 * (1.0 + scores.abs().max() * 2.0)
                worst[1] = max(worst[1], ratio((out.lse[at].double() - torch.logsumexp(scores, 0)).abs(), far))
                weights = executed[at][0]
                known = weights > 2.0**-14  # normal numbers, relative to their own reference
                logs = (torch.log(weights) + executed[at][1] * math.log(2.0) - scores)[known]
                if len(logs) > 1:
                    spread = (logs[:, None] - logs[None]).abs() / (eps[known][:, None] + eps[known][None])
                    worst[2] = max(worst[2], ratio(spread.max(), 1.0))
    return Judged(*worst)


def ratio(error: torch.Tensor | float, bound: torch.Tensor | float) -> float:
    """Error over bound; infinite if anything is not a number."""
    found = float(error) / float(bound) if float(bound) > 0 else (0.0 if float(error) == 0 else math.inf)
    return math.inf if math.isnan(found) else found


def score_errors(
    s: Scene, allowed: Charges, extra: float, q: torch.Tensor, sizes: torch.Tensor, resident: int
) -> torch.Tensor:
    """Charge of every token's score, float64 [N]."""
    floor, magnitude = allowed.floor, abs(s.scale)
    size = magnitude * (q.abs().clamp(min=floor) * sizes.clamp(min=floor)).sum(-1)
    held = torch.arange(len(size), device=size.device) >= len(size) - resident
    if s.coded.key_group:
        small = floor * len(q) ** 0.5
        size = torch.where(held, size, magnitude * (q.norm() + small) * (sizes.norm(dim=-1) + small))
    eps = allowed.coded.relative * size + allowed.coded.constant + extra * magnitude * q.abs().max()
    return torch.where(held, allowed.resident.relative * size + allowed.resident.constant, eps)


def output_bound(
    allowed: Charges, shares: torch.Tensor, v: torch.Tensor, exact: torch.Tensor, eps: torch.Tensor, group: int = 0
) -> torch.Tensor:
    """What the output may be off by."""
    # sizes of values: |minimum| + levels step is at most 3 times the largest |v| of a channel, by construction; with
    # groups of channels, what certify takes
    norms = v.norm(dim=-1)
    sizes = (1.0 + 2.0 * group**0.5) * norms.max() if group else 3.0 * v.abs().amax(0).norm()
    weighted = (shares * torch.expm1(eps) * (v - exact).norm(dim=-1)).sum()
    low = (shares * torch.exp(-eps)).sum()
    total = weighted / low
    rounding = allowed.of_mean * sizes + allowed.of_largest * sizes + allowed.absolute
    # ||c|| is at most ||O|| and the error itself
    bound: torch.Tensor = (total + (rounding + allowed.of_output * (exact.norm() + total)) * 1.01) * (
        1.0 + 2.0**-30
    ) + (norms.max() * 2.0**-45)
    return bound


def all_weights(s: Scene, out: Workspace) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Executed weights and their references of all tokens, in the order of `decoded`, float64 [N] each."""
    block, first = s.cache.block, s.coded.first
    found = {}
    of_blocks = of_heads(out.weights), of_heads(out.reference)
    for sequence, tokens in enumerate(s.cache.tokens):
        held = block * first * (tokens >= block), tokens % block
        blocks = slice(first, tokens // block)
        for head in range(s.q.shape[1]):
            at = sequence, head
            weights = [of_blocks[0][at][blocks].reshape(-1)]
            references = [of_blocks[1][at][blocks].repeat_interleave(block)]
            for slot, n in zip((FIRST, TAIL), held, strict=True):
                weights.append(out.resident_weights[at][slot, :n])
                references.append(out.resident_reference[at][slot].expand(n))
            found[at] = torch.cat(weights).to(torch.float64), torch.cat(references).to(torch.float64)
    return found
