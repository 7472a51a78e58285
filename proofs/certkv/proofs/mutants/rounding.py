"""Rounding: the computation's own error is inside the bound."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.mutants.inputs import gaussian, half, tilted
from certkv.proofs.mutants.model import Check, Mutant, patched
from certkv.proofs.mutants.scene import Scene, require_sound
from certkv.reference import Budget, Naive
from certkv.reference.bounds import arithmetic, block_bound, quotient
from certkv.reference.exact import float64
from certkv.reference.exact.float64 import ExactFloat64
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps import attend, certify, originals
from certkv.reference.steps.group import Group


def ill_conditioned() -> Scene:
    """Return scores of size 1, left over from terms of 6e13 that cancel in pairs in any order of summation."""
    rng = np.random.default_rng(5)
    large = rng.uniform(3e4, 6e4, (12, 15))
    k = np.concatenate([large, large, rng.normal(size=(12, 2))], axis=1)
    q = np.repeat([1.0, -1.0, 1.2e-9], [15, 15, 2])[None]
    mixed = rng.permutation(32)
    v = np.zeros((12, 32))
    v[:, 0] = np.resize([1.0, -1.0], 12)
    return Scene(q[:, mixed].astype(np.float32), half(k[:, mixed]), half(v), 4, "dense", "dense", 1.0e9)


def one_value() -> Scene:
    """Return weights of all sizes and one value: the output is off by summation and division alone."""
    scene = gaussian(7, tokens=64, q_heads=1, kv_heads=1, keys="dense", values="dense")
    return replace(scene, v=np.broadcast_to(scene.v[:1], scene.v.shape))


def rounding_is_covered() -> None:
    """Quantize nothing, so that all error is rounding."""
    for where, scene in {"scores": ill_conditioned(), "sums": one_value(), "both": gaussian(8, keys="dense")}.items():
        dense = replace(scene, values="dense")
        require_sound(dense, dense.decode(Naive()), where=where)


def underflow_is_charged() -> None:
    """Heavy tokens of value 0, and light ones whose weight times value is below the smallest float64."""
    k, v = np.zeros((656, 1, 1)), np.zeros((656, 1, 1))
    k[16:], v[16:] = -652.0, 2.0**-133
    bf16 = ml_dtypes.bfloat16
    scene = Scene(np.ones((1, 1), np.float32), k.astype(bf16), v.astype(bf16), 16, "dense", "dense", 653.05 / 652)
    for policy in (Naive(), Budget(1e-3), Budget(0.0)):
        require_sound(scene, scene.decode(policy), where=policy.name)


def rounding_of_rung_3_is_covered() -> None:
    """Compute heads from the originals: they have a bound too."""
    for where, scene in {"scores": ill_conditioned(), "sums": one_value(), "plain": gaussian(9)}.items():
        require_sound(scene, scene.decode(Budget(0.0)), where=where)


def cast_is_covered() -> None:
    """Round outputs to 16 and 32 bits, on the first and on the last rung."""
    scene = gaussian(10, keys="dense", values="dense")
    for out_dtype in ("float32", "float16", "bfloat16"):
        for policy in (Naive(), Budget(0.0)):
            require_sound(scene, scene.decode(policy, out_dtype=out_dtype), where=f"{policy.name} {out_dtype}")


def cast_is_divided() -> None:
    """Let exact weights be lower than the computed ones, and the cast point away from the tilted values."""
    scene = tilted(0.5, sign=-1, heavy_value=1 - 2.0**-11, light_value=1 + 7 * 2.0**-10)
    scene = replace(scene, k=scene.k[:-1], v=scene.v[:-1])  # the exact tokens are the tail, whose radius is measured
    require_sound(scene, scene.decode(Naive(), out_dtype="bfloat16"))


def small_weights_count() -> None:
    """Give forty tokens weights near e^-21: they have 4e-9 of the mass together."""
    k = np.zeros((48, 32))
    k[8:, :] = -21 / 32
    v = np.zeros((48, 32))
    v[8:, 0] = 1.0
    scene = Scene(np.ones((1, 32), np.float32), half(k), half(v), 8, "dense", "dense")
    require_sound(scene, scene.decode(Naive()))


def no_log_error(scale: float, q: FloatArray, k: FloatArray, spread: FloatArray, head_dim: int) -> FloatArray:
    """Take weights as exact."""
    return np.zeros(spread.shape)


def no_accumulation(tokens: int, mean: FloatArray, largest: FloatArray) -> FloatArray:
    """Take sums as exact."""
    return np.zeros(largest.shape)


NO_LOG_ERROR = (arithmetic, "log_weight_error_ub", no_log_error)
NO_ACCUMULATION = (arithmetic, "accumulation_ub", no_accumulation)


def float32_scores() -> AbstractContextManager[None]:
    """Compute dot products in FP32 and certify them as float64."""

    def scores(self: Group, keys: FloatArray) -> FloatArray:
        dots = self.q.astype(np.float32) @ keys.reshape(-1, keys.shape[-1]).T.astype(np.float32)
        return np.asarray(self.scale * dots.reshape(len(self.q), *keys.shape[:-1]).astype(np.float64))

    return patched((Group, "scores", scores))


def accumulation_outside() -> AbstractContextManager[None]:
    """Add eps_acc after the division."""
    real = quotient.quotient

    def outside(*, accumulation_ub: FloatArray, **rest: Any) -> quotient.BlockBound:
        inner = real(accumulation_ub=np.zeros(accumulation_ub.shape), **rest)
        return replace(inner, bound=inner.bound + accumulation_ub)

    return patched((certify, "quotient", outside))


def cast_for_free(module: object) -> AbstractContextManager[None]:
    """Round the output and charge nothing."""

    def cast(output: FloatArray, dtype: np.dtype[np.generic]) -> tuple[FloatArray, FloatArray]:
        return output.astype(dtype).astype(np.float64), np.zeros(len(output))

    return patched((module, "round_output", cast))


def float32_einsum() -> AbstractContextManager[None]:
    """Answer rung 3 with FP32 einsums under the bound of the float64 computation."""

    def attention(q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> ExactFloat64:
        exact = float64.attention(q, k, v, scale)
        queries, keys, values = (x.astype(np.float32) for x in (q, k, v))
        scores = np.einsum("gd,nd->gn", queries, keys) * np.float32(scale)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        output = np.einsum("gn,nd->gd", weights, values) / weights.sum(axis=1, keepdims=True)
        return replace(exact, output=output.astype(np.float64))

    return patched((originals, "float64", SimpleNamespace(attention=attention)))


def exact_rung_3() -> AbstractContextManager[None]:
    """Claim that rung 3 has no error at all."""

    def attention(q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> ExactFloat64:
        exact = float64.attention(q, k, v, scale)
        return replace(exact, error_ub=np.zeros(len(q)))

    return patched((originals, "float64", SimpleNamespace(attention=attention)))


CHECKS = (
    Check("rounding", "the bound covers the rounding of scores, weights and sums", rounding_is_covered),
    Check("rounding-rung-3", "the bound of rung 3 covers its rounding", rounding_of_rung_3_is_covered),
    Check("cast", "the bound covers the final rounding to the output type", cast_is_covered),
    Check("cast-divided", "eps_acc stands above the denominator, which is below 1", cast_is_divided),
    Check("small-weights", "small weights are computed or charged", small_weights_count),
    Check("underflow", "products that underflow are charged", underflow_is_charged),
)

MUTANTS = (
    Mutant(
        "no-arithmetic", "A8", "no rounding terms at all", lambda: patched(NO_LOG_ERROR, NO_ACCUMULATION), "rounding"
    ),
    Mutant("no-score-rounding", "A8", "rounding of weights left out", lambda: patched(NO_LOG_ERROR), "rounding"),
    Mutant("no-accumulation", "A8", "rounding of sums left out", lambda: patched(NO_ACCUMULATION), "rounding"),
    Mutant("float32-scores", "A8", "FP32 scores, certified as float64", float32_scores, "rounding"),
    Mutant("accumulation-outside", "A8", "eps_acc added after the division", accumulation_outside, "cast-divided"),
    Mutant("cast-free", "A8", "the output's final rounding left out", lambda: cast_for_free(certify), "cast"),
    Mutant("cast-free-rung-3", "A8", "the same on rung 3", lambda: cast_for_free(originals), "cast"),
    Mutant("rung-3-exact", "A8", "rung 3 reported as free of error", exact_rung_3, "rounding-rung-3"),
    Mutant("rung-3-float32", "B6", "rung 3 in FP32 with the bound of float64", float32_einsum, "rounding-rung-3"),
    Mutant(
        "denominator-one",
        "-",
        "the denominator taken as 1",
        lambda: patched((block_bound, "exp_minus_lb", lambda x: np.ones(x.shape))),
        "cast-divided",
    ),
    Mutant(
        "underflow-for-free",
        "-",
        "products of weights and values that underflow not charged",
        lambda: patched((arithmetic, "LOST_TO_UNDERFLOW", 0.0)),
        "underflow",
    ),
    Mutant(
        "flush-for-free",
        "-",
        "weights below e^-20 dropped and not charged",
        lambda: patched((attend, "UNDERFLOW", -20.0)),
        "small-weights",
    ),
)
