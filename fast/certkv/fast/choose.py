"""Accept a head, choose what to promote, or give it to rung 3; the choice by a threshold, without sorting.

Items of a head are (block, keys) and (block, values). Promoting keys takes ``C_b`` without rounding off the numerator,
which stays, and gives ``limit (rho_b - D_b)`` back; promoting values takes ``U_b`` off. The smallest set that takes off
at least ``need`` is that of the largest gains (greedy; reference ``largest_until``): the gains from the largest
threshold on that sums to enough. It is found by bisection over the bit patterns of binary32, which are ordered as the
numbers are; of gains equal to the threshold as many are taken as are needed, lowest index first.

What is infinite is promoted first, alone. Where all finite gains together fall short, no choice helps: rung 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.certify import Terms
from certkv.fast.charges import Charges
from certkv.fast.coded import grouped
from certkv.fast.outward_fp32 import known
from certkv.fast.totals import Totals, Unit, totals

ACCEPT, REFINE, EXACT_HEAD = 0, 1, 2
"""Actions."""

KEYS, VALUES = 1, 2
"""Bits of levels and choices."""

INFINITY_BITS = 0x7F800000


class Choice(NamedTuple):
    """What happens to every head next.

    Attributes
    ----------
    action : uint8 [batch, Hq]
        Before: `REFINE` where a head is still active. After: what happens to it; others stay as they are.
    chosen : uint8 [batch, Hq, max_blocks]
        Bits `KEYS` and `VALUES`: to be promoted now; 0 for heads that are not refined.
    work : int32 [batch, H, max_blocks]
        Blocks that any head of a KV head has chosen, ascending; -1 beyond them.
    counts : int32 [batch, H]
        How many.
    """

    action: torch.Tensor
    chosen: torch.Tensor
    work: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def empty(
        cls, batch: int, heads: int, kv_heads: int, max_blocks: int, device: torch.device | str = "cpu"
    ) -> Choice:
        """Allocate; every head is active."""
        action = torch.full((batch, heads), REFINE, dtype=torch.uint8, device=device)
        chosen = torch.zeros(batch, heads, max_blocks, dtype=torch.uint8, device=device)
        work = torch.full((batch, kv_heads, max_blocks), -1, dtype=torch.int32, device=device)
        return cls(action, chosen, work, torch.zeros(batch, kv_heads, dtype=torch.int32, device=device))


def largest_until(gain: torch.Tensor, need: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mark the largest gains until they sum to at least ``need``.

    Parameters
    ----------
    gain : float32 [..., items]
        Non-negative; ``+inf`` is allowed, NaN is not.
    need : float32 [...]
        Positive.

    Returns
    -------
    marks : bool [..., items]
    enough : bool [...]
        Whether they do; where not, nothing is marked.
    """
    infinite = torch.isinf(gain)
    any_infinite = infinite.any(-1)
    finite = torch.where(infinite, 0.0, gain)
    bits = finite.view(torch.int32)
    enough = any_infinite | (finite.sum(-1) >= need)
    low = torch.zeros(need.shape, dtype=torch.int32, device=gain.device)
    high = torch.full_like(low, INFINITY_BITS)
    for _ in range(31):
        middle = low + (high - low) // 2
        reached = torch.where(bits >= middle[..., None], finite, 0.0).sum(-1) >= need
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    larger, equal = bits > low[..., None], bits == low[..., None]
    left = need - torch.where(larger, finite, 0.0).sum(-1)
    threshold = low.view(torch.float32)
    before = (equal.cumsum(-1) - 1).to(torch.float32) * threshold[..., None]
    marks = larger | (equal & (before < left[..., None]))
    marks = torch.where(any_infinite[..., None], infinite, marks)
    return marks & enough[..., None], enough


def choose(
    terms: Terms,
    levels: torch.Tensor,
    output: torch.Tensor,
    charges: Charges,
    unit: Unit,
    tolerance: float,
    rounds_left: int,
    most: int,
    found: Totals,
    out: Choice,
) -> None:
    """Sum the terms of every active head, compare with the tolerance, and decide.

    Parameters
    ----------
    terms : Terms
    levels : uint8 [batch, Hq, max_blocks]
        Bit `KEYS`: keys are original; bit `VALUES`: values are.
    output : float32 [batch, Hq, d]
        c.
    charges : Charges
        In binary32 (`Charges.rounded`).
    unit, tolerance
        What to enforce. Tolerance 0 is never met.
    rounds_left : int
        0: nothing is promoted any more.
    most : int
        Items per head; a head that would need more goes to rung 3.
    found : Totals
        Written.
    out : Choice
        Read and written.
    """
    active = out.action == REFINE
    totals(terms.partial, output, charges, unit, tolerance, found, active)
    limit = found.tolerance
    accepted = (limit > 0.0) & (found.bound <= limit)
    restored = torch.where(torch.isinf(limit), 0.0, limit)[..., None] * (terms.mass - terms.weight_lb).clamp(min=0.0)
    keys = torch.where((levels & KEYS) == 0, known(terms.pure_key + restored), 0.0)
    values = torch.where((levels & VALUES) == 0, known(terms.value), 0.0)
    needed = found.need > 0.0
    marks, enough = largest_until(torch.cat([keys, values], dim=-1), torch.where(needed, found.need, 1.0))
    items = marks.sum(-1)
    refine = active & ~accepted & needed & enough & (items > 0) & (items <= most)
    if rounds_left <= 0:
        refine = torch.zeros_like(refine)
    action = torch.where(accepted, ACCEPT, torch.where(refine, REFINE, EXACT_HEAD)).to(torch.uint8)
    out.action.copy_(torch.where(active, action, out.action))
    blocks = levels.shape[-1]
    chosen = marks[..., :blocks] * KEYS + marks[..., blocks:] * VALUES
    out.chosen.copy_(torch.where(refine[..., None], chosen, 0))
    compact(out)


def compact(out: Choice) -> None:
    """List the blocks that any query head of a KV head has chosen."""
    wanted = (grouped(out.chosen, out.work.shape[1]) != 0).any(2)
    place = torch.where(wanted, wanted.cumsum(-1) - 1, wanted.shape[-1])
    blocks = torch.arange(wanted.shape[-1], dtype=torch.int32, device=wanted.device).expand(wanted.shape)
    listed = torch.full((*wanted.shape[:-1], wanted.shape[-1] + 1), -1, dtype=torch.int32, device=wanted.device)
    listed.scatter_(-1, place, blocks)
    out.work.copy_(listed[..., :-1])
    out.counts.copy_(wanted.sum(-1))
