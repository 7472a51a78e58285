"""Bounds from stored metadata, of rotations, and of levels: large enough for inputs that come near them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

import ml_dtypes
import mpmath
import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.bounds import oscar_element, planes, rotation, token_norm_imbalance
from certkv.reference.formats import rotation as computed
from certkv.reference.formats.planar import INT8_4
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, float_type
from certkv.reference.numbers.types import AnyArray, FloatArray

UNLUCKY = float.fromhex("0x1.71766c38ea5bcp+0")
"""Its product with the rounded root of 1/2 is off by 1.59 units of 2^-53: the factor's rounding and its own."""


def rotations_are_covered() -> None:
    """Rotate one channel of two: only the factor and the last product round, in each precision; and underflow."""
    x = np.array([UNLUCKY, 0.0])
    with mpmath.workdps(50):
        lost = abs(mpmath.mpf(float(computed.rotate(x)[0])) - mpmath.mpf(UNLUCKY) / mpmath.sqrt(2))
        norm = float(lost * mpmath.sqrt(2))
        # meant is x (1 + 2^-53), or less: each channel is off by so much more
        each = float(lost + mpmath.mpf(UNLUCKY) * mpmath.mpf(2) ** -53 / mpmath.sqrt(2))
    bound = float(rotation.float64_error_ub(np.array(UNLUCKY), 2))
    require(norm <= bound, f"a rotation in float64 is off by {norm}, its bound is {bound}")
    bound = float(computed.rotate_error_ub(x)[0])
    require(each <= bound, f"a rotated channel is off by {each}, its bound is {bound}")
    small = np.zeros(8, ml_dtypes.bfloat16)
    small[0] = BFLOAT16.smallest_subnormal
    y = computed.rotate_originals(small).astype(np.float64) * 2.0**-computed.EXPONENT
    with mpmath.workdps(50):
        wanted = mpmath.mpf(BFLOAT16.smallest_subnormal) / mpmath.sqrt(8)
        norm = float(abs(mpmath.mpf(float(y[0])) - wanted) * mpmath.sqrt(8))
    bound = float(rotation.float32_error_ub(np.array(BFLOAT16.smallest_subnormal), 8))
    require(norm <= bound, f"the rotation of the smallest number is off by {norm}, its bound is {bound}")


def group_error(numbers: list[float], levels: int, dtype: Any) -> tuple[Fraction, FloatArray, FloatArray]:
    """Largest error of a group, exactly; its step and its offset."""
    x = np.array(numbers, np.float32).astype(dtype)
    codes, step, shift = quantize_zero_point(x, 0, levels, float_type(x.dtype))
    s, z = Fraction(float(step)), Fraction(float(shift))
    pairs = zip(x.astype(np.float64).tolist(), codes.tolist(), strict=True)
    return max(abs(Fraction(one) - (z + s * code)) for one, code in pairs), *(
        one.astype(np.float64) for one in (step, shift)
    )


GROUPS: dict[str, tuple[list[float], int, Any]] = {
    "a step rounded down": ([0.07873535, 0.55126953], 3, np.float16),
    "far from zero": ([0.5263671875, 0.5283203125], 3, np.float16),
    "subnormal": ([-(2.0**-23), 0.0, 2.0**-23], 3, np.float16),
    "fifteen steps rounded down": (
        [5.849821e-21, 2.92226367e-20, 9.33059731e-22, 1.90582413e-20],
        15,
        ml_dtypes.bfloat16,
    ),
}


def elements_are_covered() -> None:
    """Encode groups that each need another part of the element bound, and add their errors up in a score."""
    for where, (numbers, levels, dtype) in GROUPS.items():
        error, step, shift = group_error(numbers, levels, dtype)
        bound = float(oscar_element.element_ub(step, shift, levels, float_type(np.dtype(dtype))))
        require(error <= Fraction(bound), f"{where}: an element is off by {float(error)}, its bound is {bound}")


def scores_are_covered() -> None:
    """Put a query along the errors of a token of norm 40, in four channels that are alike."""
    error, step, shift = group_error(GROUPS["a step rounded down"][0], 3, np.float16)
    element = np.full(4, float(oscar_element.element_ub(step, shift, 3, FLOAT16)))
    score = 40 * 4 * 2 * error
    bound = float(oscar_element.score_ub(np.array([40.0]), np.full((1, 4), 2.0), element)[0, 0])
    require(score <= Fraction(bound), f"a score is off by {float(score)}, its bound is {bound}")
    bound = float(oscar_element.token_ub(element[None, :2], 2)[0])
    require(4 * error * error <= Fraction(bound) ** 2, f"a token is off by {2 * float(error)}, its bound is {bound}")


def forced_steps_are_there() -> None:
    """Encode two tokens that are the extremes of every channel: stored steps are no smaller than the bound."""
    for numbers, ft in (([0.0, 0.7578125], BFLOAT16), ([0.0, 2.0**-22], FLOAT16), ([0.0, 2.0**-24], FLOAT16)):
        x = np.array(numbers, np.float32).astype(ft.dtype)[:, None]
        _, step, _ = quantize_zero_point(x, 0, 3, ft)
        for name in ("steps_norm_lb", "steps_norm_by_norms_lb"):
            claimed = getattr(token_norm_imbalance, name)(x.astype(np.float64), 3, ft)
            require(claimed <= float(step[0]), f"{name}: {claimed} above the stored step {float(step[0])}")
    forced = token_norm_imbalance.steps_norm_lb(np.array([[0.0, 0.0], [3.0, 4.0]]), 3, FLOAT16)
    # all that it gives away is u + 2 v, and less than 2^-40
    require(forced >= 5 / 3 * (1 - 1.01 * 2.0**-11), f"tokens 5 apart force steps of {forced}, at 4 levels")


def cells_are_covered() -> None:
    """Encode -2^-40 beside -1: plus 1 it is 1 in binary32, the end of a cell."""
    x = np.array([[-1.0], [127 / 128], [-(2.0**-40)]]).astype(ml_dtypes.bfloat16)
    encoded = INT8_4.encode(x)
    step = encoded.step.astype(np.float64)
    for level in (0, 1):
        decoded = INT8_4.decode(encoded.at(level))[:, 0].tolist()  # of a step 2^-7 and a minimum -1: exact
        error = max(abs(Fraction(a) - Fraction(b)) for a, b in zip(x[:, 0].astype(np.float64), decoded, strict=True))
        bound = float(planes.cell_ub(step, 4 * level, 255)[0])
        require(error <= Fraction(bound), f"level {level}: off by {float(error)}, the bound is {bound}")


def fewer_roundings(owner: object, name: str, by: int) -> AbstractContextManager[None]:
    """Count fewer roundings."""
    real = getattr(owner, name)
    return patched((owner, name, lambda n: real(n) - by if name == "roundings" else real(max(n - by, 0))))


def without_offset(step: FloatArray, shift: FloatArray, levels: int, ft: FloatType) -> FloatArray:
    """Take the offset as exact."""
    return ELEMENT(step, 0.0 * shift, levels, ft)


def without_subnormals(step: FloatArray, shift: FloatArray, levels: int, ft: FloatType) -> FloatArray:
    """Leave out what subnormal steps and offsets lose."""
    return ELEMENT(step, shift, levels, ft) - (levels + 2) * ft.smallest_subnormal / 2


def of_two_bits(step: FloatArray, shift: FloatArray, levels: int, ft: FloatType) -> FloatArray:
    """Use the constants of 2 bits for any number of them."""
    return ELEMENT(step, shift, 3, ft)


def half_a_step(step: FloatArray, shift: FloatArray, levels: int, ft: FloatType) -> FloatArray:
    """Claim half a step."""
    return np.asarray(step / 2)


def norm_forgotten(norm: FloatArray, q: FloatArray, element: FloatArray) -> FloatArray:
    """Leave the norm out of the score."""
    return SCORE(np.ones(norm.shape), q, element)


def exact_steps(distance: float, levels: int, head_dim: int, ft: FloatType) -> float:
    """Take stored steps as exact."""
    return distance / levels


def no_lost_steps(distance: float, levels: int, head_dim: int, ft: FloatType) -> float:
    """Round steps, but lose none of them to their type's range."""
    return (1.0 - ft.unit_roundoff) * (1.0 - token_norm_imbalance.V) ** 2 * distance / levels


def steps_of_all_codes(distance: float, levels: int, head_dim: int, ft: FloatType) -> float:
    """Divide by the number of codes, not by that of the steps between them."""
    return STORED(distance, levels + 1, head_dim, ft)


def half_a_cell(step: FloatArray, finer_bits: int, levels: int) -> FloatArray:
    """Half a cell and nothing more."""
    return np.asarray(step * 2.0**-finer_bits / 2.0)


def next_level(step: FloatArray, finer_bits: int, levels: int) -> FloatArray:
    """Give the bound of a level of 4 bits more."""
    return CELL(step, finer_bits + 4, levels)


ELEMENT, SCORE, TOKEN = oscar_element.element_ub, oscar_element.score_ub, oscar_element.token_ub
STORED, CELL = token_norm_imbalance._stored, planes.cell_ub


def element(planted: Any) -> AbstractContextManager[None]:
    """Plant another element bound."""
    return patched((oscar_element, "element_ub", planted))


def unweighted_token(element: AnyArray, group: int) -> FloatArray:
    """Count each group of channels once."""
    return TOKEN(element, 1)


CHECKS = (
    Check("rotation-bounds", "a computed rotation is as near the exact one as its bounds say", rotations_are_covered),
    Check("element-bounds", "elements are as near as stored metadata promise", elements_are_covered),
    Check("metadata-scores", "so are scores and tokens made of them", scores_are_covered),
    Check(
        "forced-steps",
        "stored steps are at least what two tokens force, and that is no idle claim",
        forced_steps_are_there,
    ),
    Check("cells", "every level is within half a cell, and the rounding of a place", cells_are_covered),
)

MUTANTS = (
    Mutant(
        "rotation-levels-only",
        "-",
        "roundings of the rotation's levels, none of its factor and its last product",
        lambda: fewer_roundings(rotation, "roundings", 2),
        "rotation-bounds",
    ),
    Mutant(
        "rotation-elements-fewer",
        "-",
        "elements of a rotation without the roundings of the factor and of what is rotated",
        lambda: fewer_roundings(computed, "gamma", 2),
        "rotation-bounds",
    ),
    Mutant(
        "rotation-underflow-free",
        "-",
        "products with the rotation's factor that underflow not charged",
        lambda: patched((rotation, "LOST", 0.0)),
        "rotation-bounds",
    ),
    Mutant(
        "element-offset-exact", "-", "a stored offset taken as exact", lambda: element(without_offset), "element-bounds"
    ),
    Mutant(
        "element-subnormal-free",
        "-",
        "subnormal steps and offsets not charged",
        lambda: element(without_subnormals),
        "element-bounds",
    ),
    Mutant(
        "element-two-bits", "-", "the constants of 2 bits used for 4", lambda: element(of_two_bits), "element-bounds"
    ),
    Mutant(
        "element-half-step", "-", "half a step as the bound of a code", lambda: element(half_a_step), "element-bounds"
    ),
    Mutant(
        "score-norm-forgotten",
        "-",
        "a score's bound without the token's norm",
        lambda: patched((oscar_element, "score_ub", norm_forgotten)),
        "metadata-scores",
    ),
    Mutant(
        "token-groups-once",
        "-",
        "one channel of each group in a token's bound",
        lambda: patched((oscar_element, "token_ub", unweighted_token)),
        "metadata-scores",
    ),
    Mutant(
        "steps-exact",
        "-",
        "forced steps without the rounding of stored ones",
        lambda: patched((token_norm_imbalance, "_stored", exact_steps)),
        "forced-steps",
    ),
    Mutant(
        "steps-none-lost",
        "-",
        "forced steps without those that are too small to be stored",
        lambda: patched((token_norm_imbalance, "_stored", no_lost_steps)),
        "forced-steps",
    ),
    Mutant(
        "steps-by-codes",
        "-",
        "a range divided by the number of codes",
        lambda: patched((token_norm_imbalance, "_stored", steps_of_all_codes)),
        "forced-steps",
    ),
    Mutant(
        "cell-rounding-free",
        "-",
        "half a cell, without the rounding of a place",
        lambda: patched((planes, "cell_ub", half_a_cell)),
        "cells",
    ),
    Mutant(
        "cell-of-next-level",
        "-",
        "a level's bound from the next one",
        lambda: patched((planes, "cell_ub", next_level)),
        "cells",
    ),
)
