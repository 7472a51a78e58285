"""From terms to the certificate of a head: one quotient, its parts, the tolerance; in binary32, rounded outward.

    bound  =  min( ( sum C + sum U + eps_acc ) / sum D,  max R )  +  cast

sums over coded blocks and resident tokens, ``eps_acc`` from `Charges`, R the radii of theorem ``hull``, ``cast`` what
rounding the output to its type adds. A denominator below 2^-60, and one that overflowed, counts as 0, and whatever is
not a number as infinite.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from certkv.fast.certify import PARTIAL, distance_ub, lowered
from certkv.fast.charges import Charges
from certkv.fast.outward_fp32 import DOWN, FACTOR, LARGEST, LEAST_DENOMINATOR, LOST, TINY, known

Unit = Literal["values", "output", "absolute", "none"]
UNITS: tuple[Unit, ...] = ("values", "output", "absolute", "none")
"""What a tolerance is a share of; ``none`` accepts every bound."""


class Totals(NamedTuple):
    """The certificate of every head, float32 [batch, Hq].

    Attributes
    ----------
    bound, key, value, arithmetic : as in `certificate.Certificate`
    tolerance : what is enforced, an absolute number
    need : what must come off the numerator for the bound to be at most the tolerance; at most 0 where it is
    """

    bound: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    arithmetic: torch.Tensor
    tolerance: torch.Tensor
    need: torch.Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, device: torch.device | str = "cpu") -> Totals:
        """Allocate; everything is NaN."""
        return cls(*(torch.full((batch, heads), torch.nan, device=device) for _ in range(6)))


def over(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Upper bound of a quotient; everything undefined, and a denominator that counts as 0, is infinite."""
    usable = (denominator >= LEAST_DENOMINATOR) & (denominator <= LARGEST)
    # a quotient below the normal range lost less than TINY, which leaves the others no smaller
    return torch.where(usable, known((numerator / denominator + TINY) * FACTOR), torch.inf)


def tolerance_lb(unit: Unit, tolerance: float, scale_lb: torch.Tensor, norm_lb: torch.Tensor) -> torch.Tensor:
    """Return the absolute number that is enforced: finite, and 0 where it is unknown.

    Parameters
    ----------
    unit : Unit
    tolerance : float
    scale_lb : float32 [batch, Hq]
        ``sum rho_b vbar_b``, rounded down.
    norm_lb : float32 [batch, Hq]
        Norm of the reported output, rounded down.
    """
    if unit == "none":
        return torch.full_like(scale_lb, torch.inf)
    if unit == "absolute":
        limit = torch.full_like(scale_lb, min(tolerance * DOWN, LARGEST))
    elif unit == "output":
        limit = norm_lb * (tolerance / (1.0 + tolerance)) * DOWN
    else:
        limit = scale_lb * tolerance * DOWN
    return torch.where(torch.isnan(limit), 0.0, limit).clamp(0.0, LARGEST)


def totals(
    partial: torch.Tensor,
    output: torch.Tensor,
    charges: Charges,
    unit: Unit,
    tolerance: float,
    out: Totals,
    active: torch.Tensor,
) -> None:
    """Sum the terms of every head; written to ``out`` for heads that are active.

    Parameters
    ----------
    partial : float32 [batch, Hq, entries, 8]
        See `certify.PARTIAL`.
    output : float32 [batch, Hq, d]
        c, before it is rounded to its type.
    charges : Charges
        In binary32 (`Charges.rounded`).
    unit, tolerance
        What to enforce.
    out : Totals
    active : bool or uint8 [batch, Hq]
    """
    part = dict(zip(PARTIAL, partial.unbind(-1), strict=True))
    key, pure, value, weight, scale, size = (
        part[name].sum(-1) for name in ("key", "pure_key", "value", "weight_lb", "scale_lb", "size")
    )
    weight = torch.where(weight <= LARGEST, weight, 0.0)
    largest, radius = part["largest"].amax(-1), part["radius"].amax(-1)
    norm = distance_ub(output, torch.zeros_like(output))
    accumulation = charges.of_mean * size + charges.of_largest * largest + charges.of_output * norm + charges.absolute
    cast = (charges.cast_relative * norm + charges.cast_absolute) * FACTOR
    numerator = key + value + accumulation + LOST
    bound, key_part, value_part, arithmetic = parts_of(
        over(numerator, weight), radius, cast, (pure, over(pure, weight)), (value, over(value, weight))
    )
    norm_lb = (lowered(norm) - cast).clamp(min=0.0)
    limit = tolerance_lb(unit, tolerance, scale, norm_lb)
    need = numerator - (limit * DOWN - cast).clamp(min=0.0) * weight * (1.0 - 2.0**-10)
    need = torch.where(bound <= limit, 0.0, known(need))
    for target, found in zip(out, (bound, key_part, value_part, arithmetic, limit, need), strict=True):
        target.copy_(torch.where(active.to(torch.bool), found, target))


def parts_of(
    theorem: torch.Tensor,
    radius: torch.Tensor,
    cast: torch.Tensor,
    key: tuple[torch.Tensor, torch.Tensor],
    value: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Return bound, key, value and arithmetic part of heads.

    Parameters
    ----------
    theorem, radius, cast : float32
        The quotient; what theorem ``hull`` allows; what rounding the output to its type adds.
    key, value : (float32, float32)
        What of the numerator is due to them, and the same divided by the masses.
    """
    bound = known((torch.minimum(theorem, known(radius)) + cast) * FACTOR)
    key_part, value_part = (torch.where(x == 0.0, 0.0, torch.minimum(whole, bound)) for x, whole in (key, value))
    rest = (bound - key_part - value_part).clamp(min=0.0)
    # 8u of everything is more than these subtractions and the sum of the parts lose
    slack = (bound + key_part + value_part) * 2.0**-21
    arithmetic = torch.where(torch.isinf(bound), torch.inf, rest + slack)
    return bound, key_part, value_part, arithmetic
