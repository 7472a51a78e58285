"""Binary32 results that are bounds: counted roundings, and elementary functions from above and below.

Theorem ``outward_fp32`` (docs/derivations/outward_fp32.md): what is formed from non-negative numbers by at most
``MOST_ROUNDINGS - 1`` sums, products, quotients, roots, minima and maxima is off by a factor that ``inflate`` covers.
The exponential is ``exp2(x log2 e)`` here and in the kernels, with an exp2 within 2 ulp.

The one subtraction that the theorem knows, the norm of all tokens but the heaviest, is not needed: it is summed anew.
"""

from __future__ import annotations

import torch

from certkv.fast.errors import SettingError

MOST_ROUNDINGS = 1000
"""Largest number of roundings on both paths of a quotient, plus one, for which `FACTOR` is proved."""

FACTOR = 1.0 + 2.0**-12
LOST = 2.0**-100
"""At least 2^26 results below 2^-126."""

LEAST_DENOMINATOR = 2.0**-60
"""Below this a denominator counts as 0."""

LARGEST = float(torch.finfo(torch.float32).max)
"""Above this a denominator counts as 0: a sum that overflowed says nothing of its real value."""

EXP_UP, EXP_DOWN = 1.0 + 2.0**-16, 1.0 - 2.0**-16
"""Cover an exponential with a relative error of 2^-17 and one rounding more."""

UP, DOWN = 1.0 + 2.0**-20, 1.0 - 2.0**-20
"""Cover 8 roundings."""

TINY = 2.0**-126
"""Smallest normal number: all that a result can lose by being subnormal, or flushed."""

SQUARE_LOST = 2.0**-125
"""Twice what a square, or its place in a sum, can lose by being flushed."""

PSI_SWITCH = 0.1
"""Where psi changes from a polynomial to the exponential."""

LARGEST_ARGUMENT = 80.0
"""Above it the exponential's accuracy is not assumed: e^x counts as infinite, e^-x as 0."""

SIXTH, TWENTY_SECOND = 1.0 / 6.0, 1.0 / 22.0
LOG2_E = 1.4426950408889634


def above(x: float) -> float:
    """Smallest binary32 number that is at least x."""
    nearest = torch.tensor(x, dtype=torch.float32)
    return float(nearest if float(nearest) >= x else torch.nextafter(nearest, torch.tensor(torch.inf)))


def below(x: float) -> float:
    """Largest binary32 number that is at most x."""
    return -above(-x)


def known(x: torch.Tensor) -> torch.Tensor:
    """Replace NaN, which comparisons let pass, by infinity."""
    return torch.where(torch.isnan(x), torch.inf, x)


def inflate(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of a number computed from non-negative ones in at most ``MOST_ROUNDINGS - 1`` roundings."""
    return x * FACTOR + LOST


def root_of_squares(sum_of_squares: torch.Tensor, addends: int) -> torch.Tensor:
    """Root of a sum of squares, any of which, and any of whose sums, may have been flushed to zero."""
    return torch.sqrt(sum_of_squares + (addends + 1) * SQUARE_LOST)


def _polynomial(x: torch.Tensor) -> torch.Tensor:
    small = x.clamp(max=PSI_SWITCH)
    return (0.5 + small * (SIXTH + small * TWENTY_SECOND)) * UP


def _expm1(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``e^x - 1`` from `PSI_SWITCH` to `LARGEST_ARGUMENT`."""
    return (torch.exp2(x * LOG2_E) - 1.0) * EXP_UP


def psi_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``(e^x - 1 - x)/x^2``, x >= 0, at most 1.01 times it up to 80; NaN gives ``+inf``."""
    large = x.clamp(PSI_SWITCH, LARGEST_ARGUMENT)
    closed = (_expm1(large) - large) / (large * large) * UP
    return torch.where(x <= PSI_SWITCH, _polynomial(x), torch.where(x <= LARGEST_ARGUMENT, closed, torch.inf))


def expm1_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``e^x - 1``, x >= 0; ``+inf`` above 80 and for NaN."""
    small = x.clamp(max=PSI_SWITCH)
    near = (small + small * small * _polynomial(x)) * UP + TINY
    far = _expm1(x.clamp(PSI_SWITCH, LARGEST_ARGUMENT))
    return torch.where(x <= PSI_SWITCH, near, torch.where(x <= LARGEST_ARGUMENT, far, torch.inf))


def exp_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``e^x``, x >= 0; ``+inf`` above 80 and for NaN."""
    return torch.where(x <= LARGEST_ARGUMENT, torch.exp2(x * LOG2_E) * EXP_UP, torch.inf)


def exp_minus_lb(x: torch.Tensor) -> torch.Tensor:
    """Lower bound of ``e^-x``, x >= 0; 0 from 80 on and for NaN."""
    near = torch.exp2(-x.clamp(max=LARGEST_ARGUMENT) * LOG2_E) * EXP_DOWN
    return torch.where(x < LARGEST_ARGUMENT, near, 0.0)


def check_roundings(block: int, partials: int) -> None:
    """Refuse shapes whose sums round more often than `FACTOR` covers.

    A block's term has at most ``block + 48`` roundings and is inflated; its size has ``block + 8`` and is not, and over
    blocks there are at most `partials` sums, those of a chunk and a quotient's own. In the first tier a term of a block
    is not inflated; a lane of a split's program adds up at most 32 of them from zero, and one such sum per 256 blocks;
    its neighbours take 5, up to 2,048 splits 64, and what is left 11.

    Raises
    ------
    SettingError
    """
    chains = {
        "block": block + 48,
        "sum over blocks": block + partials + 64,
        "sum over splits": block + 160 + partials // 4,
    }
    for what, count in chains.items():
        if count + 1 > MOST_ROUNDINGS:
            raise SettingError(
                f"a {what} has {count} roundings on a path; the factor 1 + 2^-12 is proved for {MOST_ROUNDINGS - 1}: "
                "use smaller blocks, or less capacity"
            )
