"""Theorem ``value_blocks``: ``||sum a' (V_hat - V)|| <= sum_b rho_b eta_b <= max_b eta_b``.

``||sum a' e|| <= sum a' ||e||`` is `norms` (one token at a time); the lemmas here are about the numbers that remain.
"""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, real, reals


def _block(*, largest: bool = True) -> Goal:
    # sums of tokens stay below mass times the block's largest residual norm
    total, mass, a, eta_t, eta = reals("total mass a eta_t eta")
    return real(
        total + a * eta_t <= (mass + a) * eta,
        total <= mass * eta,
        a >= 0,
        eta_t >= 0,
        eta_t <= eta if largest else eta_t <= 2 * eta,
    )


def _tokens(*, executed: bool = True) -> Goal:
    # a block of two tokens, one coordinate, end to end
    a0, a1, e0, e1, rho, eta = reals("a0 a1 e0 e1 rho eta")
    return real(
        at_most(a0 * e0 + a1 * e1, rho * eta),
        a0 >= 0,
        a1 >= 0,
        at_most(e0, eta),
        at_most(e1, eta),
        rho == a0 + a1 if executed else rho == a0,
    )


def _blocks(*, both: bool = True) -> Goal:
    # two blocks, each bounded
    x, y, rho0, eta0, rho1, eta1 = reals("x y rho0 eta0 rho1 eta1")
    bound = rho0 * eta0 + rho1 * eta1 if both else rho0 * eta0
    return real(at_most(x + y, bound), at_most(x, rho0 * eta0), at_most(y, rho1 * eta1))


def _uniform_step(*, positive: bool = True) -> Goal:
    # the block form stays below mass times the largest block
    total, mass, rho, eta, largest = reals("total mass rho eta largest")
    return real(
        total + rho * eta <= (mass + rho) * largest,
        total <= mass * largest,
        eta <= largest,
        *([rho >= 0] if positive else []),
    )


def _uniform(*, normalised: bool = True) -> Goal:
    # with all blocks in, the mass is 1
    total, mass, largest = reals("total mass largest")
    return real(total <= largest, total <= mass * largest, largest >= 0, mass == 1 if normalised else mass >= 1)


def _attained(*, below: bool = True) -> Goal:
    # equal residuals: the error is the bound, so no constant below 1 will do
    a, eta, constant = reals("a eta constant")
    error = a * eta + (1 - a) * eta
    return real(
        error > constant * eta, a >= 0, a <= 1, eta > 0, constant < 1 if below else constant <= 1, constant >= 0
    )


LEMMAS = (
    Lemma(
        "value_blocks.block",
        "induction: Σ_b a'η_t <= ρ_b η_b survives a token with η_t <= η_b",
        _block,
        partial(_block, largest=False),
    ),
    Lemma(
        "value_blocks.tokens",
        "a block of 2 tokens, one coordinate: |a'_0 e_0 + a'_1 e_1| <= ρ η, ρ the executed mass",
        _tokens,
        partial(_tokens, executed=False),
    ),
    Lemma(
        "value_blocks.blocks",
        "two blocks: |x| <= ρ_0 η_0, |y| <= ρ_1 η_1 gives |x + y| <= ρ_0 η_0 + ρ_1 η_1",
        _blocks,
        partial(_blocks, both=False),
    ),
    Lemma(
        "value_blocks.uniform_step",
        "induction: Σ ρ_b η_b <= (Σ ρ_b) max η survives a block",
        _uniform_step,
        partial(_uniform_step, positive=False),
    ),
    Lemma(
        "value_blocks.uniform",
        "Σ ρ_b = 1: Σ ρ_b η_b <= max η_b",
        _uniform,
        partial(_uniform, normalised=False),
    ),
    Lemma(
        "value_blocks.attained",
        "equal residuals: the error exceeds every constant below 1 times the bound",
        _attained,
        partial(_attained, below=False),
    ),
)
