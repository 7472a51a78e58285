"""What rounding costs a step: the charges of its passes, from the arithmetic model of what runs on a device."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import torch

from certkv.fast.arithmetic import Arithmetic, Sums, charges, mass_error, original_score, query_loss
from certkv.fast.cache import TieredCache
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.grouped_arithmetic import turning
from certkv.fast.outward_fp32 import above
from certkv.fast.refine import refined


class Rounding(NamedTuple):
    """What rounding costs, in binary32.

    Attributes
    ----------
    first, after : Charges
        Of the first pass, and of a state that refinement may have corrected.
    exact : ScoreCharge
        Of a score in rung 3.
    lost : float
        See `score_error.score_error`.
    """

    first: Charges
    after: Charges
    exact: ScoreCharge
    lost: float


def rounding(model: Arithmetic, cache: TieredCache, splits: int, rounds: int, out_dtype: torch.dtype) -> Rounding:
    """Evaluate the arithmetic of an implementation for every length up to the cache's capacity."""
    keys, values = key_format(cache.keys), value_format(cache.values)
    sums = Sums.of(
        keys,
        values,
        tokens=cache.capacity,
        head_dim=cache.head_dim,
        block=cache.block,
        splits=splits,
        bfloat16=cache.dtype == torch.bfloat16,
    )
    first = charges(model, sums, out_dtype)
    # what a share's factors err by is more than what the factors of a weight do
    after = refined(
        first,
        block=cache.block,
        max_blocks=cache.max_blocks,
        rounds=rounds,
        chain=mass_error(model, sums),
        changes=1 + max(cache.planes.counts),
        turning=turning(cache.head_dim) if values.rotated else 0,
    )
    lost = above(query_loss(model, sums) / first.coded.relative)
    return Rounding(first.rounded(), after.rounded(), rounded(original_score(model, sums)), lost)


def rounded(charge: ScoreCharge) -> ScoreCharge:
    """Return the same in binary32, rounded up."""
    return ScoreCharge(*(above(getattr(charge, one.name)) for one in fields(charge)))
