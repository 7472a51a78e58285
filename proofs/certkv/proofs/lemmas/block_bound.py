"""Theorem ``block_bound``: ``||O - c|| <= (sum_b rho_b (E_b - 1) R_b + U + eps) / sum_b rho_b F_b``.

The numerator is bounded token by token (vectors: `norms`), the denominator likewise, and `block_bound.quotient` puts
them together; the identity of `decomposition` with kappa = 1 is where they come from.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, inverse, real, reals


def _weight(*, upper: bool = True) -> Goal:
    w, E, F = reals("w E F")
    return real(at_most(w - 1, E - 1 if upper else 1 - F), inverse(E, F), between(F, w, E))


def _token(*, original: bool = True) -> Goal:
    # one coordinate: |a (w - 1) x + a e| <= a ((E - 1) R + eta)
    a, w, x, e, E, F, R, eta = reals("a w x e E F R eta")
    return real(
        at_most(a * (w - 1) * x + a * e, a * ((E - 1) * R + eta)),
        inverse(E, F),
        a >= 0,
        between(F, w, E),
        at_most(x, R if original else R + eta),
        at_most(e, eta),
    )


def _numerator(*, within: bool = True) -> Goal:
    # sum a |w - 1| ||V - c|| <= rho (E - 1) R survives a token
    total, rho, a, size, distance, E, R = reals("total rho a size distance E R")
    return real(
        total + a * size * distance <= (rho + a) * (E - 1) * R,
        total <= rho * (E - 1) * R,
        a >= 0,
        E >= 1,
        between(0, size, E - 1),
        distance >= 0,
        distance <= R if within else distance <= 2 * R,
        R >= 0,
    )


def _denominator(*, executed: bool = True) -> Goal:
    # W >= sum rho F survives a token
    total, rho, a, w, F = reals("total rho a w F")
    mass = rho + a if executed else rho + 2 * a
    return real(total + a * w >= mass * F, total >= rho * F, a >= 0, F > 0, w >= F)


def _outside(*, counted: bool = True) -> Goal:
    # the other two terms of the identity: values and accumulation
    left, key, value, accumulation, A, U, eps = reals("left key value accumulation A U eps")
    return real(
        at_most(left, A + U + eps if counted else A + U),
        left == key + value + accumulation,
        at_most(key, A),
        at_most(value, U),
        at_most(accumulation, eps),
    )


def _quotient(*, lower: bool = True) -> Goal:
    # W ||O - c|| <= N and W >= D > 0
    error, W, N, D = reals("error W N D")
    return real(error * D <= N, error * W <= N, error >= 0, D > 0, W >= D if lower else W > 0)


def _accumulation_inside(*, divided: bool = True) -> Goal:
    # eps belongs over the denominator, which is below 1
    error, A, eps, W, D = reals("error A eps W D")
    return real(
        error * D <= A + (eps if divided else eps * D),
        error * W <= A + eps,
        error >= 0,
        A >= 0,
        eps >= 0,
        between(D, W, 1),
        D > 0,
    )


def _two_blocks_key(*, own: bool = True) -> Goal:
    # one coordinate, a token per block: |rho0 (w0-1) x0 + rho1 (w1-1) x1|
    t0, t1, rho0, rho1, E0, E1, R0, R1 = reals("t0 t1 rho0 rho1 E0 E1 R0 R1")
    bound = rho0 * (E0 - 1) * R0 + rho1 * ((E1 if own else E0) - 1) * R1
    return real(
        at_most(t0 + t1, bound),
        at_most(t0, rho0 * (E0 - 1) * R0),
        at_most(t1, rho1 * (E1 - 1) * R1),
        rho0 >= 0,
        rho1 >= 0,
        E0 >= 1,
        E1 >= 1,
    )


def _two_blocks_end(*, lower: bool = True) -> Goal:
    # the last stage: W (O - c) = k0 + k1 + v + g, every part bounded
    d, W, k0, k1, v, g = reals("d W k0 k1 v g")
    K0, K1, U, eps, D0, D1 = reals("K0 K1 U eps D0 D1")
    return real(
        at_most(d * (D0 + D1), K0 + K1 + U + eps),
        d * W == k0 + k1 + v + g,
        at_most(k0, K0),
        at_most(k1, K1),
        at_most(v, U),
        at_most(g, eps),
        D0 > 0,
        D1 > 0,
        W >= D0 + D1 if lower else W >= D0,
    )


def _split_delta(*, both: bool = True) -> Goal:
    # key error and rounding: the factors multiply
    w, w_key, w_round, E_key, F_key, E_round, F_round = reals("w w_key w_round E_key F_key E_round F_round")
    top, bottom = (E_key * E_round, F_key * F_round) if both else (E_key, F_key)
    return real(
        between(bottom, w, top),
        inverse(E_key, F_key),
        inverse(E_round, F_round),
        between(F_key, w_key, E_key),
        between(F_round, w_round, E_round),
        w == w_key * w_round,
    )


def _monotone(*, ordered: bool = True) -> Goal:
    # a block's key term: larger mass, E and R
    rho, high, E, E_ub, R, R_ub = reals("rho high E E_ub R R_ub")
    return real(
        rho * (E - 1) * R <= high * (E_ub - 1) * R_ub,
        between(0, rho, high),
        between(1, E, E_ub),
        R >= 0,
        R_ub >= R if ordered else 2 * R_ub >= R,
    )


def _monotone_numerator(*, ordered: bool = True) -> Goal:
    # its key and value term in the numerator, beside a sum of others
    rest, rest_ub, key, key_ub, rho, high, eta, eta_ub = reals("rest rest_ub key key_ub rho high eta eta_ub")
    return real(
        rest + key + rho * eta <= rest_ub + key_ub + high * eta_ub,
        rest <= rest_ub,
        key <= key_ub,
        between(0, rho, high),
        eta >= 0,
        eta_ub >= eta if ordered else 2 * eta_ub >= eta,
    )


def _monotone_denominator(*, below: bool = True) -> Goal:
    # the same block in the denominator, beside a sum of others
    rest, rest_lb, low, rho, F, F_lb = reals("rest rest_lb low rho F F_lb")
    return real(
        rest_lb + low * F_lb <= rest + rho * F,
        between(0, rest_lb, rest),
        between(0, low, rho),
        F > 0,
        F_lb > 0,
        F_lb <= F if below else F_lb <= 2 * F,
    )


def _monotone_quotient(*, below: bool = True) -> Goal:
    # numerator rounded up, denominator down, radius up: q = N/D, and the smaller of q and R
    N, N_ub, D, D_lb, R, R_ub, q, q_ub = reals("N N_ub D D_lb R R_ub q q_ub")
    return real(
        z3.If(q <= R, q, R) <= z3.If(q_ub <= R_ub, q_ub, R_ub),
        q * D == N,
        q_ub * D_lb == N_ub,
        between(0, N, N_ub),
        D_lb > 0,
        D_lb <= D if below else D > 0,
        between(0, R, R_ub),
    )


def _monotone_bound(*, below: bool = True) -> Goal:
    # One block beside the rest of the numerator, A, and of the denominator, B; executed mass rho between low and high.
    # With the quotients named, cvc5 proves it; multiplied out it does not.
    A, A_ub, B, B_lb, low, rho, high, q, q_ub = reals("A A_ub B B_lb low rho high q q_ub")
    E, E_ub, F, F_lb, R, R_ub, eta, eta_ub = reals("E E_ub F F_lb R R_ub eta eta_ub")
    return real(
        q <= q_ub,
        q * (B + rho * F) == A + rho * ((E - 1) * R + eta),
        q_ub * (B_lb + low * F_lb) == A_ub + high * ((E_ub - 1) * R_ub + eta_ub),
        between(0, A, A_ub),
        between(0, B_lb, B),
        low > 0,
        between(low, rho, high) if below else z3.And(low <= high, between(0, rho, high)),
        between(1, E, E_ub),
        between(0, R, R_ub),
        between(0, eta, eta_ub),
        F_lb > 0,
        F_lb <= F,
    )


def _tight(*, half: bool = True) -> Goal:
    # two tokens of equal weight, V = +-R, w = E and F: O - c = R tanh(Delta)
    exact, R, E, F, a = reals("O R E F a")
    return real(
        exact * (E + F) == R * (E - F),
        inverse(E, F),
        R > 0,
        exact * (a * E + (1 - a) * F) == a * E * R - (1 - a) * F * R,
        2 * a == 1 if half else z3.And(a > 0, a < 1),
    )


def _parts(*, rest: bool = True) -> Goal:
    # key + value + arithmetic >= bound
    bound, key, value, arithmetic, slack = reals("bound key value arithmetic slack")
    left = bound - key - value
    return real(
        bound <= key + value + arithmetic,
        slack >= 0,
        arithmetic == (z3.If(left >= 0, left, 0) + slack if rest else slack),
    )


LEMMAS = (
    Lemma("block_bound.weight", "F <= w <= E gives |w - 1| <= E - 1", _weight, partial(_weight, upper=False)),
    Lemma(
        "block_bound.token",
        "one coordinate: |a'(w-1)x + a'e| <= a'((E-1)R + η), R the radius of the originals",
        _token,
        partial(_token, original=False),
    ),
    Lemma(
        "block_bound.numerator",
        "induction: Σa'|w-1| ‖V-c‖ <= ρ(E-1)R survives a token of the block",
        _numerator,
        partial(_numerator, within=False),
    ),
    Lemma(
        "block_bound.denominator",
        "induction: W >= Σρ_b F_b survives a token; ρ the executed mass",
        _denominator,
        partial(_denominator, executed=False),
    ),
    Lemma(
        "block_bound.terms",
        "the three terms of the identity: |key + value + accumulation| <= A + U + ε",
        _outside,
        partial(_outside, counted=False),
    ),
    Lemma("block_bound.quotient", "W e <= N, W >= D > 0 gives e <= N/D", _quotient, partial(_quotient, lower=False)),
    Lemma(
        "block_bound.accumulation_inside",
        "ε stands over D: e D <= A + ε; outside the division, e D <= A + ε D, it is refuted",
        _accumulation_inside,
        partial(_accumulation_inside, divided=False),
    ),
    Lemma(
        "block_bound.two_blocks_key",
        "2 blocks, each with its own Δ and R: |t_0 + t_1| <= Σρ(E-1)R",
        _two_blocks_key,
        partial(_two_blocks_key, own=False),
    ),
    Lemma(
        "block_bound.two_blocks_end",
        "2 blocks, end of the stages: |O - c| (D_0 + D_1) <= K_0 + K_1 + U + ε",
        _two_blocks_end,
        partial(_two_blocks_end, lower=False),
    ),
    Lemma(
        "block_bound.split_delta",
        "key error and rounding: w_key w_round lies in [F_key F_round, E_key E_round]",
        _split_delta,
        partial(_split_delta, both=False),
    ),
    Lemma(
        "block_bound.monotone",
        "upper bounds in place of ρ, E and R do not lower a key term ρ(E-1)R",
        _monotone,
        partial(_monotone, ordered=False),
    ),
    Lemma(
        "block_bound.monotone_numerator",
        "upper bounds in place of key terms, ρ and η do not lower the numerator, one more block",
        _monotone_numerator,
        partial(_monotone_numerator, ordered=False),
    ),
    Lemma(
        "block_bound.monotone_denominator",
        "lower bounds in place of ρ and F do not raise the denominator ΣρF, one more block",
        _monotone_denominator,
        partial(_monotone_denominator, below=False),
    ),
    Lemma(
        "block_bound.monotone_quotient",
        "N <= N_ub, 0 < D_lb <= D, R <= R_ub: min(N/D, R) <= min(N_ub/D_lb, R_ub)",
        _monotone_quotient,
        partial(_monotone_quotient, below=False),
    ),
    Lemma(
        "block_bound.monotone_bound",
        "at once: (A + ρ((E-1)R + η))/(B + ρF) with upper bounds of A, ρ, E, R, η above the line and lower bounds of "
        "B, ρ, F below it is no smaller; A and B the other blocks",
        _monotone_bound,
        partial(_monotone_bound, below=False),
    ),
    Lemma(
        "block_bound.tight",
        "n = 2, a' = (1/2, 1/2), V = ±R, w = (E, F): O - c = R(E-F)/(E+F) = R tanh(Δ)",
        _tight,
        partial(_tight, half=False),
    ),
    Lemma(
        "block_bound.parts",
        "key + value + arithmetic >= bound, arithmetic = max(bound - key - value, 0) + slack",
        _parts,
        partial(_parts, rest=False),
    ),
)
