"""The first tier of a certificate: theorem ``spectral`` with one number per block in place of one per token.

Where every distance ``n_t`` and residual ``eta_t`` of a block is replaced by the block's largest, n and eta, a block's
terms depend on three sums over its executed weights P, which attend has at hand: with ``l1 = sum P``, ``l2 = ||P||``,
``top = max P``, rest the norm of all but that, and the errors Delta, Omega of its scores,

    first   =  min( Delta l1, Omega l2, top Delta + rest Omega )
    second  =  (2 + e^Delta)/6  min( Delta^2 l1, Omega^2 top, Delta Omega l2 )
    A = n ( min( first, omega min( top Omega, Delta l2 ) ) + second )     G = first + second
    U = eta min( l1, epsilon l2, top + epsilon rest )

All are of first degree in the weights, so they are added up in the weights' own unit and multiplied by the factor of a
share, ``share_up 2^(reference - M) / l``, afterwards. What a share may be above that, ``share_lost``, is charged
with the worst numbers of any block, for T tokens: ``lost = T share_lost``, ``drift = lost Delta e^Delta``. With these

    bound  =  ( sum A + drift n + gamma g + sum U + lost eta + eps_acc ) / e^-g          g = sum G + drift

(theorem ``spectral``, "One number per block", docs/derivations/spectral.md). No annotation per token is read and no
weight: a head whose bound meets its tolerance here is done, and the others are certified token by token.

Scores of codes: ``Delta = |scale| y ||s o q||``, ``Omega = |scale| x ||s o q||``, rounding as in `score_error` with the
sum over channels of ``|q_c| (|minimum_c| + 256 s_c)`` bounded by the product of two norms, one of which is stored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from certkv.fast.certificate import Status
from certkv.fast.certify import PARTIAL, chunked, distance_ub, group_factor, lowered, mass_lb, not_negative
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, Charges, ScoreCharge
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded, grouped
from certkv.fast.finish import NOWHERE, Result, in_range
from certkv.fast.merge import merge_twin
from certkv.fast.outward_fp32 import (
    DOWN,
    SIXTH,
    above,
    exp_minus_lb,
    exp_ub,
    expm1_ub,
    inflate,
    known,
    root_of_squares,
)
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.scaled_query import query_power
from certkv.fast.spectral import Errors
from certkv.fast.totals import Totals, Unit, totals
from certkv.fast.workspace import Workspace

THIRD = 1.0 / 3.0

LOWERED = 1.0 - 2.0**-10
"""Covers the roundings of a sum that is a lower bound."""

PRODUCT = 1.0 + 2.0**-10
"""Covers a product ``s q`` that was rounded to binary16."""

PRODUCT_LOST = 2.0**-24
"""And twice what it may lose where it is subnormal, in units of the scaled query."""


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


def operator_root(block: int) -> float:
    """``sqrt(B)``, rounded up."""
    return above(math.sqrt(block))


def squares_up(block: int) -> float:
    """Factor that covers the rounding of a sum of as many squares as a padded block has tokens."""
    return above(1.0 + (max(16, 1 << (block - 1).bit_length()) + 4) * 2.0**-23)


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
        Written.
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
    size = q.to(torch.float32).abs()
    largest_q, norm_q = size.amax(-1), distance_ub(size, torch.zeros_like(size))
    norm_q = torch.where(largest_q <= LARGEST_OPERAND, norm_q, torch.inf)
    norm_q, largest_q = (grouped(x, kv_heads)[..., None] for x in (norm_q, largest_q))
    m, denominator, c = (grouped(x, kv_heads) for x in (ws.m, ws.l, ws.output))
    norm, gamma = distance_ub(c, torch.zeros_like(c)), distance_ub(c, coded.anchor[:, :, None])
    usable = (denominator > 0.0) & (denominator < torch.inf)
    inverse = torch.where(usable, 1.0 / denominator, torch.inf)

    total, squares, top, steps = (x[..., :-2] for x in grouped(ws.statistics, kv_heads).unbind(-1))
    pool, valid = coded.pool, coded.valid()
    keys = not_negative(coded.gather(pool.key_notes).to(torch.float32))[:, :, None]
    relative, operator = keys[..., 1], keys[..., 2]
    notes = not_negative(coded.gather(pool.value_notes).to(torch.float32))[:, :, None]
    residual, anchored, decoded, residual_operator, anchored_operator, mean = (
        notes[..., i] for i in (0, 2, 3, 4, 5, 6)
    )
    operand, used = not_negative(coded.gather(pool.sizes))[:, :, None].unbind(-1)
    if coded.value_group:
        used = inflate(decoded * group_factor(coded.value_group))
    power = torch.ldexp(torch.ones_like(m), -grouped(query_power(q), kv_heads))[..., None]
    product_lost = above(PRODUCT_LOST * math.sqrt(head_dim)) if q.dtype == torch.float16 else 0.0
    error = magnitude * power * (root_of_squares(steps, head_dim) * PRODUCT + product_lost)
    operand = torch.where(operand <= LARGEST_OPERAND, operand, torch.inf)
    offset = inflate(magnitude * ((norm_q + floor) * floor + rounding.lost * largest_q))
    eps = rounded_score(charges.coded, inflate(magnitude * (norm_q + floor)) * operand + offset)
    delta = known(inflate(error * relative + eps))
    omega = known(inflate(error * operator + operator_root(block) * eps))
    about, of, values = block_terms(
        total, squares, top, Errors(delta, omega), anchored, anchored_operator, residual, residual_operator, block
    )
    weight = torch.exp2(grouped(ws.reference, kv_heads) - m[..., None])
    mean = torch.where(mean < torch.inf, mean, 0.0)
    about, of, values, scale_lb, size = (
        chunked(torch.where(valid, weight * x, 0.0), "sum").sum(-1)
        for x in (about, of, values, total * mean, total * used)
    )
    # the rest of a block's bounds is the worst of any block
    worst, largest, farthest, lossy = (
        torch.where(valid, x, 0.0).amax(-1) for x in (delta, used.expand_as(delta), anchored, residual)
    )

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
    partial = {
        "key": known(inflate(terms + drift * (farthest + gamma) + held["key"])),
        "pure_key": torch.where(terms == 0.0, 0.0, known(terms * inflate(spared))),
        "value": known(inflate(values * factor + lost * lossy)),
        "weight_lb": exp_minus_lb(known(inflate(of + drift + held["moved"]))),
        "scale_lb": scale_lb * LOWERED + held["scale_lb"],
        "size": known(size * factor + lost * largest) + held["size"],
        "largest": torch.maximum(largest, held["largest"]),
        "radius": torch.maximum(far, inflate(held["largest"] + norm)),
    }
    whole = torch.stack([partial[name] for name in PARTIAL], -1).flatten(1, 2)[:, :, None]
    totals(whole, ws.output, charges, unit, tolerance, found, torch.ones_like(opened.action))
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


def block_terms(
    total: torch.Tensor,
    squares: torch.Tensor,
    top: torch.Tensor,
    e: Errors,
    anchored: torch.Tensor,
    anchored_operator: torch.Tensor,
    residual: torch.Tensor,
    residual_operator: torch.Tensor,
    block: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return A, G and U of blocks, in the unit of their weights; nothing is inflated.

    What is undefined is NaN, which ``fmin`` with what is defined drops.
    """
    squares = squares * squares_up(block)
    # a sum of squares, raised by its rounding, is at least the largest of them
    l2, rest = root_of_squares(squares, block), root_of_squares((squares - top * top).clamp(min=0.0), block)
    delta, omega = torch.fmin(e.delta, e.omega), e.omega
    by_sum, by_norm, by_top = delta * total, delta * l2, omega * top
    first = torch.fmin(torch.fmin(by_sum, omega * l2), delta * top + omega * rest)
    both = torch.fmin(by_top, by_norm)
    second = (exp_ub(delta) * SIXTH + THIRD) * torch.fmin(delta * by_sum, omega * both)
    values = torch.fmin(torch.fmin(total, residual_operator * l2), top + residual_operator * rest)
    return anchored * (torch.fmin(first, anchored_operator * both) + second), first + second, residual * values


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
    total, keys, mean = (x[..., -2:] for x in grouped(ws.statistics, kv_heads).unbind(-1)[:3])
    reference, m = grouped(ws.resident_reference, kv_heads), grouped(ws.m, kv_heads)
    mass = not_negative(total * torch.exp2(reference - m[..., None]) * inverse[..., None])
    held = inflate(mass * charges.share_up + coded.block * charges.share_lost)
    keys = inflate(root_of_squares(keys, coded.anchor.shape[-1]))
    keys = torch.where(keys <= LARGEST_OPERAND, keys, torch.inf)
    eps = inflate(rounded_score(charges.resident, inflate(known(magnitude * (norm_q * (keys + floor))))))
    used = not_negative(resident.norms)[:, :, None].expand_as(mass)
    moved = known(expm1_ub(eps) * held)
    # squares may have overflowed: then nothing is known of the mean
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


def rounded_score(charge: ScoreCharge, size: torch.Tensor) -> torch.Tensor:
    """Bound what rounding changes in the scores of a block, in nats; not inflated."""
    return torch.where(size <= LARGEST_SIZE, charge.relative * size + charge.constant, torch.inf)
