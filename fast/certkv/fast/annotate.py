"""What is measured when a block is encoded: norms and residuals against the exact meaning of what is stored.

With D the decoded float64 number, ``err = |D - meaning|`` and ``r = fl(x - D)``, every element has

    |x - meaning| <= a (1 + u)/(1 - u),   a = fl(|r| + err),

which `norm_factor` covers as one rounding more. Derivation: docs/derivations/annotations.md. The orders of the scalars
are `pool.KEY_NOTES` and `pool.VALUE_NOTES`; all are bfloat16, rounded up, the mean norm down.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast import log_codes
from certkv.fast.charges import LEAST_STEP
from certkv.fast.formats import Encoded, KeyFormat
from certkv.fast.numbers import U, norm_factor, outward, round_down, round_up, row_norms
from certkv.fast.operator_norm import operator_norm_ub


class ValueNotes(NamedTuple):
    """Annotations of values: ``notes`` bfloat16 [..., 7], two codes uint8 [..., B] per token."""

    notes: torch.Tensor
    residual_codes: torch.Tensor
    anchored_codes: torch.Tensor


def rows_norm_ub(difference: torch.Tensor, err: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Upper bound of the operator norm of true residuals over units, float64 [..., B, d] -> [...]; x/0 = 0.

    Parameters
    ----------
    difference : float64 [..., B, d]
        Computed residuals, off by at most ``u |difference| + err``.
    err : float64 [..., B, d]
    unit : float64
        As stored; broadcasts. Where it is 0 the residual is 0 too; an infinite one gives 0.

    Notes
    -----
    The computed quotient is off by its own rounding, that of the difference (each u of it) and ``err / unit``: a matrix
    whose operator norm is at most its Frobenius norm.
    """
    positive = unit > 0
    divisor = torch.where(positive, unit, 1.0)
    quotient = torch.where(positive, difference / divisor, 0.0)
    off = torch.where(positive, err / divisor, 0.0) + 4.0 * U * quotient.abs()
    cells = off.shape[-2] * off.shape[-1]
    lost = torch.sqrt((off * off).sum((-2, -1))) * norm_factor(cells, 4)
    return (operator_norm_ub(quotient) + lost) * outward(1)


def _stored(x: torch.Tensor) -> torch.Tensor:
    """Round up to bfloat16; beyond the largest one that is ``+inf``."""
    return round_up(x, torch.bfloat16)


def key_notes(
    original: torch.Tensor, decoded: torch.Tensor, err: torch.Tensor, unit: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """Measure encoded keys.

    Parameters
    ----------
    original : float16 or bfloat16 [..., B, d]
    decoded, err : float64 [..., B, d]
        From `Format.decode`.
    unit : [..., d]
        What residuals are measured in, 0/0 = 0: the stored steps, or 1 where they belong to groups of tokens.
    inside : float64 [..., B, d]
        From `Format.decode_rotated`: norms are the same in both bases.

    Returns
    -------
    bfloat16 [..., 4]
        In the order of `pool.KEY_NOTES`.
    """
    d = original.shape[-1]
    difference = original.to(torch.float64) - decoded
    unit = unit.to(torch.float64).unsqueeze(-2)
    magnitude = difference.abs() + err
    # where the step is 0, the channel is constant and its residual 0; the quotient rounds once
    relative = torch.where(unit > 0, magnitude / torch.where(unit > 0, unit, 1.0), 0.0) * outward(2)
    numbers = (
        relative.amax((-2, -1)),
        row_norms(relative).amax(-1) * norm_factor(d, 1),
        rows_norm_ub(difference, err, unit),
        row_norms(inside).amax(-1) * norm_factor(d, 1),
    )
    return torch.stack([_stored(x) for x in numbers], dim=-1)


def _tokens(difference: torch.Tensor, err: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the largest norm of the rows, bfloat16 [...], their log codes, and the operator norm relative to these."""
    norms = row_norms(difference.abs() + err) * norm_factor(difference.shape[-1], 1)
    maximum = _stored(norms.amax(-1))
    codes = log_codes.encode(norms, maximum)
    unit = log_codes.decode(codes, maximum)[..., None]
    return maximum, codes, _stored(rows_norm_ub(difference, err, unit))


def value_level_notes(
    original: torch.Tensor, decoded: torch.Tensor, err: torch.Tensor, inside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure encoded values at a level above the base: what is not about the originals alone.

    Parameters
    ----------
    original : float16 or bfloat16 [..., B, d]
    decoded, err : float64 [..., B, d]
        From `Planar.decode_level`.
    inside : float64 [..., B, d]
        From `Planar.decode_level_rotated`: norms are the same in both bases.

    Returns
    -------
    notes : bfloat16 [..., 3]
        In the order of `pool.FINER_VALUE_NOTES`.
    codes : uint8 [..., B]
        Log codes of the residuals, relative to the largest.
    """
    largest, codes, operator = _tokens(original.to(torch.float64) - decoded, err)
    decoded_norm = _stored(row_norms(inside).amax(-1) * norm_factor(original.shape[-1], 1))
    return torch.stack([largest, decoded_norm, operator], dim=-1), codes


def operand_size_ub(step: torch.Tensor, minimum: torch.Tensor, levels: float) -> torch.Tensor:
    """Upper bound of ``||(|minimum_c| + levels step_c)_c||``, [..., d] of 16 bits -> float32 [...]: `Pool.sizes`."""
    # in float64 the product is exact and the sum rounds once
    widest = minimum.to(torch.float64).abs() + levels * step.to(torch.float64)
    return round_up(row_norms(widest) * norm_factor(step.shape[-1], 1), torch.float32)


def key_size_ub(encoded: Encoded, fmt: KeyFormat, block: int) -> torch.Tensor:
    """Upper bound of ``norm_t ||(|minimum_c| + 2^bits step_c)_c||`` over the tokens, float32 [...]: `Pool.sizes`.

    Steps of groups count as `LEAST_STEP` more than they are.
    """
    levels = 2.0**fmt.bits
    if not fmt.group:
        return operand_size_ub(encoded.step, encoded.minimum, levels)
    widest = encoded.minimum.to(torch.float64).abs() + levels * (encoded.step.to(torch.float64) + LEAST_STEP)
    norms = row_norms(widest)[..., torch.arange(block, device=widest.device) // fmt.group]
    if encoded.norm is not None:
        norms = norms * encoded.norm.to(torch.float64)
    return round_up(norms.amax(-1) * norm_factor(widest.shape[-1], 3), torch.float32)


def value_notes(
    original: torch.Tensor, decoded: torch.Tensor, err: torch.Tensor, anchor: torch.Tensor, inside: torch.Tensor
) -> ValueNotes:
    """Measure encoded values.

    Parameters
    ----------
    original : float16 or bfloat16 [..., B, d]
    decoded, err : float64 [..., B, d]
        From `Format.decode`.
    anchor : float32 [..., d]
    inside : float64 [..., B, d]
        As for `key_notes`.

    Returns
    -------
    ValueNotes
        Scalars in the order of `pool.VALUE_NOTES`.
    """
    tokens, d = original.shape[-2:]
    x = original.to(torch.float64)
    residual_max, residual_codes, residual_operator = _tokens(x - decoded, err)
    # off by u of its magnitude, as every float64 difference
    from_anchor = x - anchor.to(torch.float64).unsqueeze(-2)
    anchored_max, anchored_codes, anchored_operator = _tokens(from_anchor, torch.zeros_like(x))
    norms = row_norms(x)
    # two quotients by Python numbers more than `row_norms` and the sum; CUDA rounds such a quotient twice
    mean_lb = norms.sum(-1) / tokens / outward(d // 2 + 3 + tokens + 4)
    notes = (
        residual_max,
        _stored(norms.amax(-1) * norm_factor(d)),
        anchored_max,
        _stored(row_norms(inside).amax(-1) * norm_factor(d, 1)),
        residual_operator,
        anchored_operator,
        round_down(mean_lb, torch.bfloat16),
    )
    return ValueNotes(torch.stack(notes, dim=-1), residual_codes, anchored_codes)
