"""Accept a head, choose what to promote, or give it to rung 3; the choice by a threshold, without sorting.

Items of a head are (block, keys) and (block, values). Promoting keys takes ``C_b`` without rounding off the numerator,
which stays, and gives ``limit (rho_b - D_b)`` back; promoting values takes ``U_b`` off. The smallest set that takes off
at least ``need`` is that of the largest gains (greedy; reference ``largest_until``): the gains from the largest
threshold on that sums to enough. It is found by bisection over the bit patterns of binary32, which are ordered as the
numbers are; of gains equal to the threshold as many are taken as are needed, lowest index first.

What is infinite is promoted first, alone. Where all finite gains together fall short, no choice helps: rung 3.

**Levels.** Where formats have planes, an item has a level for each plane that was not read, and the original; level j
takes g_j off and costs c_j, in originals of a block: planes that are still to be read, or 1. At a price theta every
item takes the level with the largest ``g_j - theta c_j``, the cheapest of them, and the largest theta at which that
sums to enough is found as above (reference ``cheapest_levels``; `cheapest_until` says what differs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.certify import Foreseen, Terms
from certkv.fast.charges import Charges
from certkv.fast.coded import grouped
from certkv.fast.levels import ORIGINAL, SHIFT, planes
from certkv.fast.outward_fp32 import known
from certkv.fast.totals import Totals, Unit, totals

ACCEPT, REFINE, EXACT_HEAD = 0, 1, 2
"""Actions."""

KEYS, VALUES = 1, 2
"""Bits of levels and choices."""

INFINITY_BITS = 0x7F800000


DEVICE_COST = 2.0**-6
"""What reading a byte on the device costs, a byte from host memory being 1: about the ratio of bandwidths of an H200
and of PCIe 5. Of consequence for the choice alone."""


class Prices(NamedTuple):
    """What levels cost, and what they would leave.

    Attributes
    ----------
    keys, values : tuple of float
        Of each plane, in originals of one side of a block.
    foreseen : Foreseen
    """

    keys: tuple[float, ...]
    values: tuple[float, ...]
    foreseen: Foreseen


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


def cheapest_until(gain: torch.Tensor, cost: torch.Tensor, need: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick a level for every item so that gains sum to at least ``need``, by gain per cost.

    Parameters
    ----------
    gain : float32 [..., items, levels]
        Non-negative; by level, the original last. ``+inf`` is allowed there, and then counts alone.
    cost : float32 [..., items, levels]
        Non-negative and finite, not falling with the level.
    need : float32 [...]
        Positive.

    Returns
    -------
    chosen : int64 [..., items]
        0 for nothing, otherwise a level, counted from 1.
    enough : bool [...]
        Whether they do; where not, nothing is chosen.

    Notes
    -----
    At a price, every item's level is one of those that the greedy choice goes through, so the choice costs less than
    the cheapest one and a step, as the reference's does. Where the reference takes originals only if that is cheaper,
    which can save a part of that step, this does not look; and what is computed here rounds in binary32.
    """
    infinite = torch.isinf(gain[..., -1])
    any_infinite = infinite.any(-1)
    finite = torch.where(torch.isinf(gain).any(-1)[..., None], 0.0, gain)

    def at_price(price: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the level of every item, and its gain."""
        left = finite - price[..., None, None] * cost
        best, gained = torch.zeros_like(finite[..., 0]), torch.zeros_like(finite[..., 0])
        level = torch.zeros(best.shape, dtype=torch.int64, device=finite.device)
        for j in range(finite.shape[-1]):
            better = left[..., j] > best
            best = torch.where(better, left[..., j], best)
            level = torch.where(better, j + 1, level)
            gained = torch.where(better, finite[..., j], gained)
        return level, gained

    low = torch.zeros(need.shape, dtype=torch.int32, device=gain.device)
    high = torch.full_like(low, INFINITY_BITS)
    enough = any_infinite | (at_price(low.view(torch.float32))[1].sum(-1) >= need)
    for _ in range(31):
        middle = low + (high - low) // 2
        reached = at_price(middle.view(torch.float32))[1].sum(-1) >= need
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    dear, of_dear = at_price(torch.clamp(low + 1, max=INFINITY_BITS - 1).view(torch.float32))
    cheap, of_cheap = at_price(low.view(torch.float32))
    # steps of one price, lowest index first, as many as are needed
    more = torch.where(cheap != dear, of_cheap - of_dear, 0.0)
    left = need - of_dear.sum(-1)
    before = more.cumsum(-1) - more
    level = torch.where((cheap != dear) & (before < left[..., None]), cheap, dear)
    level = torch.where(any_infinite[..., None], infinite * gain.shape[-1], level)
    return torch.where(enough[..., None], level, 0), enough


def level_gains(
    whole: torch.Tensor, left: list[torch.Tensor], prices: tuple[float, ...], levels: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what every level of one side takes off, and costs, float32 [..., blocks, planes + 1]; originals last.

    Parameters
    ----------
    whole : float32 [..., blocks]
        What the block adds now, 0 where it is original.
    left : list of float32 [..., blocks]
        What it would still add, by level above the base.
    prices : tuple of float
        Of each plane.
    levels : uint8 [..., blocks]
    side : int
    """
    have = planes(levels, side)
    open_ = (levels & ORIGINAL[side]) == 0
    gains, costs, price = [], [], torch.zeros_like(whole)
    for plane, (rest, cost) in enumerate(zip(left, prices, strict=True)):
        wanted = open_ & (have <= plane)
        price = price + torch.where(wanted, cost, 0.0)
        taken = (whole - rest).clamp(min=0.0)  # unknown less unknown is unknown, and takes nothing off
        gains.append(torch.where(wanted & ~torch.isnan(taken), taken, 0.0))
        costs.append(price)
    return torch.stack([*gains, whole], -1), torch.stack([*costs, torch.ones_like(whole)], -1)


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
    prices: Prices | None = None,
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
    prices : Prices or None
        Where formats have planes.
    """
    active = out.action == REFINE
    totals(terms.partial, output, charges, unit, tolerance, found, active)
    limit = found.tolerance
    accepted = (limit > 0.0) & (found.bound <= limit)
    limits = torch.where(torch.isinf(limit), 0.0, limit)[..., None]
    restored = limits * (terms.mass - terms.weight_lb).clamp(min=0.0)
    keys = torch.where((levels & KEYS) == 0, known(terms.key_gain + restored), 0.0)
    values = torch.where((levels & VALUES) == 0, known(terms.value), 0.0)
    needed = found.need > 0.0
    need = torch.where(needed, found.need, 1.0)
    blocks = levels.shape[-1]
    if prices is None:
        marks, enough = largest_until(torch.cat([keys, values], dim=-1), need)
        chosen = marks[..., :blocks] * KEYS + marks[..., blocks:] * VALUES
        items = marks.sum(-1)
    else:
        foreseen = prices.foreseen
        weights = [limits * (terms.mass - weight).clamp(min=0.0) for weight in foreseen.weight_lb]
        left = [known(key + weight) for key, weight in zip(foreseen.key, weights, strict=True)]
        sides = (
            level_gains(keys, left, prices.keys, levels, 0),
            level_gains(values, [known(x) for x in foreseen.value], prices.values, levels, 1),
        )
        wide = max(gain.shape[-1] for gain, _ in sides)
        gain, cost = (torch.cat([widened(side[i], wide) for side in sides], -2) for i in (0, 1))
        picked, enough = cheapest_until(gain, cost, need)
        chosen = torch.zeros_like(levels, dtype=torch.int64)
        for side, part in enumerate((picked[..., :blocks], picked[..., blocks:])):
            read = torch.where(part == wide, ORIGINAL[side], part << SHIFT[side])
            chosen = chosen | torch.where(part == 0, 0, read)
        items = (picked > 0).sum(-1)
    refine = active & ~accepted & needed & enough & (items > 0) & (items <= most)
    if rounds_left <= 0:
        refine = torch.zeros_like(refine)
    action = torch.where(accepted, ACCEPT, torch.where(refine, REFINE, EXACT_HEAD)).to(torch.uint8)
    out.action.copy_(torch.where(active, action, out.action))
    out.chosen.copy_(torch.where(refine[..., None], chosen, 0))
    compact(out)


def widened(x: torch.Tensor, levels: int) -> torch.Tensor:
    """Give a side as many levels as the other has: the original stays last, and what is put before it gains nothing."""
    missing = levels - x.shape[-1]
    if not missing:
        return x
    nothing = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], missing)
    return torch.cat([x[..., :-1], nothing, x[..., -1:]], -1)


def compact(out: Choice) -> None:
    """List the blocks that any query head of a KV head has chosen."""
    wanted = (grouped(out.chosen, out.work.shape[1]) != 0).any(2)
    place = torch.where(wanted, wanted.cumsum(-1) - 1, wanted.shape[-1])
    blocks = torch.arange(wanted.shape[-1], dtype=torch.int32, device=wanted.device).expand(wanted.shape)
    listed = torch.full((*wanted.shape[:-1], wanted.shape[-1] + 1), -1, dtype=torch.int32, device=wanted.device)
    listed.scatter_(-1, place, blocks)
    out.work.copy_(listed[..., :-1])
    out.counts.copy_(wanted.sum(-1))


def warps_for(max_blocks: int) -> int:
    """Return how many warps of a kernel hold a number per block."""
    return min(max((1 << (max_blocks - 1).bit_length()) // 256, 1), 16)
