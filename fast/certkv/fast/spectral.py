"""Theorem ``spectral`` in binary32: what key and value errors of a block do to the output, and to the denominator.

With shares a, distances n_t from the anchor, ``beta_t = a_t n_t``, ``|delta_t| <= Delta``, ``||delta|| <= Omega``,
``gamma = ||c - mu||``, operator norms omega, epsilon, D1, D2, S2 of lemma ``weighted_sums``, psi of ``outward_fp32``:

    C  =  min( D1(beta), omega D2(beta) ) + psi(Delta) S2(beta) + gamma ( D1(a) + psi(Delta) S2(a) )
    U  =  min( sum a eta, epsilon ||a eta||, top(a eta) + epsilon rest(a eta) )
    D  =  rho exp( -min( Delta, D1(a) / rho ) )

for all tokens alike, or with one token apart: ``a_h (e^Delta - 1) r_h`` plus C of the others. Numbers per token are
relative to the block's largest, so that squares stay in range; the block's maximum is multiplied on last.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.outward_fp32 import (
    DOWN,
    exp_minus_lb,
    expm1_ub,
    inflate,
    known,
    psi_ub,
    root_of_squares,
)


class Sums(NamedTuple):
    """Sum, Euclidean norm, largest element of non-negative weights, and the norm of all but one largest; [...]."""

    l1: torch.Tensor
    l2: torch.Tensor
    top: torch.Tensor
    rest: torch.Tensor


class Errors(NamedTuple):
    """Largest score error of a block and its norm over the block, upper bounds; [...]."""

    delta: torch.Tensor
    omega: torch.Tensor


def sums(weights: torch.Tensor) -> Sums:
    """Take the norms over the last axis, float32 [..., B]."""
    block = weights.shape[-1]
    top, at = weights.max(-1)
    squares = weights * weights
    return Sums(
        l1=weights.sum(-1),
        l2=root_of_squares(squares.sum(-1), block),
        top=top,
        rest=root_of_squares(without(squares, at).sum(-1), block),
    )


def without(weights: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Weights with one token's set to 0, [..., B] and [...] -> [..., B]."""
    return weights.scatter(-1, token[..., None], 0.0)


def first_order(w: Sums, e: Errors) -> torch.Tensor:
    """``D1``: bounds ``sum w_t |delta_t|``."""
    return torch.minimum(
        known(e.delta * w.l1), torch.minimum(known(e.omega * w.l2), known(w.top * e.delta + w.rest * e.omega))
    )


def root_order(w: Sums, e: Errors) -> torch.Tensor:
    """``D2``: bounds ``||(w_t delta_t)_t||``."""
    return torch.minimum(known(w.top * e.omega), known(e.delta * w.l2))


def second_order(w: Sums, e: Errors) -> torch.Tensor:
    """``S2``: bounds ``sum w_t delta_t^2``."""
    product = torch.minimum(known(e.omega * e.omega * w.top), known(e.delta * e.omega * w.l2))
    return torch.minimum(known(e.delta * e.delta * w.l1), product)


class KeyContext(NamedTuple):
    """What a block's key terms depend on beside the errors; float32 [...].

    Attributes
    ----------
    a, a_rest : Sums
        Of the shares, of all tokens and without token h.
    beta, beta_rest : Sums
        Of shares times distances, relative to ``largest``.
    largest : Tensor
        Largest n_t.
    operator : Tensor
        omega.
    gamma : Tensor
        ``||c - mu||``.
    share : Tensor
        a_h.
    distance : Tensor
        ``r_h >= ||V_h - c||``.
    radius : Tensor
        ``R >= max_t ||V_t - c||``.
    """

    a: Sums
    a_rest: Sums
    beta: Sums
    beta_rest: Sums
    largest: torch.Tensor
    operator: torch.Tensor
    gamma: torch.Tensor
    share: torch.Tensor
    distance: torch.Tensor
    radius: torch.Tensor


def key_term(context: KeyContext, errors: Errors) -> torch.Tensor:
    """``C``: the smallest of all tokens alike, one token apart, and theorem ``block_bound``; 0 without errors."""
    # no token's error is above the norm of all; so no product loses to underflow what psi makes large again
    e = Errors(torch.minimum(errors.delta, errors.omega), errors.omega)
    curve, growth = psi_ub(e.delta), expm1_ub(e.delta)

    def alike(a: Sums, beta: Sums) -> torch.Tensor:
        first = torch.minimum(first_order(beta, e), known(context.operator * root_order(beta, e)))
        about = context.largest * (first + curve * second_order(beta, e))
        return known(about + context.gamma * (first_order(a, e) + curve * second_order(a, e)))

    apart = known(context.share * growth * context.distance + alike(context.a_rest, context.beta_rest))
    plain = known(context.a.l1 * growth * context.radius)
    least = torch.minimum(torch.minimum(alike(context.a, context.beta), apart), plain)
    return torch.where(e.delta == 0.0, 0.0, inflate(least))


def value_term(residual: Sums, largest: torch.Tensor, operator: torch.Tensor) -> torch.Tensor:
    """``U``, from the sums of shares times residuals relative to the largest; 0 where that is 0."""
    top = known(residual.top + operator * residual.rest)
    least = torch.minimum(torch.minimum(known(residual.l1), known(operator * residual.l2)), top)
    return torch.where(largest == 0.0, 0.0, inflate(known(largest * least)))


def weight_lb(a: Sums, mass_lb: torch.Tensor, errors: Errors) -> torch.Tensor:
    """``D``; 0 where nothing is known."""
    exponent = known(inflate(first_order(a, errors) / mass_lb))
    least = torch.minimum(exponent, errors.delta)
    return mass_lb * exp_minus_lb(least) * DOWN
