"""Theorem ``sharp``: numerator and denominator of the block bound, coupled; the bound is a root.

Notation of ``block_bound``; ``E_b = e^Delta_b``. For a number kappa and a number lambda let

    T(lambda) = sum_b rho_b max_{w in {1/E_b, E_b}} ( |w - kappa| R_b - lambda w ) + |kappa| (U + eps_acc).

If ``T(lambda) <= 0`` then ``||O - c|| <= lambda``. For kappa = 1 and lambda >= 0 a block may instead contribute
``C_b - lambda D_b``, where ``||sum_{t in b} a'_t (w_t - 1)(V_t - c)|| <= C_b`` and ``sum_{t in b} a'_t w_t >= D_b``;
so the smaller of the two. With one Delta and one R for all blocks, ``U + eps_acc = 0`` and ``kappa = 1/cosh Delta``,
the root is ``R tanh Delta``, and it is attained.

Form: ours. Derivation: docs/derivations/sharp.md. ``T`` decreases, and without alternatives it is convex, so that a
Newton step from ``T > 0`` stops short of the root and a regula falsi step does not. None of that is relied on: a
lambda is returned only if T, *evaluated outward*, is at most 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.arithmetic import LOST_TO_UNDERFLOW, exp_minus_lb
from certkv.reference.bounds.decay import DECAY_ROUNDINGS, decay
from certkv.reference.bounds.full_tv import as_stated as tanh_ub
from certkv.reference.bounds.root import smallest_certified
from certkv.reference.errors import SettingError
from certkv.reference.numbers import U, outward
from certkv.reference.numbers.types import BoolArray, FloatArray

LARGEST = 709.0
"""Beyond it ``e**Delta`` is known to be at least ``e**709`` only."""

CHUNK = 1 << 18
"""Numbers in an array of a chunk of heads: temporaries stay in the processor's cache."""

_UP = outward(3)
_DOWN = 1.0 / outward(4)
_EXP = 2.0**-48
"""More than an exponential is off, relatively (see ``arithmetic.expm1_ub``)."""


@dataclass(frozen=True, eq=False)
class Function:
    """T of some heads, with everything that does not depend on lambda, float64 [heads, blocks] unless said.

    Attributes
    ----------
    mass_ub, mass_lb
        Bounds of ``rho_b``.
    raised_ub, lowered_ub
        Upper bounds of ``|1 - kappa / E_b| R_b`` and of ``|1/E_b - kappa| R_b``.
    e_ub, e_lb, f_lb
        Bounds of ``E_b`` and ``1/E_b``.
    fixed_ub : float64 [heads]
        Upper bound of ``|kappa| (U + eps_acc)``.
    cap_ub, credit_lb
        ``C_b`` and ``D_b``; ``+inf`` and 0 where there is no alternative.
    known : bool [heads]
        Whether no input is NaN.
    """

    mass_ub: FloatArray
    mass_lb: FloatArray
    raised_ub: FloatArray
    lowered_ub: FloatArray
    e_ub: FloatArray
    e_lb: FloatArray
    f_lb: FloatArray
    fixed_ub: FloatArray
    cap_ub: FloatArray | None
    credit_lb: FloatArray | None
    known: BoolArray

    @classmethod
    def of(
        cls,
        mass_ub: FloatArray,
        mass_lb: FloatArray,
        delta_ub: FloatArray,
        radius_ub: FloatArray,
        value_and_accumulation_ub: FloatArray,
        kappa: FloatArray,
        cap_ub: FloatArray | None,
        credit_lb: FloatArray | None,
    ) -> Self:
        """Prepare; shapes and meanings as in `sharp`, ``kappa`` float64 [heads]."""
        _, lost = decay(delta_ub)  # 1 - F
        # with R this large no product below underflows, unless E < e; `at` charges what is lost there
        radius_ub = np.maximum(radius_ub, LOST_TO_UNDERFLOW)
        column = kappa[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            # 1 - kappa F = (1 - kappa) + kappa (1 - F) and F - kappa = (1 - kappa) - (1 - F): exact for kappa = 1
            raised_ub = _distance_ub(1.0 - column, column * lost) * radius_ub * _UP
            lowered_ub = _distance_ub(1.0 - column, -lost) * radius_ub * _UP
            e = np.exp(np.minimum(delta_ub, LARGEST))
            e_ub, e_lb = np.where(delta_ub <= LARGEST, e * (1.0 + _EXP), np.inf), e * (1.0 - _EXP)
            fixed_ub = np.abs(kappa) * value_and_accumulation_ub * _UP
        blocks = [x for x in (mass_ub, mass_lb, delta_ub, radius_ub, cap_ub, credit_lb) if x is not None]
        known = ~(np.isnan(kappa) | np.isnan(value_and_accumulation_ub))
        for numbers in blocks:
            known &= ~np.isnan(numbers).any(axis=-1)
        return cls(
            mass_ub=mass_ub,
            mass_lb=mass_lb,
            raised_ub=raised_ub,
            lowered_ub=lowered_ub,
            e_ub=e_ub,
            e_lb=e_lb,
            f_lb=exp_minus_lb(delta_ub),
            fixed_ub=fixed_ub,
            cap_ub=cap_ub,
            credit_lb=credit_lb,
            known=known,
        )

    @property
    def floor(self) -> FloatArray:
        """Below this T is infinite, float64 [heads]: a raised weight whose E is not known from above."""
        infinite = np.isinf(self.e_ub) & np.isfinite(self.raised_ub) & (self.cap_ub is None)
        return np.asarray(np.where(infinite, self.raised_ub, 0.0).max(axis=-1, initial=0.0))

    def at(self, bound: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Evaluate T at ``bound`` [heads], all at least 0.

        Returns
        -------
        total_ub : float64 [heads]
            At most 0 only where T is; ``+inf`` where nothing is known.
        slope : float64 [heads]
            About T's derivative; serves the search and is no bound.
        """
        column = bound[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            raised = _difference_ub(self.raised_ub, column)
            raised = np.where(raised > 0.0, self.e_ub * raised, self.e_lb * raised)
            lowered = _difference_ub(self.lowered_ub, column * self.f_lb * _DOWN)
            inner = np.maximum(raised, lowered)
            mass = np.where(inner > 0.0, self.mass_ub, self.mass_lb)
            terms = mass * inner
            # a NaN here is 0 * inf or inf - inf of known inputs
            terms = np.where(np.isnan(terms), np.inf, terms)
            slopes = -mass * np.where(raised >= lowered, self.e_lb, self.f_lb)
            if self.cap_ub is not None and self.credit_lb is not None:
                capped = _difference_ub(self.cap_ub, column * self.credit_lb * _DOWN)
                slopes = np.where(capped < terms, -self.credit_lb, slopes)
                terms = np.fmin(terms, capped)
            # roundings on a path: the two products of a term, the sum over blocks, two more sums
            factor = outward(terms.shape[-1] + 5)
            positive = (np.maximum(terms, 0.0).sum(axis=-1) + self.fixed_ub + LOST_TO_UNDERFLOW) * factor
            negative = np.maximum(-terms, 0.0).sum(axis=-1) / factor
            total = positive - negative
        return np.where(self.known & ~np.isnan(total), total, np.inf), slopes.sum(axis=-1)


def _distance_ub(x: FloatArray, y: FloatArray) -> FloatArray:
    """Upper bound of ``|x + y|`` where x met one rounding and y an exponential and a product."""
    error = (DECAY_ROUNDINGS + 7) * U  # of the inputs, the sum and the roundings of this line
    return np.asarray((np.abs(x + y) + error * (np.abs(x) + np.abs(y))) * (1.0 + 4.0 * U))


def _difference_ub(x: FloatArray, y: FloatArray) -> FloatArray:
    """Upper bound of ``x - y``: the difference is off by ``u |fl(x - y)|``, and 4u outweighs the sum's own rounding."""
    difference = x - y
    return np.asarray(difference + 4.0 * U * np.abs(difference))


def sharp(
    *,
    mass_ub: FloatArray,
    mass_lb: FloatArray,
    delta_ub: FloatArray,
    radius_ub: FloatArray,
    value_and_accumulation_ub: FloatArray,
    start_ub: FloatArray,
    kappa: ArrayLike = 1.0,
    cap_ub: FloatArray | None = None,
    credit_lb: FloatArray | None = None,
) -> FloatArray:
    """Bound each head's error by about the root of T, and by ``start_ub``.

    Parameters
    ----------
    mass_ub, mass_lb : float64 [heads, blocks]
        Bounds of the executed masses ``rho_b``, at least 0.
    delta_ub : float64 [heads, blocks]
        ``Delta_b``, rounding included; at least 0, may be ``inf``.
    radius_ub : float64 [heads, blocks]
        ``R_b``, in the units of V.
    value_and_accumulation_ub : float64 [heads]
        ``U + eps_acc``.
    start_ub : float64 [heads]
        A bound that is already known to be valid; NaN counts as ``inf``.
    kappa : float or float64 [heads]
        Any number is sound; see `certkv.reference.bounds.kappa.choose_kappa`.
    cap_ub, credit_lb : float64 [heads, blocks], optional
        ``C_b`` and ``D_b``, at least 0; both or neither. Only with kappa = 1, for which they are proved.

    Returns
    -------
    float64 [heads]
        At most ``start_ub``, and equal to it where an input is NaN, where ``start_ub`` is infinite, or where T is
        positive there.

    Raises
    ------
    SettingError
        Only one of ``cap_ub`` and ``credit_lb`` is given, or both with a kappa other than 1.
    """
    start = np.where(np.isnan(start_ub), np.inf, start_ub)
    heads, blocks = np.shape(mass_ub)
    kappas = np.array(np.broadcast_to(np.asarray(kappa, dtype=np.float64), (heads,)))
    if (cap_ub is None) != (credit_lb is None):
        raise SettingError("cap_ub and credit_lb belong together; give both or neither")
    if cap_ub is not None and not (kappas == 1.0).all():
        raise SettingError("cap_ub and credit_lb are bounds for kappa = 1; leave them out, or leave kappa at 1")
    bound = start.copy()
    size = max(CHUNK // max(blocks, 1), 1)
    for first in range(0, heads, size):
        rows = slice(first, first + size)
        function = Function.of(
            mass_ub[rows],
            mass_lb[rows],
            delta_ub[rows],
            radius_ub[rows],
            value_and_accumulation_ub[rows],
            kappas[rows],
            None if cap_ub is None else cap_ub[rows],
            None if credit_lb is None else credit_lb[rows],
        )
        bound[rows] = smallest_certified(function.at, start[rows], outward(blocks), function.floor)
    return bound


def uniform(delta_ub: ArrayLike, radius_ub: ArrayLike, value_and_accumulation_ub: ArrayLike = 0.0) -> FloatArray:
    """Root for one Delta and one R and kappa = 1/cosh Delta: ``R tanh Delta + (U + eps) (1 + tanh Delta)``.

    Attained by two tokens of equal weight, values ``+-R`` and log-weight errors ``+-Delta``, if ``U + eps = 0``.

    Parameters
    ----------
    delta_ub, radius_ub, value_and_accumulation_ub : float64 [...]

    Returns
    -------
    float64 [...]
        Rounded up; NaN becomes ``inf``.
    """
    radius, rest = np.asarray(radius_ub, dtype=np.float64), np.asarray(value_and_accumulation_ub, dtype=np.float64)
    tanh = tanh_ub(delta_ub)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = (radius * tanh + rest * (1.0 + tanh)) * outward(4)
    return np.asarray(np.where(np.isnan(bound) | np.isnan(delta_ub), np.inf, bound))
