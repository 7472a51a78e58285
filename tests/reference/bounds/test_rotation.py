"""Computed rotations are within their bounds of the exact one, rotated twice too, and the bounds are not idle."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from flint import arb, fmpq
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import rotation as bounds
from certkv.reference.formats import rotation
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, norm_ub
from certkv.reference.numbers.types import AnyArray, FloatArray

SIZES = st.sampled_from([8, 16, 24, 32, 40, 64, 80, 96, 120, 128])
FP32_UNIT = 2.0**-rotation.EXPONENT


def balls(x: FloatArray) -> list[arb]:
    return [arb(fmpq(*Fraction(float(one)).as_integer_ratio())) for one in x]


def exact(x: list[arb]) -> list[arb]:
    """``H x`` from the definition, block by block as the binary digits of the head size say."""
    result: list[arb] = []
    for bit in reversed(range(len(x).bit_length())):
        if len(x) >> bit & 1:
            start, size = len(result), 1 << bit
            block = x[start : start + size]
            for i in range(size):
                signed = (-one if (i & j).bit_count() % 2 else one for j, one in enumerate(block))
                result.append(sum(signed, arb(0)) / arb(size).sqrt())
    return result


def norm(x: list[arb]) -> arb:
    return sum((one * one for one in x), arb(0)).sqrt()


def distance(x: list[arb], y: list[arb]) -> arb:
    return norm([a - b for a, b in zip(x, y, strict=True)])


def token(seed: int, head_dim: int, ft: FloatType, exponent: int) -> AnyArray:
    """Numbers of several sizes, subnormal ones and the largest among them, some 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(head_dim) * np.exp2(rng.integers(-6, 7, head_dim))
    x = np.clip(np.ldexp(x, exponent), -ft.max, ft.max)
    x[rng.random(head_dim) < 0.1] = 0.0
    if rng.random() < 0.2:
        x[rng.random(head_dim) < 0.5] = ft.max
    return np.asarray(x.astype(np.float32).astype(ft.dtype))


EXPONENTS = {FLOAT16: st.sampled_from([-24, -18, -14, 0, 9]), BFLOAT16: st.sampled_from([-133, -128, -60, 0, 60, 120])}
TYPES = pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)


@TYPES
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), head_dim=SIZES)
def test_binary32_is_within_its_bounds(data: st.DataObject, ft: FloatType, seed: int, head_dim: int) -> None:
    """Once against H x, twice against x itself; and a token keeps its length."""
    x = token(seed, head_dim, ft, data.draw(EXPONENTS[ft]))
    x64 = x.astype(np.float64)
    size = norm_ub(x64)
    once_ub, twice_ub = bounds.float32_error_ub(size, head_dim), bounds.float32_twice_error_ub(size, head_dim)
    y = rotation.rotate_originals(x)
    once = balls(y.astype(np.float64) * FP32_UNIT)
    assert not distance(once, exact(balls(x64))) > float(once_ub)
    assert not abs(norm(once) - norm(balls(x64))) > float(once_ub)
    # y is in units of 2**EXPONENT already, and rotated as such
    again = balls(rotation._blocks(y).astype(np.float64) * FP32_UNIT)
    assert not distance(again, balls(x64)) > float(twice_ub)


@given(seed=st.integers(0, 2**32 - 1), head_dim=SIZES, exponent=st.sampled_from([-149, -20, 0, 100]))
def test_float64_is_within_its_bounds(seed: int, head_dim: int, exponent: int) -> None:
    x = np.ldexp(np.random.default_rng(seed).standard_normal(head_dim), exponent)
    found = balls(rotation.rotate(x))
    wanted = exact(balls(x))
    bound = float(bounds.float64_error_ub(norm_ub(x), head_dim))
    assert not distance(found, wanted) > bound
    each = rotation.rotate_error_ub(x)
    assert all(not abs(a - b) > float(e) for a, b, e in zip(found, wanted, each, strict=True))
    # inner products are kept, up to what Cauchy and Schwarz make of the error: rotated query, any key
    k = np.random.default_rng(seed + 1).standard_normal(head_dim)
    kept = sum((a * b for a, b in zip(found, exact(balls(k)), strict=True)), arb(0))
    plain = sum((a * b for a, b in zip(balls(x), balls(k), strict=True)), arb(0))
    assert not abs(kept - plain) > arb(bound) * arb(float(norm_ub(k)))


def test_without_the_factors_rounding_the_bound_is_exceeded() -> None:
    """Count L roundings instead of L + 2: one channel in a block of 2 has none of the L, and two others."""
    x = np.array([float.fromhex("0x1.71766c38ea5bcp+0"), 0.0])
    error = distance(balls(rotation.rotate(x)), exact(balls(x)))
    assert error > 1.5 * 2.0**-53 * x[0]  # gamma_1 is 2^-53, up to 2^-106
    assert not error > float(bounds.float64_error_ub(norm_ub(x), 2))


def test_underflow_is_counted() -> None:
    """The smallest bfloat16 number: gamma alone is less than what its product with the factor loses."""
    x = np.zeros(8, BFLOAT16.dtype)
    x[0] = BFLOAT16.smallest_subnormal
    size = norm_ub(x.astype(np.float64))
    error = distance(
        balls(rotation.rotate_originals(x).astype(np.float64) * FP32_UNIT), exact(balls(x.astype(np.float64)))
    )
    relative = 5 * bounds.V / (1 - 5 * bounds.V)
    assert error > float(size) * relative
    assert not error > float(bounds.float32_error_ub(size, 8))


@pytest.mark.parametrize(("head_dim", "roundings"), [(8, 5), (64, 8), (80, 8), (96, 8), (128, 9), (256, 10)])
def test_formulas(head_dim: int, roundings: int) -> None:
    u = 2.0**-53
    one = np.array(1.0)
    # outward factors are below 1 + 40 u here
    assert bounds.float64_error_ub(one, head_dim) == pytest.approx(roundings * u / (1 - roundings * u), rel=40 * u)
    v = bounds.V
    relative, lost = roundings * v / (1 - roundings * v), np.sqrt(head_dim) * 2.0**-142
    assert bounds.float32_error_ub(one, head_dim) == pytest.approx(relative + lost, rel=60 * u)
    wanted = 2 * relative + relative**2 + (2 + relative) * lost
    assert bounds.float32_twice_error_ub(one, head_dim) == pytest.approx(wanted, rel=80 * u)
    assert bounds.float32_error_ub(np.zeros(2), head_dim).tolist() == pytest.approx([lost, lost], rel=60 * u)
