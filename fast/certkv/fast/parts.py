"""What a plan holds for its runs, beside the workspace."""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.certify import Foreseen, Terms
from certkv.fast.choose import Choice
from certkv.fast.finer_errors import FinerErrors
from certkv.fast.first_tier import Opened
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.paper import Selection
from certkv.fast.refine import Corrections
from certkv.fast.score_error import ScoreErrors
from certkv.fast.totals import Totals


class Parts(NamedTuple):
    """What a plan holds for its runs, beside the workspace; everything is allocated once.

    ``met`` (int64 [1]) counts programs of the ladder that have met.
    """

    errors: ScoreErrors
    terms: Terms
    found: Totals
    choice: Choice
    corrections: Corrections
    largest: torch.Tensor
    lost: torch.Tensor
    resident_mass: torch.Tensor
    exact_bound: torch.Tensor
    missing: torch.Tensor
    dense: torch.Tensor
    opened: Opened
    met: torch.Tensor
    selection: Selection
    finer: FinerErrors
    foreseen: Foreseen

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        # two parts share what happens to a head
        tensors = (tensor for part in self for tensor in ((part,) if isinstance(part, torch.Tensor) else part))
        return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())

    @classmethod
    def empty(cls, cache: TieredCache, q_heads: int, selects: bool, programs: int) -> Parts:
        """Allocate; floats are NaN.

        Parameters
        ----------
        cache : TieredCache
        q_heads : int
        selects : bool
            Whether the policy selects blocks by their masses.
        programs : int
            How many bring blocks from the host at once.
        """
        batch, device, max_blocks, head_dim = cache.batch, cache.device, cache.max_blocks, cache.head_dim

        def heads() -> torch.Tensor:
            return torch.full((batch, q_heads), torch.nan, dtype=torch.float32, device=device)

        shape = (batch, q_heads, max_blocks)
        choice = Choice.empty(batch, q_heads, cache.kv_heads, max_blocks, device)
        rotated = key_format(cache.keys).rotated, value_format(cache.values).rotated
        found = Totals.empty(batch, q_heads, device)
        # a head that goes to rung 3 before anything was chosen has had no tolerance enforced
        found.tolerance.fill_(torch.inf)
        return cls(
            errors=ScoreErrors(*(torch.full(shape, torch.nan, device=device) for _ in range(3))),
            terms=Terms.empty(batch, q_heads, max_blocks, device),
            found=found,
            choice=choice,
            corrections=Corrections.empty(
                batch, q_heads, head_dim, device, rotated, (programs, cache.block * head_dim)
            ),
            largest=heads(),
            lost=torch.full((batch, q_heads, 3), torch.nan, device=device),
            resident_mass=torch.full((batch, q_heads, 2), torch.nan, device=device),
            exact_bound=heads(),
            missing=torch.zeros(batch, dtype=torch.uint8, device=device),
            dense=torch.zeros(batch, dtype=torch.uint8, device=device),
            opened=Opened.empty(choice.action),
            met=torch.zeros(1, dtype=torch.int64, device=device),
            selection=Selection.empty(batch, q_heads, max_blocks if selects else 0, device),
            finer=FinerErrors.empty(cache.planes.counts[0], batch, q_heads, max_blocks, device),
            foreseen=Foreseen.empty(cache.planes.counts, batch, q_heads, max_blocks, device),
        )
