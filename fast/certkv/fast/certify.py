"""Certify the coded blocks of a pass: theorems ``spectral`` and ``block_bound`` per block and head, in binary32.

Shares are ``a_t = P_t exp2(reference - M) / l``, raised by what rounding may hide (`Charges`). Errors of a block are
those of its keys (0 where they are original) plus ``eps_0 = relative * size + constant``, sqrt(B) times that in the
norm. The token apart is the one with the largest ``a_t n_t``; its distance from the output is ``||V_hat_h - c|| +
eta_h`` whether or not values are original. This is the torch twin of ``kernels.certify``; both are binary32.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch

from certkv.fast import log_codes
from certkv.fast.charges import LARGEST_SIZE, Charges
from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import DOWN, above, inflate, known, root_of_squares
from certkv.fast.score_error import ScoreErrors
from certkv.fast.spectral import Errors, KeyContext, key_term, sums, value_term, weight_lb, without

CHUNK = 16
"""Blocks per partial sum."""

PARTIAL = ("key", "pure_key", "value", "weight_lb", "scale_lb", "size", "largest", "radius")
"""Meaning of the last axis of `Terms.partial`: four sums of terms, ``sum mass_lb * mean norm``, ``sum mass_ub * size``
of values as used, the largest such size, and the largest radius ``R_b``."""

DECODING = 2.0**-23
"""``V_hat`` formed in binary32 is one rounding from its meaning; with room to spare."""


class Pass(NamedTuple):
    """What a pass over the coded blocks left behind; see `workspace.Workspace`.

    Attributes
    ----------
    weights : float16 [batch, Hq, max_blocks, B]
        P, the executed weight relative to ``reference``.
    reference : float32 [batch, Hq, max_blocks]
        In bits.
    m : float32 [batch, Hq]
        M, in bits.
    l : float32 [batch, Hq]
        Sum of all ``P 2^(reference - M)``, those of resident tokens included.
    output : float32 [batch, Hq, d]
        c.
    levels : uint8 [batch, Hq, max_blocks]
        Bit 0: keys are original; bit 1: values are.
    """

    weights: torch.Tensor
    reference: torch.Tensor
    m: torch.Tensor
    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    output: torch.Tensor
    levels: torch.Tensor


class Terms(NamedTuple):
    """Terms of the certificate; float32 [batch, Hq, max_blocks], 0 beyond the coded blocks.

    Attributes
    ----------
    mass : computed share of the block
    key, pure_key : ``C_b`` with and without rounding in the score errors
    value : ``U_b``
    weight_lb : ``D_b``
    partial : float32 [batch, Hq, ceil(max_blocks / CHUNK) + 2, 8]
        Sums over chunks of blocks, then one entry for each slot of resident tokens; see `PARTIAL`.
    """

    mass: torch.Tensor
    key: torch.Tensor
    pure_key: torch.Tensor
    value: torch.Tensor
    weight_lb: torch.Tensor
    partial: torch.Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, max_blocks: int, device: torch.device | str = "cpu") -> Terms:
        """Allocate; everything is NaN."""
        shape = (batch, heads, max_blocks)
        entries = (batch, heads, -(-max_blocks // CHUNK) + 2, len(PARTIAL))
        return cls(*(torch.full(shape, torch.nan, device=device) for shape in (*[shape] * 5, entries)))


@cache
def code_ratios(device: torch.device) -> torch.Tensor:
    """Meaning of each log code for a block maximum of 1, float32 [256], exact. Not to be written to."""
    return log_codes.ratios(device).to(torch.float32)


def not_negative(x: torch.Tensor) -> torch.Tensor:
    """Replace NaN and negative numbers, which damaged data may hold, by infinity."""
    return torch.where(x >= 0.0, x, torch.inf)


def share_factor(reference: torch.Tensor, m: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """``2^(reference - M) / l``, [batch, H, G, blocks]; ``+inf`` where a reference, M or l is not a number."""
    shift, below = reference - m[..., None], denominator[..., None]
    usable = (shift > -torch.inf) & (below > 0.0) & (below < torch.inf)
    return torch.where(usable, torch.exp2(shift) / below, torch.inf)


def mass_lb(mass: torch.Tensor, charges: Charges) -> torch.Tensor:
    """Lower bound of the effective mass from a computed one; 0 where that is not finite."""
    finite = torch.where(mass < torch.inf, mass, 0.0)
    return (finite * charges.mass_down * DOWN - charges.mass_lost).clamp(min=0.0) * DOWN


def distance_ub(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``||x - y||`` over the last axis."""
    difference = x - y
    return known(inflate(root_of_squares((difference * difference).sum(-1), x.shape[-1])))


def lowered(norm_ub: torch.Tensor) -> torch.Tensor:
    """Turn `distance_ub`, or a mean of such, into a lower bound: it is above by a factor of 1 + 2^-11 and by 2^-55."""
    return (norm_ub * (1.0 - 2.0**-10) - 2.0**-55).clamp(min=0.0)


def certify(seen: Pass, coded: Coded, errors: ScoreErrors, charges: Charges, out: Terms, active: torch.Tensor) -> None:
    """Bound what every coded block adds to the error of its heads.

    Parameters
    ----------
    seen : Pass
    coded : Coded
    errors : ScoreErrors
        Of the coded keys.
    charges : Charges
        In binary32 (`Charges.rounded`).
    out : Terms
        Written, but for the entries of resident tokens, for heads that are active.
    active : bool or uint8 [batch, Hq]
    """
    kv_heads, block = coded.anchor.shape[1], coded.block
    weights, reference, levels = (grouped(x, kv_heads) for x in (seen.weights, seen.reference, seen.levels))
    m, denominator, c = (grouped(x, kv_heads) for x in (seen.m, seen.l, seen.output))
    notes = not_negative(coded.gather(coded.pool.value_notes).to(torch.float32))[:, :, None]
    residual, norm, anchored, decoded, residual_operator, anchored_operator, mean = notes.unbind(-1)
    ratios = code_ratios(coded.lengths.device)
    n, eta = (ratios[coded.gather(x).to(torch.int64)][:, :, None] for x in _codes(coded))

    factor = share_factor(reference, m, denominator)
    shares = not_negative(weights.to(torch.float32) * factor[..., None])
    mass = shares.sum(-1)
    shares = shares * charges.share_up + charges.share_lost
    gamma = distance_ub(c, coded.anchor[:, :, None])[..., None]
    output_norm = distance_ub(c, torch.zeros_like(c))[..., None]
    radius = inflate(torch.minimum(norm + output_norm, anchored + gamma))

    beta = shares * n
    share, heaviest = _heaviest(shares, beta)
    value, size = _values(coded, heaviest)
    apart = distance_ub(value, c[:, :, :, None, :])
    apart = known(inflate(apart + decoded * DECODING + residual * _at(eta, heaviest)))
    context = KeyContext(
        a=sums(shares),
        a_rest=sums(without(shares, heaviest)),
        beta=sums(beta),
        beta_rest=sums(without(beta, heaviest)),
        largest=anchored,
        operator=anchored_operator,
        gamma=gamma,
        share=share,
        distance=apart,
        radius=radius,
    )
    coded_keys, coded_values = (levels & 1) == 0, (levels & 2) == 0
    sizes = not_negative(grouped(errors.size, kv_heads))
    eps = torch.where(
        coded_keys,
        charges.coded.relative * sizes + charges.coded.constant,
        charges.original.relative * sizes + charges.original.constant,
    )
    eps = torch.where(sizes <= LARGEST_SIZE, inflate(eps), torch.inf)
    pure = Errors(
        *(torch.where(coded_keys, not_negative(grouped(x, kv_heads)), 0.0) for x in (errors.delta, errors.omega))
    )
    both = Errors(inflate(pure.delta + eps), inflate(pure.omega + above(math.sqrt(block)) * eps))
    least = mass_lb(mass, charges)
    used = torch.where(coded_values, size, norm)
    found = {
        "mass": mass,
        "key": key_term(context, both),
        "pure_key": key_term(context, pure),
        "value": torch.where(coded_values, value_term(sums(shares * eta), residual, residual_operator), 0.0),
        "weight_lb": weight_lb(context.a, least, both),
        "scale_lb": least * torch.where(mean < torch.inf, mean, 0.0) * DOWN,
        "size": known(context.a.l1 * used),
        "largest": used.expand_as(mass),
        "radius": radius,
    }
    rows = grouped(active, kv_heads).to(torch.bool)
    found = {name: torch.where(coded.valid(), x, 0.0) for name, x in found.items()}
    for name in ("mass", "key", "pure_key", "value", "weight_lb"):
        target = grouped(getattr(out, name), kv_heads)
        target.copy_(torch.where(rows[..., None], found[name], target))
    target = grouped(out.partial, kv_heads)[..., :-2, :]
    partial = torch.stack([chunked(found[name], name) for name in PARTIAL], dim=-1)
    target.copy_(torch.where(rows[..., None, None], partial, target))


def _codes(coded: Coded) -> tuple[torch.Tensor, torch.Tensor]:
    return coded.pool.anchored_codes, coded.pool.residual_codes


def _heaviest(shares: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Share and index of the token with the largest beta, both [batch, H, G, blocks]."""
    heaviest = beta.argmax(-1)
    return _at(shares, heaviest), heaviest


def _at(x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return x.expand(*token.shape, x.shape[-1]).gather(-1, token[..., None])[..., 0]


def chunked(x: torch.Tensor, name: str) -> torch.Tensor:
    """Sum over chunks of blocks what `PARTIAL` names, or take the maximum."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % CHUNK)).reshape(*x.shape[:-1], -1, CHUNK)
    return padded.amax(-1) if name in ("largest", "radius") else padded.sum(-1)


def group_factor(group: int) -> float:
    """Return the factor, rounded up, from the largest norm of decoded values to the sizes they are summed from."""
    return above(1.0 + 2.0 * math.sqrt(group))


def _values(coded: Coded, token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode one token of every block and head; bound the norm of the sizes that a block's values are summed from.

    A value is ``minimum + step code``; a kernel may add both parts on their own. With a step per channel and block the
    sizes are at most ``|minimum| + levels step``. With one per token and group, code 0 occurs in every group, so that
    ``|minimum| <= max |V_hat|`` in it and the norm of ``2 |minimum| + |V_hat|`` is at most ``1 + 2 sqrt(group)`` norms.

    Returns
    -------
    value : float32 [batch, H, G, blocks, d]
    size : float32 [batch, H, 1, blocks]
    """
    pool, head_dim, group = coded.pool, coded.anchor.shape[-1], coded.value_group
    codes = coded.gather(pool.value_codes)
    step, offset = (coded.gather(x).to(torch.float32) for x in (pool.value_step, pool.value_minimum))
    rows = codes.shape[-2]
    row, high = token % rows, token >= rows

    def at_token(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        wide = x[:, :, None].expand(*token.shape, *x.shape[-2:])
        return wide.gather(-2, index[..., None, None].expand(*token.shape, 1, x.shape[-1]))[..., 0, :]

    code = at_token(codes, row).to(torch.int32)
    if coded.value_bits == 4:
        code = torch.where(high[..., None], code >> 4, code & 15)
    if group:
        channel = torch.arange(head_dim, device=code.device) // group
        value = at_token(offset, token)[..., channel] + at_token(step, token)[..., channel] * code
        decoded = not_negative(coded.gather(pool.value_notes)[..., 3].to(torch.float32))
        return value, inflate(decoded * group_factor(group))[:, :, None]
    value = offset[:, :, None] + step[:, :, None] * code
    sizes = offset.abs() + (2.0**coded.value_bits - 1.0) * step
    return value, distance_ub(sizes, torch.zeros_like(sizes))[:, :, None]
