"""Theorem ``arithmetic``: rounding factors, sums, quotients, weights and masses of the float64 step.

Model: ``fl(x o y) = (x o y)(1 + theta)``, ``|theta| <= u < 1``. ``gamma_n`` enters as a number g with
``g (1 - n u) = n u``, n any real at least 0 with ``n u < 1``; a factor of n roundings as ``1 + theta``,
``|theta| <= g``. Nothing here depends on u being ``2^-53``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _gamma(g: Any, nu: Any) -> z3.BoolRef:
    """``g = n u / (1 - n u)``."""
    return z3.And(nu >= 0, nu < 1, g * (1 - nu) == nu)


def _power(*, counted: bool = True) -> Goal:
    # (1-u)^n >= 1 - n u: the step of the induction
    nu, u = reals("nu u")
    return real((1 - nu) * (1 - u) >= 1 - (nu + u if counted else nu), nu >= 0, u >= 0, u < 1)


def _inverse_power(*, half: bool = True) -> Goal:
    (nu,) = reals("nu")
    return real((1 - nu) * (1 + 2 * nu) >= 1, nu >= 0, 2 * nu <= 1 if half else nu <= 1)


def _up_is_down(*, sign: int = -1) -> Goal:
    # (1+u)(1-u) <= 1, so (1+u)^n <= (1-u)^-n
    (u,) = reals("u")
    return real((1 + u) * (1 + sign * u) <= 1, u >= 0, u < 1)


def _outward(*, factor: int = 1) -> Goal:
    # (1-u)^-(2n+2) <= 1/(1 - (2n+2)u) = 1 + gamma: from a lower bound P of the power
    power, nu, g, inverse_power = reals("power nu g inverse_power")
    return real(
        factor * inverse_power <= 1 + g,
        _gamma(g, nu),
        power >= 1 - nu,
        power <= 1,
        inverse_power * power == 1,
    )


def _gammas(*, product: bool = True) -> Goal:
    a, b, g, h, k = reals("a b g h k")
    return real(g + h + (g * h if product else 2 * g * h + h) <= k, _gamma(g, a), _gamma(h, b), _gamma(k, a + b))


def _gamma_of_one(*, above: bool = True) -> Goal:
    # a single rounding is within gamma_1
    u, g = reals("u g")
    return real(u <= g if above else g <= u, _gamma(g, u))


def _gamma_grows(*, ordered: bool = True) -> Goal:
    a, b, g, h = reals("a b g h")
    return real(g <= h, _gamma(g, a), _gamma(h, b), *([a <= b] if ordered else []))


def _product(*, mixed: bool = True) -> Goal:
    # (1 + theta_n)(1 + theta_m) = 1 + theta with |theta| <= g + h + g h
    x, y, g, h = reals("x y g h")
    return real(at_most((1 + x) * (1 + y) - 1, g + h + (g * h if mixed else 0)), at_most(x, g), at_most(y, h))


def _quotient(*, higham: bool = True) -> Goal:
    # (1 + theta_a)/(1 + theta_b) within gamma_{a+b}, for factors that are products of b roundings:
    # 1 - b u <= 1 + theta_b <= 1/(1 - b u), likewise a
    x, y, z, a, b, g = reals("x y z a b g")
    return real(
        at_most(z - 1, g),
        _gamma(g, a + b if higham else a),
        a >= 0,
        b >= 0,
        a < 1,
        b < 1,
        x >= 1 - a,
        x * (1 - a) <= 1,
        y >= 1 - b,
        y * (1 - b) <= 1,
        z * y == x,
    )


def _sum_exact_part(*, whole: bool = True) -> Goal:
    # first stage: |(x + y) - (s + t)| <= g (A + B) and |x + y| <= (1 + g)(A + B)
    x, y, s, t, A, B, g = reals("x y s t A B g")
    most = (1 + g if whole else 1) * (A + B)
    return real(
        z3.And(at_most((x + y) - (s + t), g * (A + B)), at_most(x + y, most)),
        at_most(x - s, g * A),
        at_most(y - t, g * B),
        at_most(s, A),
        at_most(t, B),
        g >= 0,
    )


def _sum_rounded_part(*, rounding: bool = True) -> Goal:
    # second stage, z = x + y, C = A + B
    z, exact, C, g, theta, u = reals("z exact C g theta u")
    return real(
        at_most(z * (1 + theta) - exact, (g + (u * (1 + g) if rounding else 0)) * C),
        at_most(z - exact, g * C),
        at_most(z, (1 + g) * C),
        at_most(theta, u),
        g >= 0,
        u >= 0,
        C >= 0,
    )


def _quotient_of_sums(*, mixed: bool = True) -> Goal:
    # n' = n + nu over l' = L (1 + beta), rounded once: z = (1 + theta)/(1 + beta), `arithmetic.quotient` bounds |z - 1|
    n, nu, z, M, g, h = reals("n nu z M g h")
    return real(
        at_most((n + nu) * z - n, (g + h + (g * h if mixed else 0)) * M),
        at_most(n, M),
        at_most(nu, h * M),
        at_most(z - 1, g),
        M >= 0,
        g >= 0,
        h >= 0,
    )


def _absorb(*, both: bool = True) -> Goal:
    # ln w = s + delta: errors add
    key, rounding, delta, eps = reals("key rounding delta eps")
    return real(at_most(key + rounding, delta + eps if both else delta), at_most(key, delta), at_most(rounding, eps))


def _log_of_ulps(*, twice: int = 2) -> Goal:
    # e^y >= 1 + y and e^-y <= 1/(1 + y): with y = 2x a factor 1 +- x, x <= 1/2, is e^delta with |delta| <= y
    x, E, F = reals("x E F")
    return real(
        z3.And(1 - x >= F, 1 + x <= E), between(0, x), 2 * x <= 1, 1 + twice * x <= E, F * (1 + twice * x) <= 1, F > 0
    )


def _difference(*, slack: int = 4) -> Goal:
    # |x - y| against its rounded value
    exact, rounded, theta, u = reals("exact rounded theta u")
    return real(
        z3.If(exact >= 0, exact, -exact) <= (1 + slack * u) * z3.If(rounded >= 0, rounded, -rounded),
        rounded == exact * (1 + theta),
        at_most(theta, u),
        between(0, u),
        2 * u <= 1,
    )


def _weights_swap(*, centred: bool = True) -> Goal:
    # one token's share of sum p v / L - sum w v / Omega = sum (p - w)(v - O_hat) / L, both sides times L
    p, w, v, out, L, Omega, pv, wv, diff = reals("p w v out L Omega pv wv diff")
    return real(
        (pv + p * v) - out * (L + p)
        == (diff + (p - w) * (v - (out if centred else 0))) + (wv + w * v) - out * (Omega + w),
        pv - out * L == diff + wv - out * Omega,
    )


def _negligible(*, half: bool = True) -> Goal:
    # n tokens, each within e of its weight, norms below v: at most 2 n e v / L, and L >= 1/2 makes that 4 n e v
    error, n_e, v, L = reals("error n_e v L")
    return real(
        error <= 4 * n_e * v, error * L <= 2 * n_e * v, n_e >= 0, v >= 0, L > 0, *([2 * L >= 1] if half else [])
    )


def _mass_ub(*, absolute: bool = True) -> Goal:
    # effective mass: block / all, with underflowed weights of at most e together added to both
    rho, share, block, total, hidden, hidden_all = reals("rho share block total hidden hidden_all")
    return real(
        rho <= share + (2 * hidden if absolute else 0),
        rho * (total + hidden_all) == block + hidden,
        share * total == block,
        block >= 0,
        2 * total >= 1,
        block <= total,
        between(0, hidden, hidden_all),
    )


def _mass_lb(*, absolute: bool = True) -> Goal:
    rho, share, block, total, hidden, hidden_all = reals("rho share block total hidden hidden_all")
    return real(
        rho >= share - (2 * hidden_all if absolute else 0),
        rho * (total + hidden_all) == block + hidden,
        share * total == block,
        block >= 0,
        2 * total >= 1,
        block <= total,
        between(0, hidden, hidden_all),
    )


def _mass_rounded(*, factor: bool = True) -> Goal:
    # the computed share is within a factor f of the exact one, both ways
    share, computed, f, absolute, rho = reals("share computed f absolute rho")
    return real(
        rho <= computed * (f if factor else 1) + absolute,
        f >= 1,
        absolute >= 0,
        computed >= 0,
        share <= computed * f,
        rho <= share + absolute,
    )


LEMMAS = (
    Lemma(
        "arithmetic.power",
        "(1-nu)(1-u) >= 1 - (n+1)u: so (1-u)^n >= 1 - nu",
        _power,
        partial(_power, counted=False),
    ),
    Lemma(
        "arithmetic.inverse_power",
        "2nu <= 1: (1-nu)(1+2nu) >= 1",
        _inverse_power,
        partial(_inverse_power, half=False),
    ),
    Lemma(
        "arithmetic.up_is_down",
        "(1+u)(1-u) <= 1: a factor 1+u is at most 1/(1-u)",
        _up_is_down,
        partial(_up_is_down, sign=1),
    ),
    Lemma(
        "arithmetic.outward",
        "P >= 1 - nu: 1/P <= 1 + γ_n; n = 2m+2 gives the outward factor",
        _outward,
        partial(_outward, factor=2),
    ),
    Lemma(
        "arithmetic.gamma_sum",
        "γ_a + γ_b + γ_a γ_b <= γ_{a+b}",
        _gammas,
        partial(_gammas, product=False),
    ),
    Lemma("arithmetic.gamma_one", "u <= γ_1", _gamma_of_one, partial(_gamma_of_one, above=False)),
    Lemma("arithmetic.gamma_grows", "a <= b: γ_a <= γ_b", _gamma_grows, partial(_gamma_grows, ordered=False)),
    Lemma(
        "arithmetic.product",
        "|θ| <= γ_a, |φ| <= γ_b: |(1+θ)(1+φ) - 1| <= γ_a + γ_b + γ_a γ_b",
        _product,
        partial(_product, mixed=False),
    ),
    Lemma(
        "arithmetic.quotient",
        "a roundings over b roundings: within γ_{a+b} of 1",
        _quotient,
        partial(_quotient, higham=False),
    ),
    Lemma(
        "arithmetic.sum_exact_part",
        "|x-s| <= γA, |y-t| <= γB: |x+y-s-t| <= γ(A+B) and |x+y| <= (1+γ)(A+B)",
        _sum_exact_part,
        partial(_sum_exact_part, whole=False),
    ),
    Lemma(
        "arithmetic.sum_rounded_part",
        "then |fl(x+y) - s - t| <= (γ + u(1+γ))(A+B), in any order of summation",
        _sum_rounded_part,
        partial(_sum_rounded_part, rounding=False),
    ),
    Lemma(
        "arithmetic.quotient_of_sums",
        "|n| <= M, |ν| <= γ_a M, |z-1| <= γ_b: |(n+ν)z - n| <= (γ_a + γ_b + γ_a γ_b)M, so <= γ_{a+b} M",
        _quotient_of_sums,
        partial(_quotient_of_sums, mixed=False),
    ),
    Lemma(
        "arithmetic.absorb",
        "|key| <= Δ, |rounding| <= ε: the log-weight error is at most Δ + ε",
        _absorb,
        partial(_absorb, both=False),
    ),
    Lemma(
        "arithmetic.log_of_ulps",
        "0 <= x <= 1/2: 1 ± x lies in [e^-2x, e^2x], so |ln(1 ± x)| <= 2x",
        _log_of_ulps,
        partial(_log_of_ulps, twice=1),
    ),
    Lemma(
        "arithmetic.difference",
        "u <= 1/2: |x - y| <= (1 + 4u)|fl(x - y)|",
        _difference,
        partial(_difference, slack=0),
    ),
    Lemma(
        "arithmetic.swap_weights",
        "induction: Σpv - ÔL = Σ(p-ω)(v-Ô) + Σωv - ÔΩ survives a token",
        _weights_swap,
        partial(_weights_swap, centred=False),
    ),
    Lemma(
        "arithmetic.negligible",
        "L >= 1/2: what underflowed moves the output by at most 4 N ε max‖v‖",
        _negligible,
        partial(_negligible, half=False),
    ),
    Lemma(
        "arithmetic.mass_ub",
        "ρ = (P+h)/(L+H), 0 <= h <= H, L >= 1/2: ρ <= P/L + 2h",
        _mass_ub,
        partial(_mass_ub, absolute=False),
    ),
    Lemma(
        "arithmetic.mass_lb",
        "ρ = (P+h)/(L+H), 0 <= h <= H, L >= 1/2: ρ >= P/L - 2H",
        _mass_lb,
        partial(_mass_lb, absolute=False),
    ),
    Lemma(
        "arithmetic.mass_rounded",
        "a computed share within a factor f: ρ <= f fl(P/L) + absolute",
        _mass_rounded,
        partial(_mass_rounded, factor=False),
    ),
)
