"""Theorem ``spectral``: errors of different tokens of a block cannot all align with the same query.

Beside the largest score error ``Delta_b`` of a block, its Euclidean norm over the block is known, ``||delta||_2 <=
Omega_b``: the operator norm of the block's key residuals bounds it, and it is far below ``sqrt(B) Delta_b``. The same
holds for value residuals. With a' the executed shares, mu the anchor, c the output, ``gamma = ||c - mu||``,
``n_t >= ||V_t - mu||``, ``eta_t >= ||V_t - V_hat_t||``, ``beta_t = a'_t n_t``, ``psi(x) = (e^x - 1 - x)/x^2``, D1, D2,
S2 the sums of ``weighted_sums``, and operator norms ``omega`` of ``((V_t - mu)/n_t)_t``, ``epsilon`` of ``((V_t -
V_hat_t)/eta_t)_t``:

    || sum_{t in b} a'_t (w_t - 1)(V_t - c) ||  <=  C_b  =  min( D1(beta), omega D2(beta) ) + psi(Delta) S2(beta)
                                                            + gamma ( D1(a') + psi(Delta) S2(a') )
    || sum_{t in b} a'_t (V_t - V_hat_t) ||     <=  U_b  =  min( sum a' eta, epsilon ||a' eta||,
                                                                 top(a' eta) + epsilon rest(a' eta) )
    sum_{t in b} a'_t w_t                       >=  D_b  =  rho_b exp(-D1(a') / rho_b)

and ``||O - c|| <= (sum C_b + sum U_b + eps_acc) / sum D_b``.

**Each token by its own distance.** With ``r_t >= ||V_t - c||``, C_b may be replaced by ``D1(a' r) + psi(Delta) S2(a'
r)``: distances from the output itself, where they are at hand, leave no anchor and no gamma.

**Heaviest token apart.** For any token h of the block, C_b may be replaced by ``a'_h (e^Delta - 1) r_h`` plus the same
expression with a'_h = 0, where ``r_h >= ||V_h - c||``: one token's distance from the output is worth measuring, since
in a peaked head it *is* the output. Source: ours. Derivation: docs/derivations/spectral.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.arithmetic import exp_minus_lb, expm1_ub
from certkv.reference.bounds.weighted_sums import Sums, first_order, root_order, second_order, sums, without
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray, IntArray

SERIES = 0.1
"""Below this psi is evaluated by its series."""

SMALLEST_NORMAL = float(np.finfo(np.float64).smallest_normal)


@dataclass(frozen=True, eq=False)
class ScoreKnowledge:
    """What bounds the score errors of each block, upper bounds; float64 [heads, blocks].

    Attributes
    ----------
    delta, operator : float64 [heads, blocks]
        ``Delta_b`` and ``Omega_b``.
    """

    delta: FloatArray
    operator: FloatArray

    def and_rounding(self, rounding_ub: FloatArray, block: int) -> ScoreKnowledge:
        """Add an error of at most ``rounding_ub`` per token: it is at most ``sqrt(B)`` times that over the block."""
        return ScoreKnowledge(
            (self.delta + rounding_ub) * outward(1), (self.operator + np.sqrt(block) * rounding_ub) * outward(3)
        )


@dataclass(frozen=True, eq=False)
class Heaviest:
    """One token of each block and its distance from the output.

    Attributes
    ----------
    token : int64 [heads, blocks]
    radius_ub : float64 [heads, blocks]
        ``r_h >= ||V_h - c||``, in the units of V.
    """

    token: IntArray
    radius_ub: FloatArray


def psi_ub(x: FloatArray) -> FloatArray:
    """Upper bound of ``(e^x - 1 - x)/x^2`` for x >= 0, and of its limit 1/2 at 0; ``inf`` where e^x overflows.

    Below 0.1 the series ``1/2 + x/6 + x^2/24 + x^3/120 + ...`` is at most ``1/2 + x/6 + x^2/22``: what follows
    ``x^2/24`` is at most ``x^2 (x/120)(1 + x/6 + ...) < x^2/1100 < x^2 (1/22 - 1/24)``.
    """
    small = x < SERIES
    near, far = np.where(small, x, 0.0), np.where(small, 1.0, x)
    series = (0.5 + near / 6.0 + near * near / 22.0) * outward(5)
    with np.errstate(over="ignore", invalid="ignore"):
        # the difference is rounded once from an upper bound; the rest are a product and a quotient
        closed = np.minimum((expm1_ub(far) - far) * outward(1) / (far * far) * outward(2), np.inf)
    return np.asarray(np.where(small, series, np.where(np.isnan(closed), np.inf, closed)))


def weighted_ub(shares: FloatArray, sizes: FloatArray) -> FloatArray:
    """Upper bounds of ``a'_t x_t``, [..., B]: 0 where a factor is, and never lost to underflow.

    A share of 2^-1000 times a subnormal value would be 0; but where a score is off by 700, ``e^700`` makes it count.
    """
    product = shares * sizes * outward(1)
    return np.where((shares == 0.0) | (sizes == 0.0), product, product + SMALLEST_NORMAL)


def key_terms(
    shares: FloatArray,
    distances: FloatArray,
    operator: FloatArray,
    gamma_ub: FloatArray,
    errors: ScoreKnowledge,
    heaviest: Heaviest,
) -> FloatArray:
    """``C_b``, the smaller of both forms.

    Parameters
    ----------
    shares : float64 [heads, blocks, B]
        Upper bounds of the executed shares a'_t.
    distances : float64 [blocks, B]
        n_t, in the units of V.
    operator : float64 [blocks]
        omega.
    gamma_ub : float64 [heads]
        Upper bound of ``||c - mu||``.
    errors : ScoreKnowledge
    heaviest : Heaviest

    Returns
    -------
    float64 [heads, blocks]
        ``inf`` where nothing is known; 0 where there is no error.
    """
    # no token's error is above the norm of all; and so no product below loses to underflow what psi makes large again
    errors = ScoreKnowledge(np.fmin(errors.delta, errors.operator), errors.operator)
    whole = _all_tokens(shares, distances, operator, gamma_ub, errors)
    share = np.take_along_axis(shares, heaviest.token[..., None], axis=-1)[..., 0]
    rest = _all_tokens(without(shares, heaviest.token), distances, operator, gamma_ub, errors)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = (share * expm1_ub(errors.delta) * heaviest.radius_ub + rest) * outward(3)
        least = np.fmin(whole, apart)
    return np.where(errors.delta == 0.0, 0.0, np.where(np.isnan(least), np.inf, least))


def _all_tokens(
    shares: FloatArray, distances: FloatArray, operator: FloatArray, gamma_ub: FloatArray, errors: ScoreKnowledge
) -> FloatArray:
    """``C_b`` with every token treated alike."""
    delta, omega = errors.delta, errors.operator
    curve = psi_ub(delta)
    with np.errstate(over="ignore", invalid="ignore"):
        beta, a = sums(weighted_ub(shares, distances)), sums(shares)
        first = np.fmin(first_order(beta, delta, omega), operator * root_order(beta, delta, omega) * outward(1))
        about_anchor = first + curve * second_order(beta, delta, omega)
        of_anchor = first_order(a, delta, omega) + curve * second_order(a, delta, omega)
        return np.asarray((about_anchor + gamma_ub[:, None] * of_anchor) * outward(5))


def direct_key_terms(shares: FloatArray, radii_ub: FloatArray, errors: ScoreKnowledge) -> FloatArray:
    """``C_b`` from each token's distance from the output.

    Parameters
    ----------
    shares, radii_ub : float64 [heads, blocks, B]
        Upper bounds of the executed shares a'_t, and of ``r_t >= ||V_t - c||``, in the units of V.
    errors : ScoreKnowledge

    Returns
    -------
    float64 [heads, blocks]
        ``inf`` where nothing is known; 0 where there is no error.
    """
    delta, omega = np.fmin(errors.delta, errors.operator), errors.operator
    with np.errstate(over="ignore", invalid="ignore"):
        beta = sums(weighted_ub(shares, radii_ub))
        least = first_order(beta, delta, omega) + psi_ub(delta) * second_order(beta, delta, omega)
    return np.where(delta == 0.0, 0.0, np.where(np.isnan(least), np.inf, least * outward(3)))


def value_terms(shares: FloatArray, residuals: FloatArray, operator: FloatArray) -> FloatArray:
    """``U_b``.

    Parameters
    ----------
    shares : float64 [heads, blocks, B]
        Upper bounds of the executed shares.
    residuals : float64 [blocks, B]
        eta_t, in the units of V.
    operator : float64 [blocks]
        epsilon.

    Returns
    -------
    float64 [heads, blocks]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        errors: Sums = sums(weighted_ub(shares, residuals))
        top = errors.top + operator * errors.rest
        least = np.fmin(np.fmin(errors.l1, operator * errors.l2), top) * outward(2)
    return np.where(errors.top == 0.0, 0.0, np.where(np.isnan(least), np.inf, least))


def weight_lb(shares: FloatArray, mass_lb: FloatArray, errors: ScoreKnowledge) -> FloatArray:
    """``D_b``: a lower bound of ``sum_{t in b} a'_t w_t``, never below ``rho_b e^-Delta_b``; float64 [heads, blocks].

    Parameters
    ----------
    shares : float64 [heads, blocks, B]
        Upper bounds of the executed shares.
    mass_lb : float64 [heads, blocks]
        Lower bounds of the masses rho_b.
    errors : ScoreKnowledge
    """
    moved = first_order(sums(shares), errors.delta, errors.operator)
    some = mass_lb > 0.0
    with np.errstate(over="ignore"):
        exponent = np.where(some, moved, 0.0) / np.where(some, mass_lb, 1.0) * outward(1)
    return np.asarray(mass_lb * exp_minus_lb(np.fmin(exponent, errors.delta)) * (1.0 - 2.0**-52))
