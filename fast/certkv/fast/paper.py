"""The decisions of `PaperPolicy` (arXiv 2605.20868, Algorithm 1) on the masses of a pass, in torch.

One pass over the codes serves for both of the paper's: blocks are selected by the masses that it executed, promoted by
correction, and certified from what was executed in the end. A NaN fails every check. These run on any device and may
be captured; on a GPU they allocate, in a graph's own pool.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.choose import EXACT_HEAD, KEYS, VALUES, Choice, compact, largest_until
from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import known
from certkv.fast.policies import PaperPolicy
from certkv.fast.refine import CHECKED

RESIDUAL = 0
"""Where the largest residual of a block's values is among its notes."""

_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_GOLDEN = -0x61C8864680B583EB


class Selection(NamedTuple):
    """What the first pass was, and what is made of it.

    Attributes
    ----------
    mass : float32 [batch, Hq, max_blocks]
        Shares of the blocks as coded.
    total : float32 [batch, Hq]
        Denominator of the coded pass.
    rung : uint8 [batch, Hq]
    """

    mass: torch.Tensor
    total: torch.Tensor
    rung: torch.Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, max_blocks: int, device: torch.device | str = "cpu") -> Selection:
        """Allocate."""
        shape = (batch, heads)
        return cls(
            torch.full((*shape, max_blocks), torch.nan, device=device),
            torch.full(shape, torch.nan, device=device),
            torch.zeros(shape, dtype=torch.uint8, device=device),
        )


def coverage(
    policy: PaperPolicy, mass: torch.Tensor, already: torch.Tensor, blocks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the fewest blocks that reach the coverage; enlarge once where the rest is too heavy (rung 1).

    Parameters
    ----------
    policy : PaperPolicy
    mass : float32 [batch, Hq, max_blocks]
        0 beyond the blocks of a sequence.
    already : float32 [batch, Hq]
        Share of the tail, which is always exact.
    blocks : int [batch, 1]

    Returns
    -------
    chosen : bool [batch, Hq, max_blocks]
        Ties go to the lower index.
    expanded : bool [batch, Hq]
    """
    worth = torch.where(torch.arange(mass.shape[-1], device=mass.device) < blocks[..., None], mass, -1.0)
    ranked, order = torch.sort(worth, dim=-1, descending=True, stable=True)
    ranked = ranked.clamp(min=0.0)
    reached = already[..., None] + ranked.cumsum(-1) >= policy.coverage
    first = torch.where(reached.any(-1), reached.to(torch.uint8).argmax(-1) + 1, blocks)
    count = torch.where(already >= policy.coverage, 0, first).clamp(policy.k_min, policy.k_max)
    place = torch.arange(mass.shape[-1], device=mass.device)
    tail = torch.where(place >= count[..., None], ranked, 0.0).sum(-1)
    # asked so that a NaN enlarges the choice
    expanded = ~(tail <= policy.tail_threshold) & (blocks > 0)
    larger = torch.ceil(policy.expansion * count.to(torch.float64)).clamp(max=2**31).to(torch.int64)
    count = torch.minimum(torch.where(expanded, larger, count), blocks)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, place < count[..., None])
    return chosen, expanded


def promoted_values(policy: PaperPolicy, mass: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Rung 2: blocks whose ``rho_b eta_b`` is too large, or the largest until a value budget fits; bool as ``mass``."""
    error = known(mass * residual)
    if policy.value_budget is None:
        return ~(error <= policy.value_tolerance)
    need = error.sum(-1) - policy.value_budget
    marks, _ = largest_until(error, torch.where(need > 0.0, need, 1.0))
    return marks & (need > 0.0)[..., None]


def explored(policy: PaperPolicy, index: torch.Tensor, heads: int, blocks: int) -> torch.Tensor:
    """Draw each (head, block) with a probability, as a hash of (seed, step, head, block); bool [heads, blocks].

    Parameters
    ----------
    policy : PaperPolicy
    index : int64 []
        Number of the step.
    """
    device = index.device
    seed = policy.seed % 2**64
    word = torch.full((heads, blocks), seed - 2**64 if seed >= 2**63 else seed, dtype=torch.int64, device=device)
    parts = (index, torch.arange(heads, device=device)[:, None], torch.arange(blocks, device=device)[None])
    for part in parts:
        word = _mix((word + _GOLDEN) ^ part)
    return torch.lt(_shifted(word, 11).to(torch.float64) * 2.0**-53, policy.exploration)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """Shift words to the right, zeros coming in; torch's integers have a sign."""
    shifted: torch.Tensor = (x >> by) & (2 ** (64 - by) - 1)
    return shifted


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser; products wrap around."""
    x = (x ^ _shifted(x, 30)) * _MIX[0]
    x = (x ^ _shifted(x, 27)) * _MIX[1]
    return x ^ _shifted(x, 31)


def select(
    policy: PaperPolicy,
    coded: Coded,
    mass: torch.Tensor,
    resident_mass: torch.Tensor,
    total: torch.Tensor,
    index: torch.Tensor,
    choice: Choice,
    out: Selection,
) -> None:
    """Choose what is promoted, from a pass over codes alone.

    Parameters
    ----------
    policy : PaperPolicy
    coded : Coded
    mass : float32 [batch, Hq, max_blocks]
        See `certify.Terms`.
    resident_mass : float32 [batch, Hq, 2]
    total : float32 [batch, Hq]
        Denominator.
    index : int64 []
    choice : Choice
        ``chosen`` and the work list are written.
    out : Selection
        Written.
    """
    blocks = (coded.lengths // coded.block)[:, None].to(torch.int64)
    valid = coded.valid()[:, :, 0]
    keys, expanded = coverage(policy, mass, resident_mass.sum(-1), blocks)
    notes = known(coded.gather(coded.pool.value_notes)[..., RESIDUAL].to(torch.float32))[:, :, None]
    values = promoted_values(policy, grouped(mass, notes.shape[1]), notes).flatten(1, 2)
    chosen = keys * KEYS + (values & valid) * VALUES
    if policy.exploration > 0.0:
        drawn = explored(policy, index, mass.shape[1], mass.shape[2])
        chosen = chosen + (drawn & valid) * CHECKED
    choice.chosen.copy_(torch.where(valid, chosen, 0))
    compact(choice)
    out.mass.copy_(mass)
    out.total.copy_(total)
    some_values = (choice.chosen & VALUES != 0).any(-1)
    out.rung.copy_(torch.where(some_values, 2, expanded.to(torch.int64)))


def monitors(
    policy: PaperPolicy,
    coded: Coded,
    before: Selection,
    mass: torch.Tensor,
    total: torch.Tensor,
    delta: torch.Tensor,
    levels: torch.Tensor,
    choice: Choice,
) -> None:
    """Send heads to rung 3 where the ranking or the boundary of the choice does not hold.

    Parameters
    ----------
    policy : PaperPolicy
    coded : Coded
    before : Selection
        The coded pass.
    mass : float32 [batch, Hq, max_blocks]
        After promotion.
    total : float32 [batch, Hq]
        Likewise; both denominators have the same reference.
    delta : float32 [batch, Hq, max_blocks]
        Score errors of coded keys.
    levels : uint8 [batch, Hq, max_blocks]
    choice : Choice
        ``action`` becomes `EXACT_HEAD` where a check fails.
    """
    valid = coded.valid()[:, :, 0].expand(mass.shape)
    chosen = (levels & KEYS != 0) & valid
    exact = torch.log(mass * total[..., None])
    coarse = torch.log(before.mass * before.total[..., None])
    # a mass of 0 is one below the range of weights, not an unknown one
    finite = torch.where(chosen, (exact < torch.inf) & (coarse < torch.inf), True).all(-1)
    ranked = (_top(exact, chosen, policy.rank) == _top(coarse, chosen, policy.rank)).all(-1)
    order = torch.sort(torch.where(chosen, exact, -torch.inf), dim=-1, descending=True).values
    weakest = order[..., min(policy.rank, order.shape[-1]) - 1][..., None]
    largest = torch.where(valid, delta, 0.0).amax(-1, keepdim=True)
    bounded = torch.where(chosen | ~valid, True, coarse + largest <= weakest).all(-1)
    choice.action.copy_(torch.where(finite & ranked & bounded, choice.action, EXACT_HEAD))


def _top(log_mass: torch.Tensor, chosen: torch.Tensor, rank: int) -> torch.Tensor:
    """Mark the ``rank`` chosen blocks of largest log-mass; the lower index wins a tie."""
    key = torch.where(chosen & ~torch.isnan(log_mass), -log_mass, torch.inf)
    order = torch.sort(key, dim=-1, stable=True).indices[..., :rank]
    return torch.zeros_like(chosen).scatter(-1, order, True) & chosen
