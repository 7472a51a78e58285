"""Bit by bit: the encoders against the scalar definition, and the real number that the stored bits mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

from .corners import CORNER_IDS, CORNERS, random_patterns
from .scalar_definition import GRIDS, affine, int8_paper

AnyArray = npt.NDArray[Any]
Rule = Callable[[Sequence[Fraction]], tuple[list[int], Fraction, Fraction]]

AFFINE: list[Format] = [f for f in {**VALUE_FORMATS, **KEY_FORMATS}.values() if f.name != "dense"]
every_format = pytest.mark.parametrize("fmt", AFFINE, ids=lambda f: f.name)
every_corner = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)

GROUP = {"int4-g16": 16, "int4-g32": 32, "int8-g64": 64}
LEVELS = {"int8-paper": 255, "int8": 255, "int8-g64": 255, "int4": 15, "int4-g16": 15, "int4-g32": 15}


def rule_of(fmt: Format, ft: FloatType) -> Rule:
    return int8_paper if fmt.name == "int8-paper" else lambda x: affine(x, LEVELS[fmt.name], GRIDS[ft.name])


def define(fmt: Format, block: AnyArray, ft: FloatType) -> tuple[list[list[int]], list[Any], list[Any]]:
    """Codes [B][d], step and minimum of one block [B, d] by the scalar definition, in the layout of the metadata."""
    tokens, channels = block.shape
    exact = [[Fraction(float(e)) for e in row] for row in block]
    codes = [[0] * channels for _ in range(tokens)]
    rule = rule_of(fmt, ft)
    if fmt.name not in GROUP:
        steps, minima = [Fraction(0)] * channels, [Fraction(0)] * channels
        for c in range(channels):
            column, steps[c], minima[c] = rule([exact[t][c] for t in range(tokens)])
            for t in range(tokens):
                codes[t][c] = column[t]
        return codes, steps, minima
    group = GROUP[fmt.name]
    starts = range(0, channels, group)
    step_rows: list[list[Fraction]] = [[] for _ in range(tokens)]
    minimum_rows: list[list[Fraction]] = [[] for _ in range(tokens)]
    for t in range(tokens):
        for start in starts:
            part, step, minimum = rule(exact[t][start : start + group])
            codes[t][start : start + group] = part
            step_rows[t].append(step)
            minimum_rows[t].append(minimum)
    return codes, step_rows, minimum_rows


def stored_codes(encoded: Encoded, bits: int) -> AnyArray:
    """Codes [..., B, d], unpacked by arithmetic that knows only the documented layout."""
    if bits == 8:
        return encoded.codes.astype(np.int64)
    half = -(-encoded.block // 2)
    rows = [encoded.codes[..., t % half, :].astype(np.int64) // 16 ** (t // half) % 16 for t in range(encoded.block)]
    return np.stack(rows, axis=-2)


def as_floats(exact: Any) -> AnyArray:
    return np.array([[float(e) for e in row] if isinstance(row, list) else float(row) for row in exact])


def assert_is_the_definition(fmt: Format, x: AnyArray, ft: FloatType) -> None:
    encoded = fmt.encode(x)
    codes = stored_codes(encoded, 4 if LEVELS[fmt.name] == 15 else 8)
    storage = np.dtype(np.float32) if fmt.name == "int8-paper" else ft.dtype
    assert encoded.step.dtype == encoded.minimum.dtype == storage
    for i in np.ndindex(x.shape[:-2]):
        want_codes, want_step, want_minimum = define(fmt, x[i], ft)
        assert codes[i].tolist() == want_codes
        # Equal as numbers and in the sign of zero, hence bit for bit.
        for stored, want in ((encoded.step[i], want_step), (encoded.minimum[i], want_minimum)):
            assert np.array_equal(stored.astype(np.float64), as_floats(want))
            assert not np.signbit(stored[stored == 0]).any()
        decoded = fmt.decode(encoded)[i]
        error = fmt.decode_error_ub(encoded)[i]
        per_element = define_meaning(want_codes, want_step, want_minimum, GROUP.get(fmt.name))
        for t, row in enumerate(per_element):
            for c, (meaning, step) in enumerate(row):
                off = abs(Fraction(decoded[t, c]) - meaning)
                assert off <= Fraction(2) ** -53 * min(abs(meaning), abs(Fraction(decoded[t, c])))
                assert off == Fraction(error[t, c])  # ours is not only a bound, it is exact
                assert_half_step(Fraction(float(x[i][t, c])) - meaning, step, LEVELS[fmt.name], fmt.name)


def define_meaning(
    codes: list[list[int]], step: list[Any], minimum: list[Any], group: int | None
) -> list[list[tuple[Fraction, Fraction]]]:
    """Return (minimum + step code, step) of every element, exactly."""
    rows = []
    for t, row in enumerate(codes):
        steps = step if group is None else [step[t][c // group] for c in range(len(row))]
        minima = minimum if group is None else [minimum[t][c // group] for c in range(len(row))]
        rows.append([(m + s * code, s) for code, s, m in zip(row, steps, minima, strict=True)])
    return rows


def assert_half_step(residual: Fraction, step: Fraction, levels: int, name: str) -> None:
    """Half a step, and what binary32 adds to a tie: the quotient, at most levels + 1 (129 if signed), is off by 2**-23.

    Derived in docs/formats/channel.md and docs/formats/int8_paper.md; it does not count on clamping.
    """
    largest = 129 if name == "int8-paper" else levels + 1
    assert abs(residual) <= step * (Fraction(1, 2) + largest * Fraction(2) ** -23)


@every_format
@every_corner
def test_corners(fmt: Format, ft: FloatType, name: str, x: AnyArray) -> None:
    assert_is_the_definition(fmt, x, ft)


@every_format
@pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 9),
    channels=st.integers(1, 40),
    spread=st.sampled_from(["bits", "gaussian", "offset", "grid"]),
)
def test_random_blocks(fmt: Format, ft: FloatType, seed: int, tokens: int, channels: int, spread: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, tokens, channels)
    if spread == "bits":
        x = random_patterns(rng, shape, ft)
    elif spread == "grid":  # many exact ties of the quotient
        x = (rng.integers(-256, 257, size=shape) / 2.0).astype(ft.dtype)
    else:
        scale = 2.0 ** rng.integers(-12, 12)
        offset = 0.0 if spread == "gaussian" else rng.standard_normal() * 8 * scale
        x = (offset + scale * rng.standard_normal(shape)).astype(ft.dtype)
    assert_is_the_definition(fmt, x, ft)


@every_format
@every_corner
def test_constant_groups_are_exact(fmt: Format, ft: FloatType, name: str, x: AnyArray) -> None:
    decoded = fmt.decode(fmt.encode(x))
    if name.startswith("constant,") or name in ("one element", "zeros", "negative zeros"):
        assert np.array_equal(decoded, x.astype(np.float64))
    if (name == "constant channel" or x.shape[-2] == 1) and fmt.name not in GROUP:
        assert np.array_equal(decoded, x.astype(np.float64))
    if name == "constant token" and fmt.name in GROUP:
        assert np.array_equal(decoded, x.astype(np.float64))


@every_format
@every_corner
def test_leading_axes_are_independent(fmt: Format, ft: FloatType, name: str, x: AnyArray) -> None:
    stacked = fmt.encode(np.stack([x, x[::-1] * ft.dtype.type(0.5)]))
    alone = fmt.encode(x)
    for whole, part in (
        (stacked.codes[0], alone.codes),
        (stacked.step[0], alone.step),
        (stacked.minimum[0], alone.minimum),
    ):
        assert whole.tobytes() == np.ascontiguousarray(part).tobytes()
    assert stacked.leading == (2, *alone.leading)
