"""The affine rule with an integer zero point, and beside it the one with an exact minimum, on groups worked by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.formats.affine import quantize
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

from .corners import CORNER_IDS, CORNERS, TYPES, random_patterns
from .oscar_definition import finite, single, zero_point

F = Fraction


def coded(
    rule: Any, x: list[float], levels: int, ft: FloatType
) -> tuple[list[int], Fraction, Fraction, list[Fraction]]:
    codes, step, offset = rule(np.array(x).astype(ft.dtype), 0, levels, ft)
    s, m = F(float(step)), F(float(offset))
    return codes.tolist(), s, m, [m + s * int(code) for code in codes]


@pytest.mark.parametrize(
    ("x", "step", "zero", "codes", "decoded"),
    [
        ("-.05 .01 .07", ".04", 1, [0, 1, 3], "-.04 0 .08"),
        ("-.06 0 .06", ".04", 2, [0, 2, 3], "-.08 0 .04"),
        (".50 .52 .56", ".02", -25, [0, 1, 3], ".50 .52 .56"),
    ],
)
def test_published_examples_in_exact_arithmetic(x: str, step: str, zero: int, codes: list[int], decoded: str) -> None:
    """As decimals, with no rounding but the two to integers; and a hundredfold, where both 16-bit types are exact."""
    numbers = [F(v) for v in x.split()]
    want = [F(v) for v in decoded.split()]
    got = zero_point(numbers, 3)
    assert got == (codes, F(step), -zero * F(step))
    assert [got[2] + got[1] * c for c in got[0]] == want
    for ft in TYPES:
        found = coded(quantize_zero_point, [float(100 * v) for v in numbers], 3, ft)
        assert found == (codes, 100 * F(step), -zero * 100 * F(step), [100 * v for v in want])


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@pytest.mark.parametrize(
    ("x", "levels", "step", "shift", "codes"),
    [
        # range 3, s = 1; 2/1 = 2; (0, 2, 3) exactly
        ([-2, 0, 1], 3, 1, -2, [0, 2, 3]),
        # range 6, s = 2; 1/2 is a tie, to even 0; -1/2 is a tie, to -0; 5/2 is a tie, to 2
        ([-1, 0, 5], 3, 2, 0, [0, 0, 2]),
        # range 6, s = 2; 5/2 is a tie, to 2; shift -4; (-5 + 4)/2 = -1/2, to -0; 4/2 = 2; 5/2, to 2
        ([-5, 0, 1], 3, 2, -4, [0, 2, 2]),
        # range 6, s = 2; 7/2 is a tie, to 4; shift -8; 1/2, to 0; 7/2, to 4, clamped to 3; 5/2, to 2
        ([-7, -1, -3], 3, 2, -8, [0, 3, 2]),
        # range 15, s = 1; 7/1 = 7; shift -7; 0, 8, 15 exactly
        ([-7, 1, 8], 15, 1, -7, [0, 8, 15]),
        # range 30, s = 2; 0; 3/2 is a tie, to 2; 30/2 = 15
        ([0, 3, 30], 15, 2, 0, [0, 2, 15]),
        # far away: range 3, s = 1; -130/1 = -130, not clamped; shift 130; exact
        ([130, 131, 133], 3, 1, 130, [0, 1, 3]),
        # constant: step 0, shift the constant, codes 0
        ([7, 7, 7], 3, 0, 7, [0, 0, 0]),
        # a group of zeros: step 0
        ([0, 0, -0.0], 3, 0, 0, [0, 0, 0]),
        # one token
        ([-3], 3, 0, -3, [0]),
    ],
)
def test_by_hand_integer_zero_point(
    ft: FloatType, x: list[float], levels: int, step: int, shift: int, codes: list[int]
) -> None:
    found = coded(quantize_zero_point, x, levels, ft)
    assert found == (codes, F(step), F(shift), [F(shift) + step * c for c in codes])


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@pytest.mark.parametrize(
    ("x", "levels", "step", "codes"),
    [
        # range 12, step 4, minimum -5; 6/4 = 3/2 is a tie, to 2; 12/4 = 3
        ([-5, 1, 7], 3, 4, [0, 2, 3]),
        # the systematic tie of a symmetric group: 6/4 = 3/2, to 2: (-6, 2, 6), both ends exact
        ([-6, 0, 6], 3, 4, [0, 2, 3]),
        # far away: as near as at home
        ([130, 131, 133], 3, 1, [0, 1, 3]),
        # 4 bits: range 30, step 2; 3/2, to 2; 5/2, to 2
        ([0, 3, 5, 30], 15, 2, [0, 2, 2, 15]),
    ],
)
def test_by_hand_exact_minimum(ft: FloatType, x: list[float], levels: int, step: int, codes: list[int]) -> None:
    low = min(x)
    assert coded(quantize, x, levels, ft) == (codes, F(step), F(low), [F(low) + step * c for c in codes])


def test_by_hand_a_step_that_is_no_number_of_fp16() -> None:
    """1/3 = 1.0101010101|01... 2**-2 in binary: to nearest 1365/4096, upward 1366/4096.

    With the nearest the top is 3 1365/4096 = 4095/4096, 1/4096 below; rounded up it is 2049/2048, 1/2048 above.
    """
    assert coded(quantize_zero_point, [0, 1], 3, FLOAT16) == ([0, 3], F(1365, 4096), F(0), [F(0), F(4095, 4096)])
    assert coded(quantize, [0, 1], 3, FLOAT16) == ([0, 3], F(683, 2048), F(0), [F(0), F(2049, 2048)])


def test_by_hand_codes_come_from_what_is_stored() -> None:
    """(131, 133, 136) in BF16, whose numbers are integers there. s = 5/3; 131/s = 78.6, to 79; 79 s = 131.67, to 132.

    s to nearest is 213/128. From the stored numbers: (131 - 132) 128/213 = -0.6, clamped to 0; 128/213 = 0.6, to 1;
    4 128/213 = 2.4, to 2: off by 1, 85/128 and 86/128. From unrounded ones: 78.6, 79.8 and 81.6 give the codes 0, 1, 3
    after 79 is taken off, and the last would be off by 132 + 639/128 - 136 = 127/128, more than half a step (0.596 s).
    """
    found = coded(quantize_zero_point, [131, 133, 136], 3, BFLOAT16)
    assert found == ([0, 1, 2], F(213, 128), F(132), [F(132), 132 + F(213, 128), 132 + F(426, 128)])
    assert [abs(d - x) for d, x in zip(found[3], (131, 133, 136), strict=True)] == [F(1), F(85, 128), F(86, 128)]
    unrounded = zero_point([F(131), F(133), F(136)], 3)
    assert unrounded[0] == [0, 1, 3]
    assert abs(132 + 3 * F(213, 128) - 136) == F(127, 128) > F(213, 128) / 2
    # the exact minimum costs nothing here: 131, step 5/3 rounded up to 214/128, codes 0, 1 (1.196) and 3 (2.99)
    assert coded(quantize, [131, 133, 136], 3, BFLOAT16) == (
        [0, 1, 3],
        F(214, 128),
        F(131),
        [F(131), 131 + F(214, 128), 131 + F(642, 128)],
    )


def test_by_hand_a_shift_beyond_the_type_is_cut() -> None:
    """(-M, M): s = 2M/3, M/s = 3/2 is a tie, to 2; shift -4M/3, cut to -M: codes 0 and 3 (2M/s = 3) of the cut one."""
    for ft in TYPES:
        codes, step, shift, decoded = coded(quantize_zero_point, [-ft.max, ft.max], 3, ft)
        assert (codes, shift) == ([0, 3], F(-ft.max))
        assert abs(decoded[1] - F(ft.max)) <= 3 * step * F(2) ** -ft.precision


def judged(rule: Any, column: np.ndarray[Any, Any], levels: int, ft: FloatType) -> None:
    exact = [F(float(v)) for v in column]
    codes, step, shift = rule(column, 0, levels, ft)
    want = zero_point(exact, levels, single, finite(ft.name), ft.name)
    assert (codes.tolist(), F(float(step)), F(float(shift))) == want
    assert not np.signbit(np.array([step, shift]).astype(np.float64))[
        np.array([step, shift]).astype(np.float64) == 0
    ].any()


@pytest.mark.parametrize("levels", [3, 15])
@pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
def test_corners_are_the_definition(levels: int, ft: FloatType, name: str, x: np.ndarray[Any, Any]) -> None:
    for block in x:
        for channel in block.T:
            judged(quantize_zero_point, channel, levels, ft)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(TYPES),
    st.sampled_from([3, 15]),
    st.sampled_from(["bits", "far", "grid"]),
)
def test_random_groups_are_the_definition(seed: int, ft: FloatType, levels: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 33))
    if kind == "bits":
        x = random_patterns(rng, (n,), ft)
    elif kind == "grid":  # many ties
        x = (rng.integers(-24, 25, n) / 2.0).astype(ft.dtype)
    else:
        x = (300.0 * rng.standard_normal() + rng.standard_normal(n)).astype(ft.dtype)
    judged(quantize_zero_point, x, levels, ft)
