"""Formats of several levels: bits of planes, the number that each level's codes mean, bytes; in rational arithmetic."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.errors import NonFiniteError, SettingError, ShapeError
from certkv.reference.formats import (
    KEY_FORMATS,
    PLANAR_KEY_FORMATS,
    PLANAR_VALUE_FORMATS,
    VALUE_FORMATS,
    Encoded,
    Format,
    PlanarFormat,
    concatenate,
    key_format,
    levels_of,
    plane_bytes,
    value_format,
)
from certkv.reference.formats.packing import pack4
from certkv.reference.formats.planes import divide, join, pack_plane, plane_rows, real_codes, unpack_plane
from certkv.reference.formats.registry import register
from certkv.reference.numbers import FloatType

from .corners import CORNER_IDS, CORNERS

AnyArray = npt.NDArray[Any]
ALL = list({**PLANAR_VALUE_FORMATS, **PLANAR_KEY_FORMATS}.values())
every_format = pytest.mark.parametrize("fmt", ALL, ids=lambda f: f.name)
every_corner = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
BASE = {
    "int8+4": KEY_FORMATS["int8"], "int4-g32+4": VALUE_FORMATS["int4-g32"], "int8-g64+4": VALUE_FORMATS["int8-g64"],
}  # fmt: skip
GROUP = {"int4-g32+4": 32, "int8-g64+4": 64}
BASE_BITS = {"int4+4": 4, "int8+4": 8, "int4-g32+4": 4, "int8-g64+4": 8}


def of_tokens(packed: AnyArray, bits: int, block: int) -> list[AnyArray]:
    """One array per token, unpacked by arithmetic that knows only the documented layout."""
    rows = -(-block * bits // 8)
    return [packed[..., t % rows, :].astype(np.int64) // 2 ** (bits * (t // rows)) % 2**bits for t in range(block)]


def meaning(fmt: Format, encoded: Encoded, index: tuple[int, ...], t: int, c: int) -> Fraction:
    """The number that the stored bits of one element mean, from the documented layout and formula alone."""
    bits = BASE_BITS[fmt.name]
    code = int(of_tokens(encoded.codes, bits, encoded.block)[t][(*index, c)])
    finer = 0
    for plane in encoded.planes:
        code = 16 * code + int(of_tokens(plane, 4, encoded.block)[t][(*index, c)])
        finer += 4
    cell = Fraction(1, 2**finer)
    # int4+4: the last level, 4 bits finer, lies on grid points; the others: the base
    grid = Fraction(1, 16) if fmt.name == "int4+4" else Fraction(1)
    place = (t, c // GROUP[fmt.name]) if fmt.name in GROUP else (c,)
    step, minimum = (Fraction(float(x[(*index, *place)])) for x in (encoded.step, encoded.minimum))
    return minimum + step * (code * cell + (cell - grid) / 2)


@every_format
@every_corner
def test_every_level_means_what_is_written(fmt: PlanarFormat, ft: FloatType, name: str, x: AnyArray) -> None:
    """Decoded within one rounding of the documented number, and the stated error is that rounding exactly."""
    whole = fmt.encode(x)
    assert whole.level == len(fmt.plane_bits) == levels_of(fmt) - 1
    for level in range(levels_of(fmt)):
        encoded = whole.at(level)
        decoded, error = fmt.decode(encoded), fmt.decode_error_ub(encoded)
        rng = np.random.default_rng(level)
        for _ in range(40):
            *index, t, c = (int(rng.integers(n)) for n in x.shape)
            want = meaning(fmt, encoded, tuple(index), t, c)
            off = abs(Fraction(float(decoded[(*index, t, c)])) - want)
            assert off <= Fraction(2) ** -53 * abs(want)
            assert off == Fraction(float(error[(*index, t, c)]))


@every_format
@every_corner
def test_a_level_is_at_most_half_its_cell_away(fmt: PlanarFormat, ft: FloatType, name: str, x: AnyArray) -> None:
    """A cell of level l is ``step 2**-F_l`` wide, its number in the middle: half of it, and what FP32 moves an edge by.

    The quotient is at most 256.01 and off by 2**-22 of itself (a difference and a quotient); that is what an edge may
    lie off. On the level whose codes are grid points there is a tie's rounding instead, of the same size.
    """
    whole = fmt.encode(x)
    for level in range(levels_of(fmt)):
        finer = sum(fmt.plane_bits[:level])
        decoded = fmt.decode(whole.at(level))
        slack = fmt.decode_error_ub(whole.at(level))
        step = whole.step.astype(np.float64)
        wide = step[..., None, :] if fmt.name not in GROUP else step[..., np.arange(x.shape[-1]) // GROUP[fmt.name]]
        allowed = wide * (2.0**-finer / 2 + 256.01 * 2.0**-22) * (1 + 2.0**-50) + slack
        assert (np.abs(decoded - x.astype(np.float64)) <= allowed).all()


@pytest.mark.parametrize("planar", sorted(BASE))
@every_corner
def test_the_base_of_a_refined_format_is_that_format(planar: str, ft: FloatType, name: str, x: AnyArray) -> None:
    fmt, plain = value_format(planar), BASE[planar]
    ours, theirs = fmt.encode(x).at(0), plain.encode(x)
    for one, other in ((ours.codes, theirs.codes), (ours.step, theirs.step), (ours.minimum, theirs.minimum)):
        assert one.tobytes() == other.tobytes()
    assert fmt.decode(ours).tobytes() == plain.decode(theirs).tobytes()
    assert fmt.bytes_per_block(7, 20) == plain.bytes_per_block(7, 20)


@every_corner
def test_the_last_level_of_a_divided_format_is_the_whole_format(ft: FloatType, name: str, x: AnyArray) -> None:
    """Both nibbles of `int4+4` are the codes of `int8`, bit for bit, and mean the same numbers."""
    fmt, plain = key_format("int4+4"), KEY_FORMATS["int8"]
    ours, theirs = fmt.encode(x), plain.encode(x)
    high, low = (np.stack(of_tokens(p, 4, ours.block), axis=-2) for p in (ours.codes, ours.planes[0]))
    np.testing.assert_array_equal(16 * high + low, theirs.codes)
    np.testing.assert_array_equal(ours.step.astype(np.float64), 16.0 * theirs.step.astype(np.float64))
    assert fmt.decode(ours).tobytes() == plain.decode(theirs).tobytes()


@given(
    st.integers(1, 33), st.integers(1, 5), st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_planes_are_put_together_as_they_were_taken_apart(block: int, d: int, bits: list[int], seed: int) -> None:
    """Every prefix of the planes gives the top bits of the code; the rest of the byte after the last token is 0."""
    codes = np.random.default_rng(seed).integers(0, 2 ** (4 + sum(bits)), (2, block, d))
    base, planes = divide(codes, bits)
    for level in range(len(bits) + 1):
        left = sum(bits[level:])
        np.testing.assert_array_equal(join(base, planes[:level], bits, block), codes >> left)
    for plane, b in zip(planes, bits, strict=True):
        assert plane.shape == (2, plane_rows(block, b), d)
        np.testing.assert_array_equal(unpack_plane(plane, b, block), np.stack(of_tokens(plane, b, block), axis=-2))
        total = sum(int(x.sum()) << (b * (t // plane_rows(block, b))) for t, x in enumerate(of_tokens(plane, b, block)))
        assert int(plane.astype(np.int64).sum()) == total, "bits beyond the last token"


def test_four_bits_are_packed_as_ever() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (3, 7, 5)).astype(np.uint8)
    assert pack_plane(codes, 4).tobytes() == pack4(codes).tobytes()


def test_codes_of_levels_by_hand() -> None:
    """Base code 5 of a refined format, then plane bits 3 of 2 and 9 of 4: 5, 5 + 3/8, 5 + 3/8 + 3/128."""
    # cells of the base: [4.5, 5.5]; its fourth quarter is [5.25, 5.5], centre 5.375; of that the tenth sixteenth is
    # [5.25 + 9/64, 5.25 + 10/64], centre 5.25 + 19/128 = 5.3984375
    assert real_codes(np.array([5]), 0, 0)[0] == 5.0
    assert real_codes(np.array([5 * 4 + 3]), 2, 0)[0] == 5.375
    assert real_codes(np.array([(5 * 4 + 3) * 16 + 9]), 6, 0)[0] == 5.3984375
    # code 0xA7 = 167 of a divided format, whose finest codes are grid points: 167/16, and the cell of 0xA holds the
    # codes 160 to 175, centre 167.5/16
    assert real_codes(np.array([167]), 4, 4)[0] == 167 / 16
    assert real_codes(np.array([10]), 0, 4)[0] == 167.5 / 16


@every_format
def test_bytes_are_what_is_stored(fmt: PlanarFormat) -> None:
    for block, d in ((64, 128), (7, 20), (1, 1)):
        encoded = fmt.encode(np.random.default_rng(0).standard_normal((2, block, d)).astype(np.float16))
        base = encoded.codes.nbytes + encoded.step.nbytes + encoded.minimum.nbytes
        assert base == 2 * fmt.bytes_per_block(block, d)
        assert tuple(plane.nbytes for plane in encoded.planes) == tuple(2 * n for n in plane_bytes(fmt, block, d))
    assert plane_bytes(fmt, 64, 128) == (64 * 64,)  # half a byte per element
    assert plane_bytes(KEY_FORMATS["int8"], 64, 128) == ()


@every_format
def test_take_and_concatenate_keep_planes_beside_their_codes(fmt: PlanarFormat) -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 5, 20)).astype(np.float16)
    whole = fmt.encode(x)
    for part, of in (
        (whole.take(1), x[1]),
        (whole.take((slice(None), [0, 2])), x[:, [0, 2]]),
        (concatenate([whole.take(slice(0, 1)), whole.take(slice(1, 3))]), x),
    ):
        alone = fmt.encode(of)
        assert [p.tobytes() for p in part.planes] == [p.tobytes() for p in alone.planes]
        assert part.codes.tobytes() == alone.codes.tobytes()
    with pytest.raises(ShapeError, match="part 1"):
        concatenate([whole, whole.at(0)])
    with pytest.raises(SettingError, match="give 0 to 1"):
        whole.at(2)


@every_format
def test_bad_originals_and_taken_names_are_refused(fmt: PlanarFormat) -> None:
    x = np.ones((2, 5, 20), np.float16)
    x[1, 3, 7] = np.inf
    with pytest.raises(NonFiniteError) as caught:
        fmt.encode(x)
    assert caught.value.position == (1, 3, 7)
    with pytest.raises(SettingError, match="already a format"):
        register(fmt)


def test_the_kinds() -> None:
    kinds = {name: type(f).__name__ for name, f in {**PLANAR_VALUE_FORMATS, **PLANAR_KEY_FORMATS}.items()}
    refined = {"int8+4": "Refined", "int4-g32+4": "Refined", "int8-g64+4": "Refined"}
    assert kinds == {"int4+4": "Divided", **refined}
    assert set(PLANAR_KEY_FORMATS) == {"int4+4", "int8+4"}
    assert all(f.default_block == 64 for f in ALL)
    assert not isinstance(KEY_FORMATS["int8"], PlanarFormat)


def test_planes_that_would_lose_bits_are_refused() -> None:
    fmt = PLANAR_KEY_FORMATS["int8+4"]
    for bits, message in (((3,), "a plane of 3 bits"), ((8, 8, 8, 1), "25 bits in all; give at most 24")):
        with pytest.raises(SettingError, match=message):
            replace(fmt, plane_bits=bits)  # type: ignore[type-var]
    x = np.array([[[-1.0], [0.5], [2.0**-13], [1.0]]], np.float16)
    fine = replace(fmt, plane_bits=(8, 8, 8))  # type: ignore[type-var]
    encoded = fine.encode(x)
    step = float(encoded.step[0, 0])
    # half a cell of 2^-24 steps, and places that are off by 2 (L + 1) v steps (`planes.place`)
    assert np.abs(fine.decode(encoded) - x.astype(np.float64)).max() <= step * (2.0**-25 + 2 * 256 * 2.0**-24)
