"""Identity ``decomposition``, one coordinate at a time: vectors enter linearly, so a coordinate is enough.

Any number of tokens: `decomposition.step` adds one to the unnormalised identity, which holds for none (all sums 0);
`decomposition.close` puts the mass to 1. n = 2 and n = 3 are proved directly besides.
"""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import real, reals


def _direct(n: int, *, normalised: bool = True) -> Goal:
    # ``W (O - c) = sum a' w V - c sum a' w`` is the sum of the three terms, for n tokens
    a = reals(" ".join(f"a{t}" for t in range(n)))
    w = reals(" ".join(f"w{t}" for t in range(n)))
    v = reals(" ".join(f"v{t}" for t in range(n)))
    v_hat = reals(" ".join(f"v_hat{t}" for t in range(n)))
    c, kappa = reals("c kappa")
    tokens = range(n)
    key = z3.Sum([a[t] * (w[t] - kappa) * (v[t] - c) for t in tokens])
    value = kappa * z3.Sum([a[t] * (v[t] - v_hat[t]) for t in tokens])
    accumulation = kappa * (z3.Sum([a[t] * v_hat[t] for t in tokens]) - c)
    left = z3.Sum([a[t] * w[t] * v[t] for t in tokens]) - c * z3.Sum([a[t] * w[t] for t in tokens])
    return real(left == key + value + accumulation, *([z3.Sum(a) == 1] if normalised else []))


def _step(*, centred: bool = True) -> Goal:
    # partial sums that satisfy the unnormalised identity still do with one token more
    left, key, value, out, mass = reals("left key value out mass")
    a, w, v, v_hat, c, kappa = reals("a w v v_hat c kappa")
    distance = v - c if centred else v_hat - c
    return real(
        left + a * w * (v - c)
        == (key + a * (w - kappa) * distance)
        + kappa * (value + a * (v - v_hat))
        + kappa * ((out + a * v_hat) - c * (mass + a)),
        left == key + kappa * value + kappa * (out - c * mass),
    )


def _close(*, mass_is_one: bool = True) -> Goal:
    # divide the unnormalised identity over all tokens by W
    exact, W, WO, c, key, value, out, mass, kappa = reals("O W WO c key value out mass kappa")
    return real(
        exact - c == key / W + kappa * value / W + kappa * (out - c) / W,
        W > 0,
        exact == WO / W,
        WO - c * W == key + kappa * value + kappa * (out - c * mass),
        mass == 1 if mass_is_one else mass >= 1,
    )


def _two_terms(*, same_weights: bool = True) -> Goal:
    # one token's share of the paper's split
    a, a_prime, v, v_hat, key, value, total = reals("a a_prime v v_hat key value total")
    weight = a_prime if same_weights else a
    return real(
        total + (a_prime * v_hat - a * v) == (key + (a_prime - a) * v) + (value + weight * (v_hat - v)),
        total == key + value,
    )


LEMMAS = (
    Lemma(
        "decomposition.two_tokens",
        "n = 2, Σa' = 1: W(O - c) = Σa'(w - κ)(V - c) + κ Σa'(V - V̂) + κ(Ô - c)",
        partial(_direct, 2),
        partial(_direct, 2, normalised=False),
    ),
    Lemma(
        "decomposition.three_tokens",
        "n = 3, Σa' = 1: W(O - c) = Σa'(w - κ)(V - c) + κ Σa'(V - V̂) + κ(Ô - c)",
        partial(_direct, 3),
        partial(_direct, 3, normalised=False),
    ),
    Lemma(
        "decomposition.step",
        "induction: Σa'w(V-c) = Σa'(w-κ)(V-c) + κ Σa'(V-V̂) + κ(Σa'V̂ - c Σa') survives one more token",
        _step,
        partial(_step, centred=False),
    ),
    Lemma(
        "decomposition.close",
        "W > 0, Σa' = 1: the unnormalised identity over W is O - c = key + value + accumulation",
        _close,
        partial(_close, mass_is_one=False),
    ),
    Lemma(
        "decomposition.two_terms",
        "induction: Σa'V̂ - ΣaV = Σ(a' - a)V + Σa'(V̂ - V) survives one more token",
        _two_terms,
        partial(_two_terms, same_weights=False),
    ),
)
