"""The first tier of a certificate: theorem ``spectral`` with one number per block in place of one per token.

Where every distance ``n_t`` and residual ``eta_t`` of a block is replaced by the block's largest, n and eta, a block's
terms depend on three sums over its executed weights, which attend has at hand: with ``l1 = sum a_t``, ``l2 = ||a||``,
``top = max a_t`` and the errors Delta, Omega of its scores,

    C  =  n ( min( D1, omega min( top Omega, Delta l2 ) ) + psi(Delta) S2 )  +  gamma ( D1 + psi(Delta) S2 )
    U  =  eta min( l1, epsilon l2, top + epsilon rest )          D  =  rho exp( -min( Delta, D1 / rho ) )

D1, S2 of the shares as in `certkv.fast.spectral`. Numbers only grow, so what the theorem says stays true ("upper bounds
in, upper bound out", docs/derivations/spectral.md). No annotation per token is read and no weight: a head whose bound
meets its tolerance here is done, and the others are certified token by token.

Scores of codes: ``Delta = |scale| y ||s o q||``, ``Omega = |scale| x ||s o q||``, rounding as in `score_error` with the
sum over channels of ``|q_c| (|minimum_c| + 256 s_c)`` bounded by the product of two norms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from certkv.fast.certificate import Status
from certkv.fast.certify import chunked, distance_ub, group_factor, lowered, mass_lb, not_negative, share_factor
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, Charges
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.coded import Coded, grouped
from certkv.fast.finish import NOWHERE, Result, in_range
from certkv.fast.merge import merge_twin
from certkv.fast.outward_fp32 import DOWN, above, exp_minus_lb, expm1_ub, inflate, known, root_of_squares
from certkv.fast.resident import Resident
from certkv.fast.rounding import Rounding
from certkv.fast.scaled_query import query_power
from certkv.fast.spectral import Errors, KeyContext, Sums, key_term, value_term, weight_lb
from certkv.fast.totals import Totals, Unit, totals
from certkv.fast.workspace import Workspace

LEAST_PARTS, MOST_PARTS = 4, 64
"""Programs of a head, powers of two. With 64, the fastest seen, each has 32 blocks of 128K tokens, one per lane."""

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
    sums : float32 [batch, Hq, parts, 16]
        What the kernel's programs tell each other.
    arrived : int32 [batch, Hq]
        How many did; 0 before and after.
    """

    action: torch.Tensor
    some: torch.Tensor
    sums: torch.Tensor
    arrived: torch.Tensor

    @classmethod
    def empty(cls, action: torch.Tensor, max_blocks: int) -> Opened:
        """Allocate what belongs to ``action``."""
        device, parts = action.device, min(max(LEAST_PARTS, 1 << (max_blocks - 1).bit_length()), MOST_PARTS)
        return cls(
            action,
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.full((*action.shape, parts, 16), torch.nan, device=device),
            torch.zeros(action.shape, dtype=torch.int32, device=device),
        )


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
    statistics = grouped(ws.statistics, kv_heads)
    m, denominator, c = (grouped(x, kv_heads) for x in (ws.m, ws.l, ws.output))
    output_norm = distance_ub(c, torch.zeros_like(c))[..., None]
    gamma = distance_ub(c, coded.anchor[:, :, None])[..., None]

    blocks = [x[..., :-2] for x in statistics.unbind(-2)]
    factor = share_factor(grouped(ws.reference, kv_heads), m, denominator)
    mass, a = shares(blocks, factor, charges, block)
    least = mass_lb(mass, charges)
    notes = known(coded.gather(coded.pool.key_notes).to(torch.float32))[:, :, None]
    power = torch.ldexp(torch.ones_like(m), -grouped(query_power(q), kv_heads))[..., None]
    steps = root_of_squares(blocks[3], head_dim) * PRODUCT
    if q.dtype == torch.float16:
        steps = steps + above(PRODUCT_LOST * math.sqrt(head_dim))
    norm = known(magnitude * (steps * power))
    pure = Errors(*(inflate(known(norm * notes[..., i])) for i in (1, 2)))
    operand = inflate(root_of_squares(blocks[4], head_dim))
    operand = torch.where(operand <= LARGEST_OPERAND, operand, torch.inf)
    sizes = known(magnitude * ((norm_q + floor) * (operand + floor) + rounding.lost * largest_q))
    eps = rounded_score(charges.coded.relative, charges.coded.constant, inflate(sizes))
    both = Errors(inflate(pure.delta + eps), inflate(pure.omega + operator_root(block) * eps))
    values = not_negative(coded.gather(coded.pool.value_notes).to(torch.float32))[:, :, None]
    residual, largest, anchored, decoded, residual_operator, anchored_operator, mean = values.unbind(-1)
    none = torch.zeros(())
    # the distance is no use here: terms are summed before the output is known, and theorem hull has its own
    context = KeyContext(a, a, a, a, anchored, anchored_operator, gamma, none, none, none + torch.inf)
    valid = coded.valid()
    far = torch.minimum(
        torch.where(valid, largest, 0.0).amax(-1) + output_norm[..., 0],
        torch.where(valid, anchored, 0.0).amax(-1) + gamma[..., 0],
    )
    if coded.value_group:
        used = inflate(decoded * group_factor(coded.value_group)).expand_as(mass)
    else:
        used = inflate(root_of_squares(blocks[5], head_dim))
    terms = {
        "key": key_term(context, both),
        "pure_key": key_term(context, pure),
        "value": value_term(a, residual, residual_operator),
        "weight_lb": weight_lb(a, least, both),
        "scale_lb": least * torch.where(mean < torch.inf, mean, 0.0) * DOWN,
        "size": known(a.l1 * used),
        "largest": used,
        "radius": inflate(far)[..., None].expand_as(mass),
    }
    terms = {name: torch.where(valid, x, 0.0) for name, x in terms.items()}

    slots = [x[..., -2:] for x in statistics.unbind(-2)]
    factor = share_factor(grouped(ws.resident_reference, kv_heads), m, denominator)
    mass, a = shares(slots, factor, charges, block)
    keys = inflate(root_of_squares(slots[4], head_dim))
    keys = torch.where(keys <= LARGEST_OPERAND, keys, torch.inf)
    sizes = inflate(known(magnitude * ((norm_q + floor) * (keys + floor))))
    eps = rounded_score(charges.resident.relative, charges.resident.constant, sizes)
    used = not_negative(resident.norms)[:, :, None].expand_as(mass)
    # squares may have overflowed: then nothing is known of the mean
    mean = torch.where(slots[5] < torch.inf, slots[5], 0.0)
    radius = inflate(used + output_norm)
    least = mass_lb(mass, charges)
    held = {
        "key": known(inflate(expm1_ub(eps) * known(a.l1 * radius))),
        "pure_key": torch.zeros_like(mass),
        "value": torch.zeros_like(mass),
        "weight_lb": least * exp_minus_lb(eps) * DOWN,
        "scale_lb": least * lowered(mean) * DOWN,
        "size": known(a.l1 * used),
        "largest": used,
        "radius": radius,
    }
    there = grouped(ws.resident_reference, kv_heads) > -torch.inf
    partial = torch.cat(
        [
            torch.stack([chunked(x, name) for name, x in terms.items()], -1),
            torch.stack([torch.where(there, x, 0.0) for x in held.values()], -1),
        ],
        -2,
    )
    everything = torch.ones_like(opened.action)
    totals(partial.flatten(1, 2), ws.output, charges, unit, tolerance, found, everything)
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


def shares(sums: list[torch.Tensor], factor: torch.Tensor, charges: Charges, block: int) -> tuple[torch.Tensor, Sums]:
    """Return a block's computed mass and upper bounds of its shares' sum, norm, largest, and norm of all but that."""
    up, lost = charges.share_up, charges.share_lost
    total, squares, top = sums[:3]
    squares = squares * squares_up(block)
    # a sum of squares, inflated, is at least the largest of them
    rest = (squares - top * top).clamp(min=0.0)
    mass = not_negative(total * factor)
    root = operator_root(block)

    def of(x: torch.Tensor, count: float) -> torch.Tensor:
        return inflate(not_negative(x * factor) * up + count * lost)

    return mass, Sums(
        of(total, float(block)),
        of(root_of_squares(squares, block), root),
        of(top, 1.0),
        of(root_of_squares(rest, block), root),
    )


def rounded_score(relative: float, constant: float, size: torch.Tensor) -> torch.Tensor:
    """Bound what rounding changes in the scores of a block, in nats."""
    return torch.where(size <= LARGEST_SIZE, inflate(relative * size + constant), torch.inf)
