"""What the ladder of a step works on: certify, choose, promote, compute anew, finish; the kernel is `kernels.ladder`.

Twins have none: `plan` calls theirs one after another, as it does under policies that look at what parts left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.certify import Finer
from certkv.fast.choose import Prices
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
    always: bool
    out: Result
    levels: Levels | None = None
