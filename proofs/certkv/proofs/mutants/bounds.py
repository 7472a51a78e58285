"""Bounds as pure functions: large enough for the attaining examples, and not much larger."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import mpmath
import numpy as np

from certkv.proofs.mutants.inputs import tilted
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import require_sound
from certkv.reference import Naive
from certkv.reference.bounds import full_tv, hull, key_tv, mass, score_error, tail_tv, value_blocks
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps import certify

DELTAS = (0.01, 0.18, 1.0, 4.0)


def softmax(scores: FloatArray) -> list[Any]:
    """Softmax in mpmath, 50 digits."""
    with mpmath.workdps(50):
        weights = [mpmath.exp(mpmath.mpf(float(s))) for s in scores]
        total = mpmath.fsum(weights)
        return [w / total for w in weights]


def variation(a: list[Any], b: list[Any]) -> float:
    """Half the sum of absolute differences."""
    return float(mpmath.fsum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2)


def full_variation_is_sharp() -> None:
    """Check that the example keeps its hypothesis, that the bound covers it, and that the bound is no larger."""
    for delta in DELTAS:
        s, s_prime = full_tv.attaining_example(delta)
        require(bool((np.abs(s - s_prime) <= delta).all()), f"Delta {delta}: the example's scores are too far apart")
        seen, bound = variation(softmax(s), softmax(s_prime)), float(full_tv.sharp(delta))
        require(bound >= seen, f"Delta {delta}: TV {seen} above the bound {bound}")
        # the bound is tanh(Delta/2) times at most 42 roundings of 2**-53
        require(bound <= seen * (1 + 2.0**-46), f"Delta {delta}: bound {bound} is not attained, TV {seen}")


def tail_variation_is_sharp() -> None:
    """Check the bound for errors on a tail in both of its regimes."""
    for delta in DELTAS:
        for alpha in (0.01, 0.1, 0.3, 0.5, 0.9):
            weight, error = tail_tv.attaining_example(alpha, delta)
            with mpmath.workdps(50):
                raw = [mpmath.mpf(float(w)) * mpmath.exp(float(e)) for w, e in zip(weight, error, strict=True)]
                a = [w / mpmath.fsum(raw) for w in raw]
                share = mpmath.fsum(float(w) for w in weight)
                a_prime = [float(w) / share for w in weight]
                seen = variation(a, a_prime)
            bound = float(tail_tv.sharp(alpha, delta))
            # the example is rounded to float64: its TV is off by a few units of 2**-53
            require(bound >= seen * (1 - 2.0**-48), f"alpha {alpha}, Delta {delta}: TV {seen} above the bound {bound}")
            require(bound <= seen * (1 + 2.0**-40), f"alpha {alpha}, Delta {delta}: bound {bound}, TV only {seen}")


def mass_is_bounded() -> None:
    """Let one token gain Delta, all others lose it: its true mass is the bound."""
    for delta in DELTAS:
        for rho in (0.001, 0.1, 0.7):
            with mpmath.workdps(50):
                up, down = rho * mpmath.exp(delta), (1 - mpmath.mpf(rho)) * mpmath.exp(-delta)
                true = float(up / (up + down))
            bound = float(mass.sharp(delta, rho))
            require(bound >= true, f"Delta {delta}, rho {rho}: true mass {true} above the bound {bound}")


def quantized_query_is_its_own_term() -> None:
    """Take keys that are nearly exact and a query that is not: the score error is the query's."""
    q, q_hat = np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]])
    k = np.array([[0.0, -2.0], [0.0, 2.0]])
    delta_k = score_error.measured_l2(1.0, q, np.ones((1, 2)), np.array([1e-3]))
    delta_q = score_error.query_l2(1.0, np.linalg.norm(q - q_hat, axis=1), np.array([2.0]))
    with mpmath.workdps(50):
        estimated, true = softmax(k @ q_hat[0])[0], softmax(k @ q[0])[0]
    bound = float(mass.with_query_error(delta_k, delta_q, float(estimated))[0, 0])
    require(bound >= float(true), f"true mass {float(true)} above the bound {bound}")


def diameter_counts_twice() -> None:
    """Take two opposite values: the key term is ``2 V_max TV``, attained; and one value error passes through whole."""
    a, a_prime = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    v = np.array([3.0, -3.0])
    bound = float(key_tv.key_term(3.0, 0.5))
    require(bound >= abs(float(a @ v - a_prime @ v)), f"key term {bound} below the error 3")
    eta = np.array([2.0, 0.0])
    for claim in (value_blocks.blockwise(np.array([1.0, 0.0]), eta), value_blocks.uniform(eta)):
        require(float(claim) >= 2.0, f"value term {float(claim)} below the error 2")


def hull_holds() -> None:
    """Put scores off by 8: the output sits on one value, the truth on the other, and only the hull is left."""
    scene = tilted(8.0, sign=-1, light_shift=4.0)
    require_sound(scene, scene.decode(Naive()), where="tilted block first")
    far = tilted(0.01, heavy_value=1.0, light_value=-3.0, sign=1)
    require_sound(far, far.decode(Naive()), where="output far from zero")


def scaled(function: Any, factor: float) -> Any:
    """Return the function times a factor."""
    return lambda *arguments: factor * function(*arguments)


def infeasible_example(delta: float) -> tuple[FloatArray, FloatArray]:
    """Both scores move by ``2 Delta``: where tanh(Delta) would be attained."""
    return np.array([delta, -delta]), np.array([-delta, delta])


def first_regime_only(alpha: float, delta: float) -> FloatArray:
    """``alpha (1 - alpha) x / (1 + alpha x)`` for every alpha."""
    x = np.expm1(delta)
    return np.asarray(alpha * (1 - alpha) * x / (1 + alpha * x))


def nearest_radius() -> AbstractContextManager[None]:
    """Cut the bound to the smallest radius."""
    return patched((certify, "hull", lambda radius_ub: radius_ub.min(axis=-1)))


def anchored_without_offset() -> AbstractContextManager[None]:
    """Leave out the output's distance from the anchor."""
    return patched((hull, "anchored_radius", lambda norms, offset: norms + 0.0 * offset[:, None]))


def plain_without_output() -> AbstractContextManager[None]:
    """Take nu_b as the radius, without the norm of the output."""
    return patched((hull, "plain_radius", lambda norms, output: norms + 0.0 * np.asarray(output)[:, None]))


TANH = (full_tv, "sharp", np.tanh)
SHARP_MASS = mass.sharp

CHECKS = (
    Check("full-tv", "tanh(Delta/2) bounds the total variation and is attained", full_variation_is_sharp),
    Check("tail-tv", "tau(alpha, E) bounds it for errors on a tail and is attained", tail_variation_is_sharp),
    Check("mass", "the mass theorem holds for its attaining example", mass_is_bounded),
    Check("quantized-query", "a quantized query has a score error of its own", quantized_query_is_its_own_term),
    Check("diameter", "the key term has the diameter of the values, the value term all of eta", diameter_counts_twice),
    Check("hull", "the error is at most the largest radius, whatever the scores", hull_holds),
)

MUTANTS = (
    Mutant("tv-tanh-delta", "A10", "tanh(Delta) as the sharp bound", lambda: patched(TANH), "full-tv"),
    Mutant(
        "tv-too-small",
        "A10",
        "0.999 tanh(Delta/2)",
        lambda: patched((full_tv, "sharp", scaled(full_tv.sharp, 0.999))),
        "full-tv",
    ),
    Mutant(
        "tv-infeasible-example",
        "A10",
        "the vertex where tanh(Delta) would be attained",
        lambda: patched((full_tv, "attaining_example", infeasible_example)),
        "full-tv",
    ),
    Mutant(
        "tail-tv-too-small",
        "A10",
        "0.999 tau(alpha, E)",
        lambda: patched((tail_tv, "sharp", scaled(tail_tv.sharp, 0.999))),
        "tail-tv",
    ),
    Mutant(
        "tail-tv-one-regime",
        "A10",
        "the formula of light tails for every tail",
        lambda: patched((tail_tv, "sharp", first_regime_only)),
        "tail-tv",
    ),
    Mutant(
        "tail-tv-as-stated",
        "A10",
        "alpha (e^(2 Delta) - 1) as the sharp bound",
        lambda: patched((tail_tv, "sharp", tail_tv.as_stated)),
        "tail-tv",
    ),
    Mutant(
        "mass-single-delta",
        "-",
        "e^Delta in place of e^(2 Delta)",
        lambda: patched((mass, "sharp", lambda delta, rho: SHARP_MASS(delta / 2, rho))),
        "mass",
    ),
    Mutant(
        "query-e3-delta",
        "A7",
        "e^(3 Delta) of the keys said to cover the query",
        lambda: patched((mass, "with_query_error", lambda k, q, rho: mass.as_stated_quantized_query(k, rho))),
        "quantized-query",
    ),
    Mutant(
        "query-free",
        "A7",
        "no score error for the quantized query",
        lambda: patched((score_error, "query_l2", scaled(score_error.query_l2, 0.0))),
        "quantized-query",
    ),
    Mutant(
        "key-term-radius",
        "-",
        "V_max TV without the factor 2",
        lambda: patched((key_tv, "key_term", scaled(key_tv.key_term, 0.5))),
        "diameter",
    ),
    Mutant(
        "value-term-mean",
        "A4",
        "the mean of eta_b as the uniform value bound",
        lambda: patched((value_blocks, "uniform", lambda eta: eta.mean(axis=-1))),
        "diameter",
    ),
    Mutant("hull-nearest", "-", "the smallest radius as the hull", nearest_radius, "hull"),
    Mutant("radius-no-offset", "-", "anchored radius without ||c - mu||", anchored_without_offset, "hull"),
    Mutant("radius-no-output", "-", "radius without ||c||", plain_without_output, "hull"),
)
