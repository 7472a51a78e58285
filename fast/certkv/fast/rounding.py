"""What rounding costs a step: the charges of its passes, from the arithmetic model of what runs on a device."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import torch

from certkv.fast.arithmetic import Arithmetic, Sums, charges, original_score, query_loss, weight_error
from certkv.fast.cache import TieredCache
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.grouped_arithmetic import turning
from certkv.fast.outward_fp32 import above
from certkv.fast.refine import Losses, refined


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
    losses: Losses
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
    after, losses = refined(
        first,
        block=cache.block,
        max_blocks=cache.max_blocks,
        rounds=rounds,
        chain=weight_error(model, sums),
        turning=turning(cache.head_dim) if values.rotated else 0,
    )
    lost = above(query_loss(model, sums) / first.coded.relative)
    return Rounding(first.rounded(), after.rounded(), losses, rounded(original_score(model, sums)), lost)


def rounded(charge: ScoreCharge) -> ScoreCharge:
    """Return the same in binary32, rounded up."""
    return ScoreCharge(*(above(getattr(charge, one.name)) for one in fields(charge)))
