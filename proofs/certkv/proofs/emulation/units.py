"""Operations of a kernel: binary32, exp2, conversions and dot units, each with the largest errors of its model.

Numbers are float64 arrays that hold binary32 values. A product of two of them is exact in float64; a fused multiply-add
rounds twice here, to 53 and to 24 bits, which is off by at most ``(1 + 2^-28) u``: the spare roundings of every bound
that is tested cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.kernel_model import Constant, DotUnit, KernelModel, Weights
from certkv.reference.numbers import BFLOAT16, FLOAT16, round_nearest
from certkv.reference.numbers.types import FloatArray

SMALLEST_NORMAL = 2.0**-126
Direction = Callable[[FloatArray], FloatArray]
DIRECTIONS: dict[str, Direction] = {"zero": np.trunc, "down": np.floor, "up": np.ceil}
"""How a tensor core cuts off: hardware cuts towards zero, its model allows every direction."""

SIGNS = ("plus", "minus", "mixed")
"""Which way exp2 errs."""


@dataclass(frozen=True)
class Worst:
    """The choices that a model leaves to the hardware.

    Attributes
    ----------
    cut : str
        Key of ``DIRECTIONS``.
    exp2 : str
        One of ``SIGNS``.
    """

    cut: str = "zero"
    exp2: str = "mixed"


def single(x: FloatArray | float, model: KernelModel) -> FloatArray:
    """Round to binary32, and flush to zero where the model does."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = np.asarray(x, dtype=np.float64).astype(np.float32).astype(np.float64)
    if model.flush.value >= SMALLEST_NORMAL:
        rounded = np.where(np.abs(rounded) < SMALLEST_NORMAL, 0.0, rounded)
    return np.asarray(rounded)


def exp2(y: FloatArray, model: KernelModel, worst: Worst) -> FloatArray:
    """Return 2^y with the largest relative error that the model allows; 1 at 0."""
    exact = np.exp2(np.maximum(y, -1000.0))
    # rounding to binary32 takes 2^-24 of the allowance, float64 2^-50
    allowed = model.exp2.value - 2.0**-24 - 2.0**-49
    mixed = np.where(np.floor(np.abs(y) * 1024.0) % 2 == 0, 1.0, -1.0)
    sign: FloatArray | float = mixed if worst.exp2 == "mixed" else 1.0 if worst.exp2 == "plus" else -1.0
    return np.where(y == 0.0, 1.0, single(exact * (1.0 + sign * allowed), model))


def operand(x: FloatArray, rounding: Constant) -> FloatArray:
    """Round an operand to the 16-bit type whose roundoff the constant is; leave it where it is 0."""
    for ft in (FLOAT16, BFLOAT16):
        if rounding.value == ft.unit_roundoff:
            return np.asarray(round_nearest(x, ft).astype(np.float64))
    return x


def stored(p: FloatArray, kept: Weights) -> list[FloatArray]:
    """Return the parts of P, rounded from ``p 2**bias``."""
    rest = p * 2.0**kept.bias
    if kept.roundoff.value == 0.0:
        return [rest]
    parts = []
    for _ in range(kept.parts):
        part = round_nearest(rest, kept.type).astype(np.float64)
        if kept.loss.value >= kept.type.smallest_subnormal:
            smallest_normal = kept.type.smallest_subnormal * 2.0 ** (kept.type.precision - 1)
            part = np.where(np.abs(part) < smallest_normal, 0.0, part)
        parts.append(np.asarray(part))
        rest = rest - part
    return parts


def chain(
    unit: DotUnit, start: FloatArray, a: FloatArray, b: FloatArray, model: KernelModel, worst: Worst
) -> FloatArray:
    """Return ``start + a b`` as the unit computes it.

    Parameters
    ----------
    start : float64 [m]
    a : float64 [n] or [m, n]
    b : float64 [n, m]
    """
    total = start
    left = np.broadcast_to(a, (b.shape[1], b.shape[0])).T
    for first in range(0, b.shape[0], unit.step):
        products = left[first : first + unit.step] * b[first : first + unit.step]
        if unit.kind == "fma":
            total = single(total + products[0], model)
        else:
            fields = _exponent(np.maximum(np.abs(left[first : first + unit.step]), unit.floor.value)) + _exponent(
                np.maximum(np.abs(b[first : first + unit.step]), unit.floor.value)
            )
            top = np.maximum(np.max(fields, axis=0), _exponent(total))
            total = _aligned(np.concatenate([total[None], products]), top, unit, model, worst)
    return total


def _exponent(x: FloatArray) -> FloatArray:
    """Floor of log2 |x|; far below everything for 0."""
    return np.where(x == 0.0, -900, np.frexp(x)[1] - 1)


def _aligned(addends: FloatArray, top: FloatArray, unit: DotUnit, model: KernelModel, worst: Worst) -> FloatArray:
    """One step of a tensor core: align to an exponent, cut off, add up, cut off again."""
    direction = DIRECTIONS[worst.cut]
    (bits,) = (int(c.value) for c in unit.constants if c.name == "tensor-core-bits")
    unit_of_step = np.ldexp(1.0, top.astype(np.int64) - bits)
    exact = np.sum(direction(addends / unit_of_step), axis=0) * unit_of_step
    ulp = np.ldexp(1.0, np.frexp(exact)[1] - 24)
    result = direction(exact / ulp) * ulp
    if model.flush.value >= SMALLEST_NORMAL:
        result = np.where(np.abs(result) < SMALLEST_NORMAL, 0.0, result)
    return np.asarray(result)
