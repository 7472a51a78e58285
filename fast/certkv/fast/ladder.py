"""What the ladder of a step works on: certify, choose, promote, compute anew, finish; the kernel is `kernels.ladder`.

Twins have none: `plan` calls theirs one after another, as it does under policies that look at what parts left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.certify import Finer
from certkv.fast.choose import Prices, warps_for
from certkv.fast.coded import Coded
from certkv.fast.finish import Flags, Result
from certkv.fast.host import Originals
from certkv.fast.parts import Parts
from certkv.fast.refine import Check, FinerRead, State
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.scratch import Scratch
from certkv.fast.totals import Unit
from certkv.fast.workspace import Workspace


class Levels(NamedTuple):
    """What formats with planes need beside."""

    finer: Finer
    read: FinerRead
    prices: Prices


class Ladder(NamedTuple):
    """Everything that is read and written; see the parts.

    Attributes
    ----------
    q : T [batch, Hq, d]
    coded : Coded
    resident : Resident
    originals : Originals
    scratch : Scratch
    scale : float
    rounding : Rounding
    unit, tolerance
        What to enforce.
    rounds : int
        Of promotion, at most.
    ws : Workspace
        After the first tier.
    parts : Parts
        ``opened.some`` is set where a head is open; it is cleared.
    state : State
    check : Check
    flags : Flags
    moved : int64 [batch]
    programs : int
        That run at once; see `programs_on`.
    always : bool
        Whether to go through it whatever the first tier found.
    out : Result
        Written where a head is open.
    levels : Levels or None
        Where formats have planes.
    """

    q: torch.Tensor
    coded: Coded
    resident: Resident
    originals: Originals
    scratch: Scratch
    scale: float
    rounding: Rounding
    unit: Unit
    tolerance: float
    rounds: int
    ws: Workspace
    parts: Parts
    state: State
    check: Check
    flags: Flags
    moved: torch.Tensor
    programs: int
    always: bool
    out: Result
    levels: Levels | None = None


def warps_of(max_blocks: int, group: int, head_dim: int) -> int:
    """Return warps of a program, one number for all parts."""
    return max(4 if group <= 4 and head_dim <= 128 else 8, warps_for(max_blocks) // 2)


def programs_on(multiprocessors: int | None, warps: int) -> int:
    """Return how many programs run at once: a multiprocessor's registers hold eight warps of 255.

    Without a GPU it is one: the interpreter runs one after another, and compilers do not ask.
    """
    return 1 if multiprocessors is None else multiprocessors * max(1, 8 // warps)
