"""Certify the resident tokens of a pass, which are original: what rounding alone does to them, in binary32.

With ``a_t`` their shares and ``eps = relative * size + constant`` the error of their weights' logarithms (`Charges`),
theorem ``block_bound`` token by token:

    key  =  (e^eps - 1) sum_t a_t ||V_t - c||      weight  =  rho e^-eps
    size  =  |scale| max_t sum_c max(|q_c|, f) max(|k_tc|, f)

with f the floor of `Charges`.

The torch twin of ``kernels.resident_terms``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.certify import PARTIAL, Terms, distance_ub, lowered, mass_lb, not_negative, share_factor
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, Charges
from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import DOWN, above, exp_minus_lb, expm1_ub, inflate, known


class ResidentPass(NamedTuple):
    """What a pass left of the resident tokens: slot 0 is the first block where it is pinned, slot 1 the tail.

    Attributes
    ----------
    q : float16 or bfloat16 [batch, Hq, d]
    keys, values : float16 or bfloat16 [batch, H, 2, B, d]
        What lies beyond a slot's tokens is not used.
    weights : float16 [batch, Hq, 2, B]
        P.
    reference : float32 [batch, Hq, 2]
        In bits.
    m, l : float32 [batch, Hq]
    output : float32 [batch, Hq, d]
    """

    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    weights: torch.Tensor
    reference: torch.Tensor
    m: torch.Tensor
    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    output: torch.Tensor


def live_tokens(lengths: torch.Tensor, block: int, first: int) -> torch.Tensor:
    """Tokens in each slot that take part, int32 [batch, 2]."""
    pinned = torch.where(lengths >= block, block * first, 0)
    return torch.stack([pinned, lengths % block], dim=-1).to(torch.int32)


def resident_terms(
    seen: ResidentPass,
    coded: Coded,
    scale: float,
    charges: Charges,
    mass: torch.Tensor,
    out: Terms,
    active: torch.Tensor,
) -> None:
    """Bound what the resident tokens add to the error of their heads.

    Parameters
    ----------
    seen : ResidentPass
    coded : Coded
        For lengths and the pinned block.
    scale : float
    charges : Charges
        In binary32 (`Charges.rounded`).
    mass : float32 [batch, Hq, 2]
        Computed shares of the slots; written.
    out : Terms
        The last two entries of ``partial`` are written, for heads that are active.
    active : bool or uint8 [batch, Hq]
    """
    kv_heads, block = coded.anchor.shape[1], coded.block
    q, weights, reference = (grouped(x, kv_heads) for x in (seen.q, seen.weights, seen.reference))
    m, denominator, c = (grouped(x, kv_heads) for x in (seen.m, seen.l, seen.output))
    tokens = live_tokens(coded.lengths, block, coded.first)
    live = (torch.arange(block, device=tokens.device) < tokens[..., None])[:, None, None]  # [batch, 1, 1, 2, B]
    keys = torch.where(live[..., None], seen.keys[:, :, None].to(torch.float32), 0.0)
    values = torch.where(live[..., None], seen.values[:, :, None].to(torch.float32), 0.0)

    factor = share_factor(reference, m, denominator)
    shares = torch.where(live, not_negative(weights.to(torch.float32) * factor[..., None]), 0.0)
    found_mass = shares.sum(-1)
    shares = torch.where(live, shares * charges.share_up + charges.share_lost, 0.0)
    query = q.to(torch.float32).abs()[:, :, :, None, None, :]
    dots = (keys.abs().clamp(min=charges.floor) * query.clamp(min=charges.floor)).sum(-1)
    fits = (query <= LARGEST_OPERAND).all(-1) & (keys.abs() <= LARGEST_OPERAND).all(-1)
    sizes = known(inflate(above(abs(scale)) * torch.where(fits, dots, torch.inf).amax(-1)))
    eps = torch.where(
        sizes <= LARGEST_SIZE, inflate(charges.resident.relative * sizes + charges.resident.constant), torch.inf
    )
    distance = torch.where(live, distance_ub(values, c[:, :, :, None, None, :]), 0.0)
    norms = torch.where(live, distance_ub(values, torch.zeros_like(values)), 0.0)
    some = tokens[:, None, None] > 0
    least = torch.where(some, mass_lb(found_mass, charges), 0.0)
    mean = lowered(norms.sum(-1) / tokens[:, None, None].clamp(min=1))
    mean = torch.where(mean < torch.inf, mean, 0.0)
    products = shares * distance
    key = known(inflate(expm1_ub(eps) * products.sum(-1)))
    parts = {
        "key": key,
        "pure_key": torch.zeros_like(key),
        "value": torch.zeros_like(key),
        "weight_lb": least * exp_minus_lb(eps) * DOWN,
        "scale_lb": least * mean * DOWN,
        "size": known((shares * norms).sum(-1)),
        "largest": norms.amax(-1).expand_as(key),
        "radius": distance.amax(-1),
    }
    rows = grouped(active, kv_heads).to(torch.bool)[..., None]
    for target, entry in (
        (mass, found_mass),
        (out.partial[..., -2:, :], torch.stack([parts[name] for name in PARTIAL], dim=-1)),
    ):
        here = rows if entry.ndim == rows.ndim else rows[..., None]
        slot = some if entry.ndim == some.ndim else some[..., None]
        view = grouped(target, kv_heads)
        view.copy_(torch.where(here, torch.where(slot, entry, 0.0), view))
