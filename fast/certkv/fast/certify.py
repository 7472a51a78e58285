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
from certkv.fast.coded import Coded, by_head, grouped
from certkv.fast.finer_errors import FinerErrors
from certkv.fast.formats.rotation import rotate_fp32
from certkv.fast.levels import at, used
from certkv.fast.outward_fp32 import DOWN, above, expm1_ub, inflate, known, root_of_squares
from certkv.fast.pool import FINER_VALUE_NOTES
from certkv.fast.score_error import ScoreErrors
from certkv.fast.spectral import Errors, KeyContext, key_term, sums, value_term, weight_lb, without

CHUNK = 16
"""Blocks per partial sum."""

PARTIAL = ("key", "pure_key", "value", "weight_lb", "scale_lb", "size", "largest", "radius")
"""Meaning of the last axis of `Terms.partial`: four sums of terms, ``sum mass_lb * mean norm``, ``sum mass_ub * size``
of values as used, the largest such size, and the largest radius ``R_b``."""

DECODING = 2.0**-23
"""``V_hat`` formed in binary32 is one rounding from its meaning; with room to spare."""

TURNING = 2.0**-20
"""A rotation in binary32 is off by so much of the norm: at most ten roundings (theorem ``rotation``)."""


class Pass(NamedTuple):
    """What a pass over the coded blocks left behind; see `workspace.Workspace`.

    Attributes
    ----------
    weights : float16 [batch, H, max_blocks, G, B]
        P, the executed weight relative to ``reference``.
    reference : float32 [batch, H, max_blocks, G]
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
    key, key_gain : ``C_b``, and what of it at least goes where keys become original: rounding stays
    value : ``U_b``
    weight_lb : ``D_b``
    partial : float32 [batch, Hq, ceil(max_blocks / CHUNK) + 2, 8]
        Sums over chunks of blocks, then one entry for each slot of resident tokens; see `PARTIAL`.
    """

    mass: torch.Tensor
    key: torch.Tensor
    key_gain: torch.Tensor
    value: torch.Tensor
    weight_lb: torch.Tensor
    partial: torch.Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, max_blocks: int, device: torch.device | str = "cpu") -> Terms:
        """Allocate; everything is NaN."""
        shape = (batch, heads, max_blocks)
        entries = (batch, heads, -(-max_blocks // CHUNK) + 2, len(PARTIAL))
        return cls(*(torch.full(shape, torch.nan, device=device) for shape in (*[shape] * 5, entries)))


LARGEST_RESIDUAL, DECODED, RESIDUAL_OPERATOR = (
    FINER_VALUE_NOTES.index(name) for name in ("residual_norm_ub", "decoded_norm_ub", "residual_operator_ub")
)

FINER_ROUNDING = 2.0**-22
"""Scores from refined keys: these are decoded in binary32, one rounding, and then treated as originals are; a norm
rounds once more. Where keys are in the rotated basis the query is rotated, `TURNING`."""

FINER_SIZE = 2.0**-8
"""Sizes of refined numbers, relative to those of the base: half a code of 255 or more beyond the largest."""


class Foreseen(NamedTuple):
    """What blocks would still add at each level above the base; float32 [levels, batch, Hq, max_blocks].

    Attributes
    ----------
    key, weight_lb : ``C_b`` without rounding in the score errors, and ``D_b``, by level of keys
    value : ``U_b`` by level of values
    """

    key: torch.Tensor
    weight_lb: torch.Tensor
    value: torch.Tensor

    @classmethod
    def empty(
        cls, counts: tuple[int, int], batch: int, heads: int, max_blocks: int, device: torch.device | str = "cpu"
    ) -> Foreseen:
        """Allocate for so many levels of keys and of values; everything is NaN."""
        shape = (batch, heads, max_blocks)
        keys, values = counts
        return cls(*(torch.full((count, *shape), torch.nan, device=device) for count in (keys, keys, values)))


class Finer(NamedTuple):
    """What certifies levels above the base: their score errors, which are read, and what is foreseen, written."""

    errors: FinerErrors
    foreseen: Foreseen


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


def certify(
    seen: Pass,
    coded: Coded,
    errors: ScoreErrors,
    charges: Charges,
    out: Terms,
    active: torch.Tensor,
    finer: Finer | None = None,
) -> None:
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
    finer : Finer or None
        Where formats have levels above their base; without it there are none.
    """
    kv_heads, block = coded.anchor.shape[1], coded.block
    weights, reference, levels = by_head(seen.weights), by_head(seen.reference), grouped(seen.levels, kv_heads)
    m, denominator, c = (grouped(x, kv_heads) for x in (seen.m, seen.l, seen.output))
    notes = not_negative(coded.gather(coded.pool.value_notes).to(torch.float32))[:, :, None]
    residual, norm, anchored, decoded, residual_operator, anchored_operator, mean = notes.unbind(-1)
    ratios = code_ratios(coded.lengths.device)
    n, eta = (ratios[coded.gather(x).to(torch.int64)][:, :, None] for x in _codes(coded))
    residuals = [(eta, residual, residual_operator), *(_finer_residuals(coded, ratios) if finer else ())]
    counts = coded.finer if finer else (0, 0)  # without it, originals are the one other level
    of_keys, of_values = (used(levels, side, count) for side, count in enumerate(counts))

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
    # distances are the same in both bases
    turned, lost = (rotated(c), output_norm * TURNING) if coded.values_rotated else (c, 0.0)
    apart = distance_ub(value, turned[:, :, :, None, :]) + lost
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
    coded_values = (levels & 2) == 0
    sizes = not_negative(grouped(errors.size, kv_heads))
    turning = TURNING if coded.keys_rotated else 0.0
    relative = above((charges.original.relative + FINER_ROUNDING + turning) * (1.0 + FINER_SIZE))
    rounded = [
        charges.coded.relative * sizes + charges.coded.constant,
        *[relative * sizes + charges.original.constant] * counts[0],
        charges.original.relative * sizes + charges.original.constant,
    ]
    rounded = [torch.where(sizes <= LARGEST_SIZE, inflate(x), torch.inf) for x in rounded]
    by_level = [Errors(*(not_negative(grouped(x, kv_heads)) for x in (errors.delta, errors.omega)))]
    for delta, omega in zip(*finer.errors[:2], strict=True) if finer else ():
        by_level.append(Errors(*(not_negative(grouped(x, kv_heads)) for x in (delta, omega))))
    by_level.append(Errors(*(torch.zeros_like(x) for x in by_level[0])))

    def joined(pure: Errors, eps: torch.Tensor) -> Errors:
        return Errors(inflate(pure.delta + eps), inflate(pure.omega + above(math.sqrt(block)) * eps))

    eps = at(of_keys, rounded)
    pure = Errors(*(at(of_keys, [getattr(x, name) for x in by_level]) for name in Errors._fields))
    both = joined(pure, eps)
    least = mass_lb(mass, charges)
    key, pure_key = key_term(context, both), key_term(context, pure)
    # what stays of a key term whose keys become original, by theorem `block_bound`
    stays = known(context.a.l1 * expm1_ub(rounded[-1]) * radius)
    gain = torch.where(stays < torch.inf, torch.maximum(pure_key, key - stays), pure_key)
    used_size = torch.where(coded_values, size, norm)
    left = [value_term(sums(shares * of_tokens), *notes) for of_tokens, *notes in residuals]
    found = {
        "mass": mass,
        "key": key,
        "pure_key": pure_key,
        "key_gain": gain,
        "value": at(of_values, [*left, torch.zeros_like(left[0])]),
        "weight_lb": weight_lb(context.a, least, both),
        "scale_lb": least * torch.where(mean < torch.inf, mean, 0.0) * DOWN,
        "size": known(context.a.l1 * used_size),
        "largest": used_size.expand_as(mass),
        "radius": radius,
    }
    rows = grouped(active, kv_heads).to(torch.bool)
    found = {name: torch.where(coded.valid(), x, 0.0) for name, x in found.items()}
    for name in ("mass", "key", "key_gain", "value", "weight_lb"):
        target = grouped(getattr(out, name), kv_heads)
        target.copy_(torch.where(rows[..., None], found[name], target))
    target = grouped(out.partial, kv_heads)[..., :-2, :]
    partial = torch.stack([chunked(found[name], name) for name in PARTIAL], dim=-1)
    target.copy_(torch.where(rows[..., None, None], partial, target))
    if finer is None:
        return
    foreseen = {
        "key": [key_term(context, x) for x in by_level[1:-1]],
        "weight_lb": [weight_lb(context.a, least, joined(*x)) for x in zip(by_level[1:-1], rounded[1:-1], strict=True)],
        "value": left[1:],
    }
    for name, terms in foreseen.items():
        for store, term in zip(getattr(finer.foreseen, name), terms, strict=True):
            target = grouped(store, kv_heads)
            target.copy_(torch.where(rows[..., None], torch.where(coded.valid(), term, 0.0), target))


def _finer_residuals(coded: Coded, ratios: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return eta of the tokens, its largest, and the operator norm, of every level of values above the base."""
    notes = not_negative(coded.gather(coded.pool.finer_value_notes).to(torch.float32))[:, :, None]
    eta = ratios[coded.gather(coded.pool.finer_residual_codes).to(torch.int64)][:, :, None]
    return [
        (eta[..., level, :], notes[..., level, LARGEST_RESIDUAL], notes[..., level, RESIDUAL_OPERATOR])
        for level in range(coded.finer[1])
    ]


def _codes(coded: Coded) -> tuple[torch.Tensor, torch.Tensor]:
    return coded.pool.anchored_codes, coded.pool.residual_codes


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotate binary32 numbers in binary32, [..., d]."""
    return rotate_fp32(x.to(torch.float64)).to(torch.float32)


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
        In the basis of the codes.
    size : float32 [batch, H, 1, blocks]
    """
    pool, head_dim, group = coded.pool, coded.anchor.shape[-1], coded.value_group
    # numbers of all levels are within half a step of the codes, which are below 2^bits
    levels = 2.0**coded.value_bits - (0.0 if coded.finer[1] else 1.0)
    codes = coded.gather(pool.value_codes)
    step, offset = (coded.gather(x).to(torch.float32) for x in (pool.value_step, pool.value_minimum))
    rows = codes.shape[-2]

    def at_token(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        wide = x[:, :, None].expand(*token.shape, *x.shape[-2:])
        return wide.gather(-2, index[..., None, None].expand(*token.shape, 1, x.shape[-1]))[..., 0, :]

    shift = (token // rows * coded.value_bits)[..., None]
    code = (at_token(codes, token % rows).to(torch.int32) >> shift) & (2**coded.value_bits - 1)
    code = code + coded.value_offset
    if group:
        channel = torch.arange(head_dim, device=code.device) // group
        value = at_token(offset, token)[..., channel] + at_token(step, token)[..., channel] * code
        decoded = not_negative(coded.gather(pool.value_notes)[..., 3].to(torch.float32))
        for level in range(coded.finer[1]):
            of_level = coded.gather(pool.finer_value_notes)[..., level, DECODED].to(torch.float32)
            decoded = torch.maximum(decoded, not_negative(of_level))
        return value, inflate(decoded * group_factor(group))[:, :, None]
    value = offset[:, :, None] + step[:, :, None] * code
    sizes = offset.abs() + levels * step
    return value, distance_ub(sizes, torch.zeros_like(sizes))[:, :, None]
