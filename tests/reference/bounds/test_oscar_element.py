"""Element and score bounds from stored metadata hold in rational arithmetic; without any of their parts they do not."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import oscar_element
from certkv.reference.bounds.oscar_element import SLACK, element_ub, published_element_ub, score_ub, token_ub
from certkv.reference.errors import InputError
from certkv.reference.formats.affine import quantize
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, round_nearest
from certkv.reference.numbers.types import AnyArray

TYPES = pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)
LEVELS = pytest.mark.parametrize("levels", SLACK)
KINDS = ("normal", "far from zero", "subnormal", "subnormal, far", "symmetric", "largest", "zeros", "constant")


def group(seed: int, kind: str, ft: FloatType, tokens: int) -> AnyArray:
    """A group of tokens of one channel."""
    rng = np.random.default_rng(seed)
    least, p = ft.smallest_subnormal, ft.precision
    x = rng.standard_normal(tokens) * np.exp2(rng.integers(-12, 1))
    if kind == "far from zero":
        x = rng.choice([-1, 1]) * (1 + rng.integers(0, 6, tokens) * 2.0 ** (1 - p)) * np.exp2(rng.integers(-8, 4))
    elif kind == "subnormal":
        x = rng.integers(-5, 6, tokens) * least
    elif kind == "subnormal, far":
        x = (rng.integers(0, 2**p) + rng.integers(0, 4, tokens)) * least * rng.choice([-1, 1])
    elif kind == "symmetric":
        x = rng.choice([-1.5, -0.5, 0.0, 0.5, 1.5], tokens)
    elif kind == "largest":
        x = rng.choice([-1.0, -0.999, 0.3, 1.0], tokens) * ft.max
    elif kind == "zeros":
        x = np.zeros(tokens)
    elif kind == "constant":
        x = np.full(tokens, rng.standard_normal())
    return round_nearest(np.clip(x, -ft.max, ft.max), ft)


def rational(x: Any) -> list[Fraction]:
    return [Fraction(float(one)) for one in np.ravel(x).astype(np.float64)]


def errors(x: AnyArray, codes: AnyArray, step: AnyArray, shift: AnyArray) -> list[Fraction]:
    """``|x - (Z + D code)|`` of one group, exactly."""
    (s,), (z,) = rational(step), rational(shift)
    return [abs(one - (z + s * int(code))) for one, code in zip(rational(x), codes.ravel(), strict=True)]


@TYPES
@LEVELS
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), tokens=st.integers(1, 32))
def test_every_element_is_within_its_bound(levels: int, ft: FloatType, seed: int, kind: str, tokens: int) -> None:
    x = group(seed, kind, ft, tokens)
    codes, step, shift = quantize_zero_point(x, 0, levels, ft)
    bound = element_ub(step.astype(np.float64), shift.astype(np.float64), levels, ft)
    found = errors(x, codes, step, shift)
    assert max(found) <= Fraction(float(bound))
    if x.astype(np.float64).min() == x.astype(np.float64).max():
        assert step == 0
        assert max(found) == 0
    # with the exact minimum the theorem `affine` says more, with 2 bits too
    codes, step, minimum = quantize(x, 0, levels, ft)
    (s,) = rational(step)
    assert max(errors(x, codes, step, minimum)) <= s * (Fraction(1, 2) + (levels + Fraction(1, 2)) / 2**24)


@TYPES
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS[:5]), tokens=st.integers(2, 32))
def test_published_rule_is_within_its_bound(ft: FloatType, seed: int, kind: str, tokens: int) -> None:
    """Codes from what was not stored, decoded with a rounding: of numbers as tokens of norm 1 have them."""
    x = group(seed, kind, ft, tokens)
    x32 = x.astype(np.float32)
    if x32.min() == x32.max():
        return
    s = (x32.max() - x32.min()) / np.float32(3.0)
    zero = np.rint(-x32.min() / s)
    codes = np.clip(np.rint(x32 / s + zero), 0, 3).astype(np.float64)
    step, shift = (round_nearest(np.float64(one), ft).astype(np.float64) for one in (s, -zero * s))
    decoded = round_nearest(codes * step + shift, ft)
    found = [abs(a - b) for a, b in zip(rational(x), rational(decoded), strict=True)]
    assert max(found) <= Fraction(float(published_element_ub(step, shift, ft)))


def ours(x: Sequence[float], levels: int, ft: FloatType) -> tuple[Fraction, float, float]:
    """Largest error of a group, its step and its offset."""
    numbers = np.asarray(x).astype(ft.dtype)
    assert numbers.astype(np.float64).tolist() == list(x)
    codes, step, shift = quantize_zero_point(numbers, 0, levels, ft)
    return max(errors(numbers, codes, step, shift)), float(step), float(shift)


def test_half_a_step_is_exceeded() -> None:
    """{0.126, ..., 0.89} in bfloat16: the step 65/256 is rounded down, and the largest number is 0.5077 steps off."""
    x = [0.2578125, 0.126953125, 0.2158203125, 0.609375, 0.412109375, 0.76171875, 0.890625, 0.1259765625]
    error, step, shift = ours(x, 3, BFLOAT16)
    assert (step, shift) == (0.25390625, 0.0)
    assert error == Fraction(0.890625) - 3 * Fraction(step)
    assert float(error) / step == pytest.approx(0.5076923, abs=1e-7)
    assert 0.97 < float(error) / float(element_ub(np.array(step), np.array(shift), 3, BFLOAT16)) < 1.0


def test_slack_of_two_bits_is_not_enough_for_four() -> None:
    """Four bits in bfloat16: 15 steps, each rounded down. With the constants of 2 bits the bound is exceeded."""
    x = np.array([5.849821e-21, 2.92226367e-20, 9.33059731e-22, 1.90582413e-20]).astype(BFLOAT16.dtype)
    codes, step, shift = quantize_zero_point(x, 0, 15, BFLOAT16)
    error = float(max(errors(x, codes, step, shift)))
    s, z, u = float(step), float(shift), BFLOAT16.unit_roundoff
    of_two_bits = (s * (0.5 + 2.0**-10 + 3 * u) + u * abs(z) + u * max(abs(z), abs(z + 3 * s))) * (1 + 4 * u)
    assert error > 1.01 * of_two_bits
    assert error <= float(element_ub(np.array(s), np.array(z), 15, BFLOAT16))


def test_a_group_far_from_zero_needs_the_offsets_rounding() -> None:
    """Two neighbours but a few near 0.53 in float16: Z is 800 steps, and its rounding a quarter of one."""
    x = [0.5263671875, 0.5283203125]
    error, step, shift = ours(x, 3, FLOAT16)
    assert 800 < shift / step < 820
    assert error == Fraction(x[1]) - Fraction(shift) - 3 * Fraction(step)
    assert error > Fraction(step) * Fraction(74, 100)
    u = FLOAT16.unit_roundoff
    assert error > Fraction(step * (0.5 + 2.0**-10 + 3 * u) * (1 + 4 * u) + 5 * 2.0**-25)
    assert error <= Fraction(float(element_ub(np.array(step), np.array(shift), 3, FLOAT16)))


def test_subnormal_steps_need_what_is_added() -> None:
    """{-2, 0, 2} units: the step 4/3 is stored as 1 and the offset -8/3 (a tie: zero point 2) as -3; 2 becomes 0."""
    for ft in (FLOAT16, BFLOAT16):
        least = ft.smallest_subnormal
        error, step, shift = ours([-2 * least, 0.0, 2 * least], 3, ft)
        assert (error, step, shift) == (2 * Fraction(least), least, -3 * least)
        u = ft.unit_roundoff
        relative = (step * (0.5 + 2.0**-10 + 3 * u) + u * abs(shift)) * (1 + 4 * u)
        assert error > Fraction(relative)
        assert error <= Fraction(float(element_ub(np.array(step), np.array(shift), 3, ft)))


def test_parts_of_the_published_example() -> None:
    """{-.05, .01, .07} as the source has it: step .04, zero point 1, and errors of 1/4 and 1/4 and 1/4 of a step."""
    x = [Fraction(-5, 100), Fraction(1, 100), Fraction(7, 100)]
    s = (x[2] - x[0]) / 3
    zero = round(-x[0] / s)
    codes = [min(max(round(one / s + zero), 0), 3) for one in x]
    assert (s, zero, codes) == (Fraction(4, 100), 1, [0, 1, 3])
    assert [abs((code - zero) * s - one) / s for one, code in zip(x, codes, strict=True)] == [Fraction(1, 4)] * 3


@given(seed=st.integers(0, 2**32 - 1), zero_token=st.booleans())
def test_scores_are_within_their_bound(seed: int, zero_token: bool) -> None:
    rng = np.random.default_rng(seed)
    x = round_nearest(rng.standard_normal((8, 6)) * np.exp2(rng.integers(-9, 1, 6)), FLOAT16)
    codes, step, shift = quantize_zero_point(x, 0, 3, FLOAT16)
    element = element_ub(step.astype(np.float64), shift.astype(np.float64), 3, FLOAT16)
    q = rng.standard_normal((2, 6)).astype(np.float32).astype(np.float64)
    norm = np.abs(rng.standard_normal(8)).astype(np.float32).astype(np.float64)
    norm[0] = 0.0 if zero_token else norm[0]
    bound = score_ub(norm, q, element)
    s, z = rational(step), rational(shift)
    for t in range(8):
        n = Fraction(norm[t])
        off = [Fraction(float(x[t, c])) - (z[c] + s[c] * int(codes[t, c])) for c in range(6)]
        for head in range(2):
            score = abs(n * sum((Fraction(q[head, c]) * off[c] for c in range(6)), Fraction(0)))
            assert score <= Fraction(float(bound[head, t]))
            assert norm[t] > 0 or score == bound[head, t] == 0


def test_scores_and_tokens_are_attained() -> None:
    element, q = np.array([0.5, 0.25]), np.array([[3.0, -5.0]])
    # 3 roundings outward and back: within 20 u
    assert score_ub(np.array([2.0]), q, element)[0, 0] == pytest.approx(2 * (1.5 + 1.25), rel=20 * 2.0**-53)
    assert score_ub(np.array([2.0]), q, element)[0, 0] >= 5.5
    # 32 channels at 3 and 32 at 4 are a norm of sqrt(32) 5
    assert token_ub(np.array([[3.0, 4.0]]), 32)[0] == pytest.approx(np.sqrt(32) * 5, rel=60 * 2.0**-53)
    assert Fraction(float(token_ub(np.array([[3.0, 4.0]]), 32)[0])) ** 2 >= 32 * 25


def test_other_levels_are_refused() -> None:
    with pytest.raises(InputError, match="255 levels"):
        element_ub(np.array(1.0), np.array(0.0), 255, FLOAT16)


def test_a_share_of_the_bound_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect: the slack left out. The first test would see it."""
    x = np.array([0.07873535, 0.55126953]).astype(np.float16)
    codes, step, shift = quantize_zero_point(x, 0, 3, FLOAT16)
    s, z = step.astype(np.float64), shift.astype(np.float64)
    error = max(errors(x, codes, step, shift))
    assert error <= Fraction(float(element_ub(s, z, 3, FLOAT16)))
    assert error > Fraction(float(0.99 * element_ub(s, z, 3, FLOAT16)))
    monkeypatch.setattr(oscar_element, "SLACK", {3: -(2.0**-9)})
    assert error > Fraction(float(element_ub(s, z, 3, FLOAT16)))


@pytest.mark.parametrize(("levels", "highest"), [(3, -49_152.0), (15, -61_440.0)])
def test_the_highest_minimum_whose_offset_overflows_in_float16(levels: int, highest: float) -> None:
    """Every minimum from there to -46,000, every maximum; above, an offset half a step below is less than 65,520."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = np.unique(x[np.isfinite(x)]).astype(np.float32)
    found = []
    for lo in x[(x >= highest) & (x <= -46_000)]:
        half_range = np.float32(0.5) * x[x > lo] - np.float32(0.5) * lo
        s = half_range / np.float32(levels / 2)
        shift = -(np.rint(-lo / s) * s)
        if np.abs(shift).max() >= 65_520:  # rounds to infinity
            found.append(float(lo))
    assert found == [highest]
    _, _, cut = quantize_zero_point(np.array([[highest], [-highest]], np.float16), 0, levels, FLOAT16)
    assert cut == -65_504
