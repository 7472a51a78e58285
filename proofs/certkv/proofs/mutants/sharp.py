"""The root of theorem ``sharp``: heads on which it is attained, so that whatever is left out of T is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
from flint import arb

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.bounds import full_tv, sharp
from certkv.reference.bounds import root as root_module
from certkv.reference.bounds.kappa import uniform_kappa
from certkv.reference.exact.enclosure import working_precision
from certkv.reference.numbers.types import FloatArray

DELTAS = (0.01, 0.1, 0.18, 0.3, 0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0)

RADIUS = 3.0

PRECISION = 256

CLOSE = 1e-11
"""The bound is at most 1 + this times what is attained: roundings, and where the search for the root ends."""


def precisely(check: Callable[[], None]) -> Callable[[], None]:
    """Run a check with balls of `PRECISION` bits."""

    @wraps(check)
    def inside() -> None:
        with working_precision(PRECISION):
            check()

    return inside


def column(*numbers: float) -> FloatArray:
    """One head with a block for each number."""
    return np.array([numbers])


def root(
    mass: Sequence[float], delta: Sequence[float], radius: Sequence[float], rest: float = 0.0, **changes: Any
) -> float:
    """Bound of a head, from a start far above."""
    numbers = {
        "mass_ub": column(*mass),
        "mass_lb": column(*mass),
        "delta_ub": column(*delta),
        "radius_ub": column(*radius),
        "value_and_accumulation_ub": np.array([rest]),
        "start_ub": np.array([1e6]),
    }
    return float(sharp.sharp(**numbers | changes)[0])


def require_covered(error: arb, bound: float, where: str, attained: bool = True) -> None:
    """Check that the bound is not below the error, and where it is attained not far above."""
    require(not error > bound, f"{where}: error {error.str(17, radius=False)} above the bound {bound!r}")
    if attained:
        require(not bound > error * (1 + CLOSE), f"{where}: bound {bound!r} for an error of {error}")


@precisely
def two_tokens_attain_the_root() -> None:
    """Two tokens of equal weight, values +-R around the output, raised and lowered by Delta: the error is R tanh."""
    for delta in DELTAS:
        up, down = arb(delta).exp(), arb(-delta).exp()
        error = RADIUS * (up - down) / (up + down)
        require_covered(error, float(sharp.uniform(delta, RADIUS)), f"Delta {delta}, closed form")
        best = float(uniform_kappa(delta))
        for kappa in (best, float(np.exp(-delta)), 1.0, float(np.cosh(delta)), 0.0):
            bound = root([1.0], [delta], [RADIUS], kappa=kappa)
            # rounding kappa moves |w - kappa| by 2**-53, which is not felt at these Delta
            require_covered(error, bound, f"Delta {delta}, kappa {kappa}", attained=kappa == best)


@precisely
def rest_counts_kappa_times() -> None:
    """Raise a light block whose values all lie away from the output; that is where the heavy block is, and stray."""
    for delta in (0.5, 1.0, 2.0):
        light = 2.0**-40
        up = arb(delta).exp()
        error = light * up * RADIUS / (1 - light + light * up)
        bound = root([light, 1 - light], [delta, 0.0], [RADIUS, 0.0], light * RADIUS, kappa=float(np.cosh(delta)))
        # attained up to the share of the light block, 2**-40 times E squared
        require_covered(error, bound, f"Delta {delta}")


@precisely
def masses_are_enclosed() -> None:
    """Masses known to within a factor only: the true ones may be the smaller where that hurts."""
    up, down = arb(1).exp(), arb(-1).exp()
    bound = root([1.0], [1.0], [RADIUS], mass_ub=column(1.5))
    require_covered(RADIUS * (up - down) / (up + down), bound, "one block", attained=False)
    # beside an exact block of mass 1/2, known to be between 1/4 and 3/4, whose values lie at the output
    bound = root([0.5, 0.25], [1.0, 0.0], [RADIUS, 0.0], mass_ub=column(0.5, 0.75))
    error = arb(0.5) * RADIUS * (up - down) / (1 + (up + down) / 2)
    require_covered(error, bound, "two blocks", attained=False)
    require_covered(error, root([0.5, 0.5], [1.0, 0.0], [RADIUS, 0.0]), "two blocks, known masses", attained=False)


@precisely
def alternatives_are_attained() -> None:
    """Raise a tenth of the weight, lower the rest, values in balance: the block's own C and D are all there is."""
    for delta in (0.1, 1.0, 2.0):
        share = arb(1) / 10
        up, down = arb(delta).exp(), arb(-delta).exp()
        cap, credit = share * RADIUS * (up - down), share * up + (1 - share) * down
        bound = root(
            [1.0],
            [delta],
            [RADIUS],
            cap_ub=column(float(cap) * (1 + 2.0**-50)),
            credit_lb=column(float(credit) * (1 - 2.0**-50)),
        )
        require_covered(cap / credit, bound, f"Delta {delta}")


@precisely
def bound_is_proved() -> None:
    """Evaluate T in ball arithmetic where the root was said to be: it has to be at most 0."""
    rng = np.random.default_rng(0)
    for blocks in (1, 2, 3, 64) * 5:
        mass, radius = rng.dirichlet(np.ones(blocks)), rng.random(blocks)
        delta = rng.random(blocks) * rng.choice([1e-3, 0.1, 1.0])
        kappa, rest = rng.uniform(0.5, 1.5), rng.random() * 0.01
        bound = root(mass.tolist(), delta.tolist(), radius.tolist(), rest, kappa=kappa)
        total = arb(kappa) * arb(rest)
        for rho, d, r in zip(mass, delta, radius, strict=True):
            ends = (arb(d).exp(), arb(-d).exp())
            raised, lowered = (abs(w - arb(kappa)) * arb(r) - arb(bound) * w for w in ends)
            total += arb(rho) * raised.max(lowered)
        require(not total > 0, f"{blocks} blocks: T is {total.str(5, radius=False)} at the bound {bound!r}")


OF = sharp.Function.of
SEARCH = root_module.smallest_certified


def with_function(**changes: Any) -> AbstractContextManager[None]:
    """Plant a T in which fields are replaced: by a number, or by another field of that name."""

    def planted(*arguments: Any, **named: Any) -> sharp.Function:
        function: Any = OF(*arguments, **named)
        new: dict[str, Any] = {}
        for name, value in changes.items():
            new[name] = getattr(function, value) if isinstance(value, str) else np.full_like(function.mass_ub, value)
        changed: sharp.Function = replace(function, **new)
        return changed

    return patched((sharp.Function, "of", planted))


def kappa_not_on_the_rest() -> AbstractContextManager[None]:
    """Add ``U + eps`` once, whatever kappa."""

    def planted(*arguments: Any, **named: Any) -> sharp.Function:
        return replace(OF(*arguments, **named), fixed_ub=arguments[4])

    return patched((sharp.Function, "of", planted))


def from_below() -> AbstractContextManager[None]:
    """Return the other end of the bracket: the largest number at which T was still positive."""

    def planted(at: Any, start: FloatArray, *rest: Any) -> FloatArray:
        largest = np.zeros_like(start)

        def recorded(bound: FloatArray) -> tuple[FloatArray, FloatArray]:
            total, slope = at(bound)
            np.maximum(largest, np.where(total > 0.0, bound, 0.0), out=largest)
            return total, slope

        return np.minimum(SEARCH(recorded, start, *rest), largest)

    return patched((sharp, "smallest_certified", planted))


def to_nearest() -> AbstractContextManager[None]:
    """Evaluate T and the closed form in plain float64."""
    return patched(
        (sharp, "outward", lambda n: 1.0),
        (sharp, "_UP", 1.0),
        (sharp, "_DOWN", 1.0),
        (sharp, "_EXP", 0.0),
        (sharp, "LOST_TO_UNDERFLOW", 0.0),
        (sharp, "exp_minus_lb", lambda x: np.exp(-x)),
        (sharp, "_distance_ub", lambda x, y: np.abs(x + y)),
        (sharp, "_difference_ub", lambda x, y: x - y),
    )


FAR_BELOW = -1e300

CHECKS = (
    Check(
        "sharp-attained",
        "R tanh(Delta) and the root for every kappa cover two opposite tokens",
        two_tokens_attain_the_root,
    ),
    Check("sharp-rest", "other errors count kappa times", rest_counts_kappa_times),
    Check("sharp-proved", "T, in ball arithmetic, is at most 0 at the bound", bound_is_proved),
    Check("sharp-masses", "what lowers T takes the lower bound of a mass", masses_are_enclosed),
    Check(
        "sharp-alternatives",
        "a block's own bounds are attained and divided by its own weight",
        alternatives_are_attained,
    ),
)

MUTANTS = (
    Mutant(
        "sharp-raised-only",
        "-",
        "T from the raised end of each block",
        lambda: with_function(lowered_ub=FAR_BELOW),
        "sharp-attained",
    ),
    Mutant(
        "sharp-lowered-only",
        "-",
        "T from the lowered end of each block",
        lambda: with_function(raised_ub=FAR_BELOW),
        "sharp-attained",
    ),
    Mutant("sharp-from-below", "-", "the end of the bracket where T is positive", from_below, "sharp-attained"),
    Mutant("sharp-to-nearest", "-", "T evaluated without rounding outward", to_nearest, "sharp-proved"),
    Mutant(
        "sharp-half-delta",
        "-",
        "tanh(Delta/2), the total variation, for the error",
        lambda: patched((sharp, "tanh_ub", full_tv.sharp)),
        "sharp-attained",
    ),
    Mutant("sharp-kappa-free", "-", "U + eps in place of kappa (U + eps)", kappa_not_on_the_rest, "sharp-rest"),
    Mutant(
        "sharp-one-mass",
        "-",
        "the upper bound of a mass wherever it stands",
        lambda: with_function(mass_lb="mass_ub"),
        "sharp-masses",
    ),
    Mutant(
        "sharp-credit-mass",
        "-",
        "a block's mass as its share of W",
        lambda: with_function(credit_lb="mass_lb"),
        "sharp-alternatives",
    ),
)
