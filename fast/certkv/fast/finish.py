"""Finish: what a step returns, from the state of its heads; the last kernel of a step, and its torch twin.

A head's output is that of its last pass, or rung 3's, rounded to its type (the bound has that inside). Where a sequence
has no output - a token that could not be appended, a query that is not finite, originals that are needed and missing, a
monitor that asks for rung 4, a number that came out as NaN or infinite - the outputs of all its heads are NaN,
their bounds ``+inf``, and the status says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from certkv.fast.certificate import Certificate, Status
from certkv.fast.choose import EXACT_HEAD, KEYS, REFINE, VALUES, Choice
from certkv.fast.coded import Coded
from certkv.fast.levels import planes, used
from certkv.fast.planes import Planes
from certkv.fast.totals import Totals

NOWHERE = -1
"""Position where nothing offends."""

LARGEST_HALF = 65504.0
"""Largest binary16 number: an output beyond it, which codes may give, is brought back to it. The exact output is an
average of originals and within; moving a coordinate to the nearest one in range brings it no farther from there."""


def in_range(output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return float32 outputs within the range of binary16, if that is the type they are rounded to; NaN stays one."""
    return output.clamp(-LARGEST_HALF, LARGEST_HALF) if dtype == torch.float16 else output


@dataclass(frozen=True, eq=False)
class Result:
    """What a step writes; every tensor is the caller's.

    Attributes
    ----------
    output : T or float32 [batch, q_heads, d]
    lse : float32 [batch, q_heads]
        Natural logarithm of the sum of exponentiated scores, as executed.
    certificate : Certificate
    position : int64 [batch]
        First offending element of ``q[sequence]``, or of a key or value that was refused, flattened; -1 where there is
        none.
    """

    output: torch.Tensor
    lse: torch.Tensor
    certificate: Certificate
    position: torch.Tensor


class Flags(NamedTuple):
    """Why a sequence may have no output.

    Attributes
    ----------
    missing, dense : uint8 [batch]
        Originals are not there; a monitor asks for rung 4, or sums overflowed.
    refused : int32 [batch]
        Status of tokens that could not be appended; it stays from step to step.
    refused_at : int64 [batch]
        See `append_one.Refusals`.
    """

    missing: torch.Tensor
    dense: torch.Tensor
    refused: torch.Tensor
    refused_at: torch.Tensor


def begin_twin(levels: torch.Tensor, choice: Choice, flags: Flags, moved: torch.Tensor, reopen: bool = True) -> None:
    """Forget the last run: nothing is promoted, missing or moved (int64 [batch]); every head is open, if ``reopen``."""
    levels.zero_()
    if reopen:
        choice.action.fill_(REFINE)
    flags.missing.zero_()
    flags.dense.zero_()
    moved.zero_()


def finish_twin(
    q: torch.Tensor,
    coded: Coded,
    output: torch.Tensor,
    lse: torch.Tensor,
    exact_bound: torch.Tensor,
    found: Totals,
    levels: torch.Tensor,
    selected: torch.Tensor | None,
    choice: Choice,
    flags: Flags,
    block_bytes: int,
    out: Result,
) -> None:
    """Write outputs and certificates; the torch twin of ``kernels.finish``.

    Parameters
    ----------
    q : T [batch, Hq, d]
    coded : Coded
    output : float32 [batch, Hq, d]
        Of the head's last pass; of rung 3 where its action is `EXACT_HEAD`.
    lse : float32 [batch, Hq]
        Likewise.
    exact_bound : float32 [batch, Hq]
        Bound of rung 3, its rounding to the output's type included.
    found : Totals
    levels : uint8 [batch, Hq, max_blocks]
    selected : uint8 [batch, Hq] or None
        Rungs of policies that promote in their first pass; None where they follow from the levels.
    choice : Choice
    flags : Flags
    block_bytes : int
        Bytes of one side of a block of one KV head.
    out : Result
    """
    certificate = out.certificate
    exact_heads = choice.action == EXACT_HEAD
    bound = torch.where(exact_heads, exact_bound, found.bound)
    keys, values = ((levels & bit != 0).sum(-1) for bit in (KEYS, VALUES))
    everything = (coded.lengths // coded.block - coded.first).clamp(min=0)[:, None].expand_as(keys)
    promoted = torch.where(exact_heads[..., None], everything[..., None], torch.stack([keys, values], -1))
    rung = torch.where(values > 0, 2, (keys > 0).to(torch.int64)) if selected is None else selected.to(torch.int64)
    zero = torch.zeros_like(bound)
    parts = {
        "bound": torch.where(torch.isnan(bound), torch.inf, bound),
        "key": torch.where(exact_heads, zero, found.key),
        "value": torch.where(exact_heads, zero, found.value),
        "arithmetic": torch.where(exact_heads, bound, found.arithmetic),
        "tolerance": found.tolerance,
        "rung": torch.where(exact_heads, 3, rung),
        "promoted": promoted,
        "host_bytes": promoted.sum(-1) * block_bytes,
    }
    finite = torch.isfinite(q)
    flat = finite.flatten(1)
    first = torch.where(flat.all(-1), NOWHERE, flat.to(torch.uint8).argmin(-1))
    refused = flags.refused != int(Status.OK)
    out.position.copy_(torch.where(refused, flags.refused_at, first))
    damaged = (~torch.isfinite(output)).any(-1).any(-1)
    status = torch.full_like(first, int(Status.OK))
    # the last that holds is the first that the ladder asks for
    for wrong, code in (
        (damaged, Status.CHECKSUM),
        (flags.dense != 0, Status.NEEDS_DENSE),
        (flags.missing != 0, Status.HOST_MISSING),
        (first != NOWHERE, Status.NONFINITE_QUERY),
    ):
        status = torch.where(wrong, int(code), status)
    status = torch.where(refused, flags.refused.to(status.dtype), status)
    nothing = (status != int(Status.OK))[:, None].expand_as(bound)
    certificate.status.copy_(status[:, None].expand_as(bound))
    for name, part in parts.items():
        blank = torch.inf if part.dtype == torch.float32 else 0
        here = nothing[..., None] if part.ndim == 3 else nothing
        getattr(certificate, name).copy_(torch.where(here, blank, part))
    kept = in_range(output, out.output.dtype)
    out.output.copy_(torch.where(nothing[..., None], torch.nan, kept))
    out.lse.copy_(torch.where(nothing, torch.nan, lse))


def finish_levels_twin(levels: torch.Tensor, choice: Choice, held: Planes, certificate: Certificate) -> None:
    """Add what was read of refinement planes to certificates that `finish` has written; twin of ``kernels.planes``.

    Parameters
    ----------
    levels : uint8 [batch, Hq, max_blocks]
    choice : Choice
    held : Planes
    certificate : Certificate
    """
    good = certificate.status == int(Status.OK)
    exact_heads = choice.action == EXACT_HEAD
    total = torch.zeros_like(certificate.plane_bytes)
    for side, sizes in enumerate(held.block_bytes):
        read = planes(levels, side)
        level = used(levels, side, len(sizes))
        for plane, size in enumerate(sizes):
            total += size * (read > plane).sum(-1)
            count = torch.where(exact_heads, 0, (level == plane + 1).sum(-1))
            certificate.finer[..., side, plane].copy_(torch.where(good, count, 0))
        rung = torch.where((read > 0).any(-1) & good, side + 1, 0).to(torch.int32)
        torch.maximum(certificate.rung, rung, out=certificate.rung)
    total = torch.where(good, total, 0)
    certificate.plane_bytes.copy_(total)
    if held.place == "host":
        certificate.host_bytes.add_(total)
