"""Theorem ``spectral``: the first order of a block's weight errors by norms, the rest by the second order.

``w = e^-delta``, ``E = e^Delta``, F its inverse; ``P = psi(Delta)`` enters through ``P Delta^2 = E - 1 - Delta`` or
through ``|w - 1 + delta| <= P delta^2``; what solvers do not know of the exponential, the derivation says. Sums over
tokens and blocks are inductions; norms are those of `norms`, D1, D2, S2 those of `weighted_sums`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals


def _split(*, sign: int = 1) -> Goal:
    # one token, one coordinate
    a, w, delta, v, c, mu = reals("a w delta v c mu")
    parts = -a * delta * (v - mu) + sign * a * delta * (c - mu) + a * (w - 1 + delta) * (v - c)
    return real(a * (w - 1) * (v - c) == parts)


def _series_factor(*, positive: bool = True) -> Goal:
    # |y|^k <= D^k survives a factor: the series of psi at -delta is at most that at Delta
    p, q, y, D = reals("p q y D")
    return real(at_most(p * y, q * D), at_most(p, q), at_most(y, D if positive else 2 * D))


def _geometric(*, ratio: bool = True) -> Goal:
    # S + t/(1 - r), r the largest ratio of neighbouring terms, does not grow when a term t joins S and n is the next
    S, t, n, r, G = reals("S t n r G")
    return real(
        S + t + n * G <= S + t * G,
        G * (1 - r) == 1,
        between(0, r),
        r < 1,
        t >= 0,
        G > 0,
        between(0, n, t * r if ratio else t),
    )


def _series(*, small: bool = True) -> Goal:
    # what follows x^2/24 is at most (x^3/120)/(1 - x/6)
    x, rest = reals("x rest")
    return real(
        x * x / 24 + rest <= x * x / 22,
        between(0, x, z3.RealVal("1/10") if small else 1),
        rest * (1 - x / 6) <= x * x * x / 120,
    )


def _remainder(*, squared: bool = True) -> Goal:
    # |sum a r x| <= P sum a delta^2 R survives a token, r = w - 1 + delta
    total, size, a, r, x, delta, P, R = reals("total size a r x delta P R")
    return real(
        at_most(total + a * r * x, P * (size + a * delta * delta * R)),
        at_most(total, P * size),
        a >= 0,
        at_most(r * x, P * delta * delta * R if squared else P * delta * R),
    )


def _radius(*, output: bool = True) -> Goal:
    # sum a delta^2 ||V - c|| <= S2(beta) + gamma S2(a) survives a token
    total, anchored, plain, a, square, n, gamma, r = reals("total anchored plain a square n gamma r")
    return real(
        total + a * square * r <= (anchored + a * n * square) + gamma * (plain + a * square),
        total <= anchored + gamma * plain,
        a >= 0,
        square >= 0,
        r <= (n + gamma if output else n + 2 * gamma),
        gamma >= 0,
    )


def _assemble(*, anchor: bool = True) -> Goal:
    # the three sums of `split`
    total, first, offset, rest = reals("total first offset rest")
    D, W, gamma, G, P, S, T = reals("D1 wD2 gamma D1_of_a P S2 S2_of_a")
    smaller = z3.If(D <= W, D, W)
    bound = smaller + P * S + gamma * (G + P * T) if anchor else smaller + P * S
    return real(
        at_most(total, bound),
        total == first + offset + rest,
        at_most(first, D),
        at_most(first, W),
        at_most(offset, gamma * G),
        at_most(rest, P * S + gamma * (P * T)),
    )


def _distance(*, eta: bool = True) -> Goal:
    # one token's |w - 1| times its distance from the output: z = (w - 1) y, y <= ||V_hat - c|| + eta
    z, y, X, used, residual = reals("z y X used eta")
    return real(
        at_most(z, X * (used + residual if eta else used)),
        at_most(z, X * y),
        between(0, y, used + residual),
        X >= 0,
        used >= 0,
        residual >= 0,
    )


def _direct(*, remainder: bool = True) -> Goal:
    # |sum a (w - 1)(V - c)| <= sum a |delta| r + P sum a delta^2 r survives a token; w - 1 = x - delta
    total, first, second, a, y, x, delta, size, P, r = reals("total first second a y x delta size P r")
    return real(
        at_most(total + a * (x - delta) * y, (first + a * size * r) + P * (second + a * delta * delta * r)),
        at_most(total, first + P * second),
        a >= 0,
        at_most(delta, size),
        x >= 0,
        x <= P * delta * delta if remainder else x <= 2 * P * delta * delta,
        at_most(y, r),
    )


def _heaviest(*, others: bool = True) -> Goal:
    # one token by its own distance, the others by their terms
    a, z, term, rest, others_ub = reals("a z term rest others")
    return real(
        at_most(a * z + rest, a * term + (others_ub if others else 0)),
        a >= 0,
        at_most(z, term),
        at_most(rest, others_ub),
    )


def _rounding(*, counted: bool = True) -> Goal:
    # sum eps_t^2 <= B eps^2 survives a token: the norm is sqrt(B) eps and not the mean
    total, tokens, x, eps = reals("total B x eps")
    return real(
        total + x * x <= (tokens + (1 if counted else 0)) * (eps * eps), total <= tokens * (eps * eps), at_most(x, eps)
    )


def _tangent(*, falling: bool = True) -> Goal:
    # sum a w >= P, P the tangent at m of the sum so far, survives a token with w >= line
    total, P, a, w, line, G, m, delta = reals("total P a w line G m delta")
    return real(
        z3.And(total + a * w >= P + a * line, a * line == G * (a * (1 + m) - a * delta)),
        total >= P,
        a >= 0,
        w >= line,
        line == (G * (1 + m - delta) if falling else G * (1 - m + delta)),
    )


def _jensen(*, over_mass: bool = True) -> Goal:
    # the tangent at m = X / rho_lb; X is at least sum a delta, rho_lb at most rho
    total, G, rho, low, moved, X, m = reals("total G rho rho_lb moved X m")
    return real(
        total >= G * low,
        total >= G * (rho * (1 + m) - moved),
        G > 0,
        between(0, low, rho, 1),
        low > 0,
        moved <= X,
        m * low == X if over_mass else m == X,
        m >= 0,
    )


def _only_delta(*, at_delta: bool = True) -> Goal:
    # with Delta alone the term is that of block_bound: Delta s + P Delta^2 s = (E - 1) s; not with psi(0) = 1/2
    E, D, P, size, square = reals("E D P size square")
    psi = P * square == E - 1 - D if at_delta else z3.And(2 * P == 1, 1 + D + square / 2 <= E)
    return real(D * size + P * square * size >= (E - 1) * size, size >= 0, square == D * D, psi)


def _never_worse(*, anchored: bool = True) -> Goal:
    # so the term is at most rho (E - 1) R_b with the anchored radius R_b = n_b + gamma
    first, second, E, l1, rho, n, gamma, of_anchor = reals("first second E l1 rho n gamma of_anchor")
    return real(
        first + second + gamma * of_anchor <= rho * ((E - 1) * (n + gamma if anchored else n)),
        first + second <= (E - 1) * l1,
        gamma * of_anchor <= gamma * ((E - 1) * rho),
        (E - 1) * l1 <= (E - 1) * (rho * n),
        E >= 1,
        rho >= 0,
        gamma >= 0,
    )


def _value_top(*, all_others: bool = True) -> Goal:
    # the value residual of the heaviest token, and the others by their operator norm
    first, rest, top, eps, norm = reals("first rest top epsilon norm")
    return real(
        at_most(first + rest, top + eps * norm),
        at_most(first, top),
        at_most(rest, eps * norm if all_others else 2 * eps * norm),
    )


def _chord(*, from_one: bool = True) -> Goal:
    # a coefficient of psi and of (2 + e^x)/6: with c of e^x that of psi is c/((k + 1)(k + 2)); k real, as good as whole
    k, c, mine = reals("k c mine")
    return real(6 * mine <= c, mine * ((k + 1) * (k + 2)) == c, c >= 0, k >= (1 if from_one else 0))


def _parted(*, losses: bool = True) -> Goal:
    # |sum a z| <= sum s y + sum e Y survives a token, a = s + e: y bounds what s weighs, Y what e does, by another form
    total, known, lost, s, e, z, y, Y = reals("total known lost s e z y Y")
    return real(
        at_most(total + (s * z + e * z), (known + s * y) + (lost + e * Y if losses else lost)),
        at_most(total, known + lost),
        s >= 0,
        e >= 0,
        at_most(z, y),
        at_most(z, Y),
    )


def _any_weight(*, two_steps: bool = True) -> Goal:
    # a: 2^ at the largest score of a block, b: at another one's, not much above it; p, q: both rounded to binary16
    a, b, p, q = reals("a b p q")
    step, least, ulps = (z3.Q(1, 2**k) for k in (11, 25, 20))
    return real(
        q <= p * (1 + z3.Q(1, 2 ** (9 if two_steps else 11))) + z3.Q(1, 2**23),
        between(0, b, a * (1 + ulps)),
        p >= a * (1 - step) - least,
        q <= b * (1 + step) + least,
        p >= 0,
    )


def _attained(*, below: bool = True) -> Goal:
    # a block of one token, w = E, at distance R: the term with the heaviest token apart is reached
    a, E, R, constant = reals("a E R constant")
    return real(
        a * (E - 1) * R > constant * (a * (E - 1) * R),
        a > 0,
        E > 1,
        R > 0,
        between(0, constant),
        constant < 1 if below else constant <= 1,
    )


def _lemma(name: str, statement: str, build: Callable[..., Goal], **mistake: object) -> Lemma:
    return Lemma(f"spectral.{name}", statement, build, partial(build, **mistake))


LEMMAS = (
    _lemma(
        "split", "identity, a token and a coordinate: a(w-1)(v-c) = -aδ(v-μ) + aδ(c-μ) + a(w-1+δ)(v-c)", _split, sign=-1
    ),
    _lemma(
        "series_factor",
        "induction: |p| <= q, |y| <= Δ gives |py| <= qΔ, a power at a time",
        _series_factor,
        positive=False,
    ),
    _lemma(
        "geometric",
        "induction: terms that shrink by a factor r or more add up to at most the first over 1 - r",
        _geometric,
        ratio=False,
    ),
    _lemma(
        "series",
        "0 <= x <= 1/10: x²/24 and all that follows, at most (x³/120)/(1 - x/6), is at most x²/22",
        _series,
        small=False,
    ),
    _lemma("remainder", "induction: |Σa(w-1+δ)x| <= ψΣaδ²R survives a token", _remainder, squared=False),
    _lemma(
        "radius",
        "induction: Σaδ²‖V-c‖ <= Σβδ² + γΣaδ² survives a token with ‖V-c‖ <= n + γ, β = an",
        _radius,
        output=False,
    ),
    _lemma("assemble", "the three sums: |total| <= min(D1, ωD2) + ψS2 + γ(D1(a') + ψS2(a'))", _assemble, anchor=False),
    _lemma(
        "distance",
        "|z| <= (E-1)y, y <= ‖V̂-c‖ + η gives |z| <= (E-1)(‖V̂-c‖ + η); without η it is refuted",
        _distance,
        eta=False,
    ),
    _lemma(
        "heaviest",
        "|a(w-1)(V-c) + the others| <= a(E-1)r + C of the others, one token by its own distance r",
        _heaviest,
        others=False,
    ),
    _lemma(
        "direct",
        "induction: |Σa(w-1)(V-c)| <= Σa|δ|r + ψΣaδ²r survives a token with ‖V-c‖ <= r",
        _direct,
        remainder=False,
    ),
    _lemma(
        "rounding",
        "induction: Σε_t² <= Bε² survives a token, so the norm of B errors is at most √B ε",
        _rounding,
        counted=False,
    ),
    _lemma(
        "tangent",
        "induction: Σae^-δ >= G(ρ(1+m) - Σaδ), the tangent at m, G = e^-m, survives a token above its own",
        _tangent,
        falling=False,
    ),
    _lemma(
        "jensen",
        "Σaδ <= X, m = X/ρ_lb, ρ_lb <= ρ: the tangent at m is at least ρ_lb e^-m; with m = X it is refuted",
        _jensen,
        over_mass=False,
    ),
    _lemma(
        "only_delta", "Δs + ψ(Δ)Δ²s = (E-1)s; with ψ(0) in place of ψ(Δ) it is refuted", _only_delta, at_delta=False
    ),
    _lemma(
        "never_worse",
        "from Δ alone: the term is at most ρ(E-1)(n + γ), that of block_bound with the anchored radius",
        _never_worse,
        anchored=False,
    ),
    _lemma("value_top", "|the heaviest + the others| <= top + ε rest", _value_top, all_others=False),
    _lemma(
        "chord",
        "k >= 1: 6/((k+1)(k+2)) <= 1, so the series of ψ is at most that of (2 + e^x)/6; for k > 0 alone it is refuted",
        _chord,
        from_one=False,
    ),
    _lemma(
        "parted",
        "induction: |Σaz| <= Σsy + ΣeY survives a token, a = s + e: a weight in two parts, each by its own bound",
        _parted,
        losses=False,
    ),
    _lemma(
        "any_weight",
        "q <= p(1 + 2⁻⁹) + 2⁻²³: what weights of binary16 may be above that of the largest score; 1 + 2⁻¹¹ is refuted",
        _any_weight,
        two_steps=False,
    ),
    _lemma(
        "attained",
        "a block of one token, at its radius and with w = E: no constant below 1 will do",
        _attained,
        below=False,
    ),
)
