"""The first tier of a certificate: theorem ``spectral`` with one number per block in place of one per token.

The programs of a pass have added up their blocks' terms A, G, U in the units of their states (`split_terms`). With the
factors ``2^(m_s - M)`` of these states, the sums are those of the head, in the unit of M. The factor of a share,
``share_up / l``, comes on top, and what a share may be above that, ``share_lost``, is charged with the worst numbers of
any block, for T tokens: ``lost = T share_lost``, ``drift = lost Delta e^Delta``. With these

    bound  =  ( sum A + drift n + gamma g + sum U + lost eta + eps_acc ) e^g          g = sum G + drift

(theorem ``spectral``, "One number per block", docs/derivations/spectral.md), drift and G of the resident tokens
``share (e^eps - 1) <= share eps e^eps``. No annotation per token is read and no
weight: a head whose bound meets its tolerance here is done, and the others are certified token by token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from certkv.fast.certificate import Status
from certkv.fast.certify import chunked, distance_ub, lowered, mass_lb, not_negative
from certkv.fast.charges import LARGEST_OPERAND, Charges
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded, grouped
from certkv.fast.finish import NOWHERE, Result, in_range
from certkv.fast.merge import merge_twin
from certkv.fast.outward_fp32 import DOWN, FACTOR, LOST, above, exp_ub, inflate, known
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.scaled_query import query_power
from certkv.fast.split_terms import SUMS, TERMS, query_numbers, rounded_score
from certkv.fast.totals import Totals, Unit, parts_of, tolerance_lb
from certkv.fast.workspace import Workspace

LOWERED = 1.0 - 2.0**-10
"""Covers the roundings of a sum that is a lower bound."""


class Opened(NamedTuple):
    """What the first tier leaves to do.

    Attributes
    ----------
    action : uint8 [batch, Hq]
        `choose.ACCEPT` where the tolerance is met, `choose.REFINE` elsewhere.
    some : int32 [1]
        Set to 1 where any head is open; whoever acts on it sets it to 0.
    """

    action: torch.Tensor
    some: torch.Tensor

    @classmethod
    def empty(cls, action: torch.Tensor) -> Opened:
        """Allocate what belongs to ``action``."""
        return cls(action, torch.zeros(1, dtype=torch.int32, device=action.device))


def first_tier(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    scale: float,
    rounding: Rounding,
    unit: Unit,
    tolerance: float,
    ws: Workspace,
    found: Totals,
    opened: Opened,
    refused: torch.Tensor,
    moved: torch.Tensor,
    out: Result,
) -> None:
    """Merge a pass, bound every head by its blocks' sums, and say which heads meet their tolerance.

    Parameters
    ----------
    q : T [batch, Hq, d]
    coded : Coded
    resident : Resident
    scale : float
    rounding : Rounding
    unit, tolerance
        What to enforce; see `totals.tolerance_lb`.
    ws : Workspace
        After attend with statistics; the merged state is written.
    found : Totals
        Written, but for what is needed, which follows from finer terms where a head is open.
    opened : Opened
        Written; the head of a query or an output that is not finite stays open.
    refused : int32 [batch]
        Sequences whose status is not OK stay open.
    moved : int64 [batch]
        Bytes moved from the host: none, so far.
    out : Result
        Written, and final for as long as no head is open; `finish` writes all of it anew.
    """
    merge_twin(ws, None)
    charges, kv_heads, block, head_dim = rounding.first, coded.anchor.shape[1], coded.block, q.shape[-1]
    magnitude, floor = above(abs(scale)), above(charges.floor * math.sqrt(head_dim))
    norm_q, largest_q = query_numbers(ws, head_dim, query_power(q))
    norm_q = grouped(torch.where(largest_q <= LARGEST_OPERAND, norm_q, torch.inf), kv_heads)[..., None]
    denominator, c = (grouped(x, kv_heads) for x in (ws.l, ws.output))
    norm, gamma = distance_ub(c, torch.zeros_like(c)), distance_ub(c, coded.anchor[:, :, None])
    usable = (denominator > 0.0) & (denominator < torch.inf)
    inverse = torch.where(usable, 1.0 / denominator, torch.inf)

    parts = grouped(ws.part_terms, kv_heads)
    factor = torch.where(ws.part_m > -torch.inf, torch.exp2(ws.part_m - ws.m[..., None]), 0.0)[..., :-1]
    weighted = (grouped(factor, kv_heads)[..., None] * parts[..., :SUMS]).movedim(-1, 0)
    about, of, values, scale_lb, size, _ = chunked(weighted, "sum").sum(-1)
    # the rest of a block's bounds is the worst of any block
    worst, largest, farthest, lossy = parts[..., SUMS:TERMS].amax(-2).unbind(-1)

    held = resident_parts(ws, coded, resident, charges, magnitude, norm_q + floor, floor, inverse, norm)
    count = (coded.lengths // block - coded.first).clamp(min=0).to(torch.float32)[:, None, None]
    factor, lost = inverse * charges.share_up, charges.share_lost * (block * count)
    drift = lost * (worst * exp_ub(worst))
    about, of = about * factor, of * factor
    terms = known(inflate(about) + gamma * inflate(of))
    # what is left of the terms where rounding is switched off
    spared = torch.where(worst > 0.0, 1.0 - charges.coded.constant / worst, 0.0)
    mean_lost = count * charges.mass_lost * (largest + lossy)
    scale_lb = (scale_lb * inverse * (charges.mass_down * LOWERED) - mean_lost).nan_to_num(0.0).clamp(min=0.0)
    far = inflate(torch.where(count > 0.0, farthest + gamma, 0.0))
    found_sums = {
        "key": known(inflate(terms + drift * (farthest + gamma) + held["key"])),
        "pure_key": torch.where(terms == 0.0, 0.0, known(terms * inflate(spared))),
        "value": known(inflate(values * factor + lost * lossy)),
        "growth": exp_ub(known(inflate(of + drift + held["moved"]))),
        "scale_lb": scale_lb * LOWERED + held["scale_lb"],
        "size": known(size * factor + lost * largest) + held["size"],
        "largest": torch.maximum(largest, held["largest"]),
        "radius": torch.maximum(far, inflate(held["largest"] + norm)),
        "norm": norm,
    }
    head_totals({name: x.flatten(1, 2) for name, x in found_sums.items()}, charges, unit, tolerance, found)
    accepted = (found.tolerance > 0.0) & (found.bound <= found.tolerance)
    clean = torch.isfinite(q).flatten(1).all(-1)[:, None]
    accepted = accepted & clean & torch.isfinite(ws.output).all(-1) & (refused == int(Status.OK))[:, None]
    opened.action.copy_(torch.where(accepted, ACCEPT, REFINE))
    opened.some.logical_or_((~accepted).any())
    out.certificate.clear()
    for name in ("bound", "key", "value", "arithmetic", "tolerance"):
        getattr(out.certificate, name).copy_(getattr(found, name))
    out.output.copy_(in_range(ws.output, out.output.dtype))
    out.lse.copy_(ws.lse)
    out.position.fill_(NOWHERE)
    moved.zero_()


def head_totals(sums: dict[str, torch.Tensor], charges: Charges, unit: Unit, tolerance: float, found: Totals) -> None:
    """Write the certificate of every head from its sums, float32 [batch, Hq]; a quotient by ``e^-g`` is no quotient."""

    def grown(x: torch.Tensor) -> torch.Tensor:
        return known(x * sums["growth"] * FACTOR)

    key, pure, value, norm = (sums[name] for name in ("key", "pure_key", "value", "norm"))
    accumulation = charges.of_mean * sums["size"] + charges.of_largest * sums["largest"] + charges.of_output * norm
    cast = (charges.cast_relative * norm + charges.cast_absolute) * FACTOR
    theorem = grown(key + value + (accumulation + charges.absolute) + LOST)
    parts = parts_of(theorem, sums["radius"], cast, (pure, grown(pure)), (value, grown(value)))
    limit = tolerance_lb(unit, tolerance, sums["scale_lb"], (lowered(norm) - cast).clamp(min=0.0))
    for target, x in zip(found[:5], (*parts, limit), strict=True):
        target.copy_(x)


def resident_parts(
    ws: Workspace,
    coded: Coded,
    resident: Resident,
    charges: Charges,
    magnitude: float,
    norm_q: torch.Tensor,
    floor: float,
    inverse: torch.Tensor,
    norm: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return what resident tokens add to sums and maxima, float32 [batch, H, G] each."""
    kv_heads = coded.anchor.shape[1]
    total = grouped(ws.resident_sums, kv_heads)
    used, keys, mean, _ = (x[:, :, None].expand_as(total) for x in resident.norms.unbind(-1))
    reference, m = grouped(ws.resident_reference, kv_heads), grouped(ws.m, kv_heads)
    mass = not_negative(total * torch.exp2(reference - m[..., None]) * inverse[..., None])
    held = inflate(mass * charges.share_up + coded.block * charges.share_lost)
    keys = torch.where(keys <= LARGEST_OPERAND, keys, torch.inf)
    eps = inflate(rounded_score(charges.resident, inflate(known(magnitude * (norm_q * (keys + floor))))))
    used = not_negative(used)
    moved = known(eps * exp_ub(eps) * held)
    # a sum may have overflowed: then nothing is known of the mean
    mean = lowered(torch.where(mean < torch.inf, mean, 0.0))
    parts = {
        "key": known(moved * (used + norm[..., None])),
        "moved": moved,
        "scale_lb": mass_lb(mass, charges) * mean * DOWN,
        "size": known(held * used),
        "largest": used,
    }
    there = {name: torch.where(reference > -torch.inf, x, 0.0) for name, x in parts.items()}
    return {name: x.amax(-1) if name == "largest" else x.sum(-1) for name, x in there.items()}
