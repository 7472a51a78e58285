"""Attacks on the theorems about weights: full_tv, tail_tv, mass, key_tv."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from certkv.proofs.adversary.attack import NOTHING, Attack, Attained, Box
from certkv.proofs.adversary.balls import (
    balls,
    largest_ub,
    lower,
    minus,
    norm,
    precisely,
    softmax,
    total,
    total_variation,
    upper,
    weighted,
)
from certkv.reference.bounds import full_tv, key_tv, mass, tail_tv
from certkv.reference.numbers.types import FloatArray

FAR = 60.0
"""Scores reach from -FAR to FAR, so that a token can be made to weigh nothing."""

MOST_OF_IT = 0.9
"""A set of all mass attains every bound of its mass; that would be no achievement."""

OfDelta = Callable[[ArrayLike], FloatArray]
OfMassAndDelta = Callable[[ArrayLike, ArrayLike], FloatArray]


def _scores_box(tokens: int, wrong: int, low: float, high: float) -> Box:
    """``log10 Delta``, computed scores, and the share of +-Delta by which each of the last ``wrong`` is off."""
    return Box().add("log_delta", 1, low, high).add("scores", tokens, -FAR, FAR).add("off", wrong, -1.0, 1.0)


def _full(variant: str, bound: Callable[[], OfDelta], symbols: str, largest: float) -> Attack:
    box = _scores_box(4, 4, -5.0, float(np.log10(largest)))

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        computed = balls(part["scores"])
        exact = [s + delta * f for s, f in zip(computed, balls(part["off"]), strict=True)]
        return Attained(lower(total_variation(softmax(exact), softmax(computed))), float(bound()(delta)))

    def starts() -> Sequence[FloatArray]:
        points = []
        for delta in (1e-4, 0.1, largest):
            computed = full_tv.attaining_example(delta)[1]
            points.append(
                box.point(log_delta=np.log10(delta), scores=[*computed, -FAR, -FAR], off=[1.0, -1.0, 0.0, 0.0])
            )
        return points

    return Attack(f"full_tv.{variant}", "full_tv", symbols, box.low, box.high, evaluate, starts)


def _tail(variant: str, raised: bool, mass_of: str) -> Attack:
    box = _scores_box(5, 3, -4.0, 0.5)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        scores = balls(part["scores"])
        off = [*balls([0.0, 0.0]), *balls(part["off"])]
        computed, exact = softmax(scores), softmax([s + delta * f for s, f in zip(scores, off, strict=True)])
        alpha = min(upper(total((computed if mass_of == "executed" else exact)[2:])), 1.0)
        x = np.expm1(delta)
        reached = Attained(lower(total_variation(exact, computed)), float(tail_tv.sharp(alpha, delta)))
        counts = (alpha * alpha * x + 3.0 * alpha <= 1.0) == raised
        return reached if counts or reached.violated else NOTHING

    def starts() -> Sequence[FloatArray]:
        points = []
        for alpha in (0.01, 0.2, 0.3) if raised else (0.4, 0.7, 0.95):
            for delta in (1e-3, 0.1, 1.0):
                weights, off = tail_tv.attaining_example(alpha, delta)
                if mass_of == "true":  # the same pair, read the other way round
                    weights = weights * np.exp(off)
                    weights, off = weights / weights.sum(), -off
                # each token of no weight at all is put out of reach
                scores = np.maximum(np.log(np.maximum(weights, 1e-300)), -FAR)
                points.append(
                    box.point(
                        log_delta=np.log10(delta),
                        scores=[scores[0], -FAR, scores[1], scores[2], -FAR],
                        off=[off[1] / delta, off[2] / delta, 0.0],
                    )
                )
        return points

    symbols = "tau(alpha, E), " + ("alpha^2 x + 3 alpha <= 1" if raised else "otherwise") + f", {mass_of} alpha"
    return Attack(f"tail_tv.{variant}", "tail_tv", symbols, box.low, box.high, evaluate, starts, 2500)


def _tail_form(variant: str, bound: Callable[[], OfMassAndDelta], symbols: str) -> Attack:
    box = _scores_box(4, 2, -4.0, 0.5)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        scores = balls(part["scores"])
        off = [*balls([0.0, 0.0]), *balls(part["off"])]
        computed, exact = softmax(scores), softmax([s + delta * f for s, f in zip(scores, off, strict=True)])
        alpha = min(upper(total(exact[2:])), 1.0)
        return Attained(lower(total_variation(exact, computed)), float(bound()(alpha, delta)))

    def starts() -> Sequence[FloatArray]:
        return [
            box.point(log_delta=d, scores=[0.0, -FAR, -s, -FAR], off=[-1.0, 0.0]) for s in (5, 20) for d in (-4, -1)
        ]

    return Attack(f"tail_tv.{variant}", "tail_tv", symbols, box.low, box.high, evaluate, starts)


def _mass(variant: str, bound: Callable[[], OfMassAndDelta], symbols: str) -> Attack:
    box = _scores_box(4, 4, -4.0, 0.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        scores = balls(part["scores"])
        exact = softmax([s + delta * f for s, f in zip(scores, balls(part["off"]), strict=True)])
        rho = min(upper(total(softmax(scores)[:2])), 1.0)
        reached = Attained(lower(total(exact[:2])), float(bound()(delta, rho)))
        return reached if rho <= MOST_OF_IT or reached.violated else NOTHING

    def starts() -> Sequence[FloatArray]:
        wrong = [1.0, 1.0, -1.0, -1.0]
        return [
            box.point(log_delta=d, scores=[s, -FAR, 0.0, -FAR], off=wrong)
            for d in (-3.0, -0.3, 0.0)
            for s in (-30.0, 0.0, 1.0)
        ]

    return Attack(f"mass.{variant}", "mass", symbols, box.low, box.high, evaluate, starts)


def _mass_with_query(variant: str, unsound: bool) -> Attack:
    """Scores off by two causes: the keys' residuals (up to Delta_k) and the query's (up to Delta_q)."""
    box = Box().add("log_delta", 2, -4.0, 0.0).add("scores", 3, -FAR, FAR).add("off_k", 3, -1.0, 1.0)
    box.add("off_q", 3, -1.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta_k, delta_q = (float(10.0**g) for g in part["log_delta"])
        scores = balls(part["scores"])
        errors = zip(balls(part["off_k"]), balls(part["off_q"]), strict=True)
        exact = softmax([s + delta_k * f + delta_q * g for s, (f, g) in zip(scores, errors, strict=True)])
        rho = min(upper(softmax(scores)[0]), 1.0)
        if unsound:
            bound = float(mass.as_stated_quantized_query(delta_k, rho))
        else:
            bound = float(mass.with_query_error(delta_k, delta_q, rho))
        return Attained(lower(exact[0]), bound)

    def starts() -> Sequence[FloatArray]:
        wrong = [1.0, -1.0, -1.0]
        return [box.point(log_delta=[-1.0, -0.5], scores=[-30.0, 0.0, 0.0], off_k=wrong, off_q=wrong)]

    symbols = "e^{3 Delta_k} rho (published, unsound)" if unsound else "e^{2 (Delta_k + Delta_q)} rho"
    return Attack(f"mass.{variant}", "mass", symbols, box.low, box.high, evaluate, starts, unsound=unsound)


def _key_tv() -> Attack:
    box = Box().add("scores", 6, -FAR, FAR).add("values", 6, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        a, a_prime = softmax(balls(part["scores"][:3])), softmax(balls(part["scores"][3:]))
        values = [balls(v) for v in part["values"].reshape(3, 2)]
        v_max = largest_ub(norm(v) for v in values)
        tv = upper(total_variation(a, a_prime))
        error = lower(norm(minus(weighted(a_prime, values), weighted(a, values))))
        return Attained(error, float(key_tv.key_term(v_max, tv)))

    def starts() -> Sequence[FloatArray]:
        opposite = [3.0, 1.0, -3.0, -1.0, 0.0, 0.0]
        return [box.point(scores=[0.0, 0.0, -FAR, 1.0, 0.0, -FAR], values=opposite)]

    return Attack("key_tv.stated", "key_tv", "2 V_max TV", box.low, box.high, evaluate, starts)


def attacks() -> list[Attack]:
    """All of this file."""
    # Bounds are looked up when they are evaluated, so that a planted one is the one under attack.
    return [
        _full("sharp", lambda: full_tv.sharp, "tanh(Delta/2), Delta <= 2", 2.0),
        _full("published", lambda: full_tv.as_stated, "tanh(Delta), Delta <= 0.1", 0.1),
        _tail("raised", raised=True, mass_of="executed"),
        _tail("raised_true", raised=True, mass_of="true"),
        _tail("split", raised=False, mass_of="executed"),
        _tail("split_true", raised=False, mass_of="true"),
        _tail_form("simple", lambda: tail_tv.simple, "alpha x / (1 + alpha x)"),
        _tail_form("published", lambda: tail_tv.as_stated, "alpha (e^{2 Delta} - 1), true alpha"),
        _mass("sharp", lambda: mass.sharp, "rho E^2 / (1 + rho (E^2 - 1))"),
        _mass("published", lambda: mass.as_stated, "e^{2 Delta} rho"),
        _mass_with_query("with_query_error", unsound=False),
        _mass_with_query("published_query", unsound=True),
        _key_tv(),
    ]
