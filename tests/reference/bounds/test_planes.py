"""Every level is within half its cell of what was encoded, in rational arithmetic, and levels are worth their bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds.planes import cell_ub
from certkv.reference.formats import Encoded, planar
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, round_nearest

Planar = planar.Refined | planar.Divided
FORMATS: dict[str, tuple[Planar, int]] = {"int8+4": (planar.INT8_4, 255), "int4+4": (planar.INT4_INT4, 15)}


def exact_code(encoded: Encoded, fmt: Planar, level: int) -> tuple[list[Fraction], Fraction]:
    """``code_l`` of one channel and the stored step, from the words of docs/derivations/planes.md."""
    at = encoded.at(level)
    base = at.codes[:, 0].astype(int).tolist()
    if fmt.layout.bits == 4:
        rows = at.codes[:, 0].astype(int)
        base = [*(rows & 15).tolist(), *(rows >> 4).tolist()][: at.block]
    finer = 0
    codes = base
    for plane, bits in zip(at.planes, fmt.plane_bits, strict=False):
        count = 8 // bits
        column = plane[:, 0].astype(int)
        places = [int(one) >> (i * bits) & (2**bits - 1) for i in range(count) for one in column][: at.block]
        codes = [(code << bits) | place for code, place in zip(codes, places, strict=True)]
        finer += bits
    cell = Fraction(1, 2**finer)
    return [code * cell + (cell - Fraction(1, 2**fmt.grid_bits)) / 2 for code in codes], Fraction(float(at.step[0]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 9), kind=st.integers(0, 3))
def test_every_level_is_within_half_a_cell(name: str, ft: FloatType, seed: int, tokens: int, kind: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, 1))
    if kind == 1:
        x = x * ft.smallest_subnormal * 300
    elif kind == 2:
        x = 1.0 + x * 2.0**-ft.precision * 4
    elif kind == 3:
        x = np.sign(x) * ft.max
    original = round_nearest(x, ft)
    fmt, levels = FORMATS[name]
    encoded = fmt.encode(original)
    (minimum,) = (Fraction(float(one)) for one in encoded.minimum)
    for level in range(2):
        codes, step = exact_code(encoded, fmt, level)
        bound = Fraction(float(cell_ub(encoded.step.astype(np.float64), 4 * level, levels)[0]))
        for one, code in zip(original[:, 0].astype(np.float64), codes, strict=True):
            assert abs(Fraction(float(one)) - (minimum + step * code)) <= bound
        # that is what the format decodes: one rounding apart
        decoded = fmt.decode(encoded.at(level))[:, 0]
        assert [float(minimum + step * code) for code in codes] == decoded.tolist()


def test_a_level_is_worth_its_bits() -> None:
    step = np.array([2.0**-3])
    base, finer = cell_ub(step, 0, 255), cell_ub(step, 4, 255)
    # 2 (L + 1) 2^-24 = 2^-15: 16 times smaller but for that
    assert float(base[0]) == pytest.approx(2.0**-3 * (0.5 + 2.0**-15), rel=2.0**-48)
    assert float(finer[0]) == pytest.approx(2.0**-3 * (2.0**-5 + 2.0**-15), rel=2.0**-48)
    assert cell_ub(np.zeros(1), 4, 255)[0] == 0.0


def test_without_the_rounding_of_places_it_is_exceeded() -> None:
    """The defect: half a cell and nothing more. -2^-40 plus 1 is 1 in binary32, the end of a cell.

    With minimum -1 and step 2^-7 its code is 128 and its place the 8th of 16, whose middle is 2^-12; half a cell is
    2^-12 as well.
    """
    original = np.array([[-1.0], [127 / 128], [-(2.0**-40)]]).astype(BFLOAT16.dtype)
    encoded = planar.INT8_4.encode(original)
    codes, step = exact_code(encoded, planar.INT8_4, 1)
    assert (step, codes[2]) == (Fraction(1, 128), 128 + Fraction(1, 32))
    error = abs(Fraction(-1) + step * codes[2] + Fraction(1, 2**40))
    assert error > step / 32
    assert error <= Fraction(float(cell_ub(np.array(float(step)), 4, 255)))
