"""A kernel's rounding: a kernel that is not what its model says, or a model that leaves something out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.emulation import kernel, units
from certkv.proofs.emulation.certificate import judge
from certkv.proofs.emulation.units import Worst
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.bounds import kernel_arithmetic
from certkv.reference.bounds.kernel_model import (
    EXACT,
    H200_FP16_P,
    H200_HILO_P,
    IEEE_FP32,
    TC_BITS,
    TC_STEP,
    Constant,
    DotUnit,
    KernelModel,
    Weights,
    weights,
)
from certkv.reference.numbers import BFLOAT16, FLOAT16
from certkv.reference.numbers.types import FloatArray

Head = tuple[FloatArray, FloatArray, FloatArray, float]
BIT = float(np.log(2.0))
"""The scale at which a score is a number of bits."""


def require_covered(where: str, head: Head, model: KernelModel, worst: Worst) -> None:
    """Run the kernel and compare its error with the bound of the model."""
    q, k, v, scale = head
    done = kernel.emulate(q, k, v, scale, model, worst)
    found = judge(q, k, v, scale, model, done)
    require(found.error_lb <= found.bound, f"{where}: error {found.error_lb:.3g} above the bound {found.bound:.3g}")


def column(*groups: tuple[int, float]) -> FloatArray:
    """Return a column of so many equal numbers, group after group."""
    return np.concatenate([np.full(count, x, dtype=np.float64) for count, x in groups])[:, None]


def opposed(score: float) -> Head:
    """Two groups of values +1 and -1, with weights near 1/2, beside one token that has the maximum."""
    return np.ones(1), column((1, 0.0), (32, -1.0), (32, score)), column((1, 0.0), (32, -1.0), (32, 1.0)), BIT


def weights_are_covered() -> None:
    """Let weights, or keys, be just below a tie of bfloat16: what 11 bits keep and 8 do not."""
    tie = float(np.float16(np.log2(1 + 2.0**-8 * 0.97) - 1))
    for where, model in {"float16": H200_FP16_P, "two parts": H200_HILO_P}.items():
        require_covered(where, opposed(tie), replace(model, splits=1, tile=65), Worst())


def small_weights_are_covered() -> None:
    """One token has the maximum and value 0, and thousands have the only values and tiny weights."""
    model = replace(H200_FP16_P, splits=1)
    for bits in (-25.0, -39.5):
        k = column((1, 0.0), (63, -80.0), (4096, bits))
        head = np.ones(1), k, column((64, 0.0), (4096, 1.0)), BIT
        require_covered(f"2^{bits}", head, model, Worst())


def sums_are_covered() -> None:
    """One value, so that only sums can err, cut off downwards; scores whose weights fill their bits."""
    scores = np.asarray(np.linspace(-0.9, 0.0, 8192)[:, None].astype(np.float16), dtype=np.float64)
    head = np.ones(1), scores, column((8192, 1.0 + 2.0**-8)), BIT
    require_covered("one value", head, replace(H200_FP16_P, splits=1), Worst("down", "plus"))
    # every weight but the first rounded the same way by nearly 2^-11
    tie = float(np.float32(np.log2(1 + 2.0**-11 * 0.97) - 1))
    alike = np.ones(1), column((1, 0.0), (511, tie)), column((512, 1.0)), BIT
    require_covered("weights alike", alike, replace(H200_FP16_P, splits=1), Worst())


def updates_are_covered() -> None:
    """Let the maximum rise in every tile, by little, with a coarse exp2 that always errs upward."""
    k = np.asarray(np.arange(256) // 4 * 2.0**-8, dtype=np.float64)[:, None]
    v = column((128, 1.0), (128, -1.0))
    coarse = replace(IEEE_FP32, tile=4, exp2=Constant("coarse-exp2", 2.0**-12, "assumption", "chosen here"))
    require_covered("rising", (np.ones(1), k, v, BIT), coarse, Worst("zero", "plus"))


def dot_unit_is_covered() -> None:
    """Products that are all cut off, down in one group of tokens and up in the other."""
    q = np.concatenate([[1.0], np.full(15, 2.0**-12)])
    small = 2.0**-12 * (2 - 2.0**-9)
    k = np.concatenate(
        [np.ones((32, 1)), np.concatenate([np.full((16, 15), small), np.full((16, 15), -small)])], axis=1
    )
    head = q, k, column((16, 1.0), (16, -1.0)), 1.0
    # the score is 1 and of size 1; with this scale the cut alone is 1 % and what remains is far below
    require_covered("cut products", (*head[:3], 4096.0), replace(H200_HILO_P, splits=1, tile=32), Worst())


def subnormal_values_are_covered() -> None:
    """Values that are all subnormal: a tensor core aligns by exponent fields, and cuts off what light tokens add."""
    head = np.ones(1), column((1, 0.0), (15, -15.5)), column((16, 2.0**-24)), BIT
    require_covered("subnormal values", head, replace(H200_FP16_P, splits=1, tile=16), Worst())


def built_as(**changes: Any) -> AbstractContextManager[None]:
    """Build the kernel otherwise than its model says."""
    real = kernel.emulate

    def other(
        q: FloatArray, k: FloatArray, v: FloatArray, scale: float, model: KernelModel, worst: Worst | None = None
    ) -> kernel.Emulated:
        return real(q, k, v, scale, replace(model, **changes), worst)

    return patched((kernel, "emulate", other))


def stored_as(kept: Weights) -> AbstractContextManager[None]:
    """Keep weights in another format, scaled as the model expects."""
    real = units.stored

    def other(p: FloatArray, model: Weights) -> list[FloatArray]:
        return [part * 2.0 ** (model.bias - kept.bias) for part in real(p, kept)]

    return patched((kernel, "stored", other))


def nothing_lost() -> AbstractContextManager[None]:
    """Forget what underflows."""
    return patched((kernel_arithmetic, "lost_weight_ub", lambda model, updates: np.zeros(np.shape(updates))))


def by_value() -> AbstractContextManager[None]:
    """Take the exponent of a subnormal operand from its value."""
    real = kernel_arithmetic.accumulation_ub

    def other(model: KernelModel, **inputs: Any) -> FloatArray:
        return real(replace(model, pv=replace(model.pv, floor=EXACT)), **inputs)

    return patched((kernel_arithmetic, "accumulation_ub", other))


BF16_KEYS = Constant("bfloat16-keys", BFLOAT16.unit_roundoff, "proved", "IEEE 754")

CHECKS = (
    Check("kernel-weights", "the rounding of P and of the operands is in the weights' error", weights_are_covered),
    Check("kernel-small-weights", "weights that underflow are charged", small_weights_are_covered),
    Check("kernel-sums", "sums, the division and the cast are in the accumulation term", sums_are_covered),
    Check("kernel-updates", "every update of the maximum is counted", updates_are_covered),
    Check("kernel-subnormals", "subnormal operands count with their exponent field", subnormal_values_are_covered),
    Check("kernel-unit", "what a dot unit cuts off is in the weights' error", dot_unit_is_covered),
)

MUTANTS = (
    Mutant(
        "weights-bfloat16",
        "A8",
        "P kept in bfloat16 and certified as float16",
        lambda: stored_as(weights(BFLOAT16)),
        "kernel-weights",
    ),
    Mutant(
        "keys-bfloat16",
        "A8",
        "keys rounded to bfloat16 on their way to the dot unit",
        lambda: built_as(key_rounding=BF16_KEYS),
        "kernel-weights",
    ),
    Mutant(
        "weights-unbiased",
        "A8",
        "P kept in float16 without the bias",
        lambda: stored_as(weights(FLOAT16)),
        "kernel-small-weights",
    ),
    Mutant("weights-lost-for-free", "A8", "weights that underflow not charged", nothing_lost, "kernel-small-weights"),
    Mutant(
        "one-level-sums",
        "A8",
        "tiles accumulated in the tensor core and certified as summed from zero",
        lambda: built_as(two_level=False),
        "kernel-sums",
    ),
    Mutant(
        "denominator-unrounded",
        "A8",
        "l summed from weights before they are rounded",
        lambda: built_as(sum_rounded=False),
        "kernel-sums",
    ),
    Mutant(
        "kernel-cast-free",
        "A8",
        "the output in bfloat16, certified in binary32",
        lambda: built_as(output=BFLOAT16),
        "kernel-sums",
    ),
    Mutant(
        "updates-uncounted",
        "A8",
        "rescaling by exp2 taken as exact",
        lambda: patched((kernel_arithmetic, "factors", lambda model, updates: np.asarray(updates) * 0 + 1)),
        "kernel-updates",
    ),
    Mutant(
        "subnormals-by-value",
        "A8",
        "a tensor core's error taken as relative to the values of subnormal operands",
        by_value,
        "kernel-subnormals",
    ),
    Mutant(
        "tensor-core-narrow",
        "A8",
        "a dot unit that keeps 23 fraction bits, certified for 25",
        lambda: built_as(qk=DotUnit.tensor_core(TC_STEP, replace(TC_BITS, value=23.0))),
        "kernel-unit",
    ),
)
