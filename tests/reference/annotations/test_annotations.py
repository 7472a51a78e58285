"""Every annotation against exact norms: never on the wrong side, and no looser than its roundings."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference.annotations import KeyAnnotations, ValueAnnotations, annotate_keys, annotate_values
from certkv.reference.annotations.log_codes import CODES, MANTISSAS
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers import BFLOAT16, FloatType

from ..formats.corners import CORNER_IDS, CORNERS, TYPES, random_patterns
from .exact import (
    LARGEST,
    SMALLEST,
    check_lower,
    check_operator,
    check_upper,
    exact_blocks,
    exact_meaning,
    mean_norm,
    operator_at_most,
    quotients,
    squared_norms,
)

AnyArray = npt.NDArray[Any]

keys = pytest.mark.parametrize("fmt", KEY_FORMATS.values(), ids=lambda f: f.name)
values = pytest.mark.parametrize("fmt", VALUE_FORMATS.values(), ids=lambda f: f.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)


def assert_keys_hold(fmt: Format, x: AnyArray) -> None:
    encoded = fmt.encode(x)
    annotations = annotate_keys(x, encoded, fmt)
    assert annotations.leading == x.shape[:-2]
    for array in annotations.arrays().values():
        assert array.dtype == BFLOAT16.dtype
    for i in np.ndindex(x.shape[:-2]):
        original, meaning, steps = exact_blocks(x[i]), *exact_meaning(encoded.take(i))
        if encoded.format_name == "dense":
            steps = np.full(original.shape, Fraction(1))
        relative = quotients(original - meaning, steps)
        # The charge for decoding is at most 2u |k_hat| per element, here in units of a step.
        cells = zip(meaning.ravel(), steps.ravel(), strict=True)
        charged = max((float(abs(m) / step) for m, step in cells if step), default=0.0) * 2.0**-52
        check_upper(annotations.relative_max_ub[i], max(abs(r) for r in relative.ravel()) ** 2, charged)
        norm = charged * math.sqrt(x.shape[-1])
        check_upper(annotations.relative_norm_ub[i], max(squared_norms(relative)), norm)
        check_operator(annotations.relative_operator_ub[i], relative, 4 * norm * math.sqrt(len(original)))
        check_upper(annotations.decoded_norm_ub[i], max(squared_norms(meaning)), 0.0)


def check_codes(codes: AnyArray, maximum: Any, exact: list[Fraction], charged: float) -> AnyArray:
    """Every token's bound is at least its norm, and at most one code above; returns the bounds, [B, 1]."""
    largest = Fraction(float(maximum))
    stored = [largest * int(MANTISSAS[c % 8]) / 2 ** (16 + c // 8) for c in codes.tolist()]
    for squared, code, bound in zip(exact, codes.tolist(), stored, strict=True):
        assert bound**2 >= squared
        # codes are 2^(1/8) apart, and 1 + 2^-15 because their mantissas are rounded up; 2^-40 is float64 work
        shaved = bound / Fraction(2 ** (1 / 8) * (1 + 2.0**-15) * (1 + 2.0**-40)) - Fraction(charged)
        assert code == CODES - 1 or shaved <= 0 or shaved**2 <= squared
    return np.array(stored, dtype=object)[:, None]


def check_tokens(maximum: Any, codes: AnyArray, operator: Any, rows: AnyArray, charged: float) -> None:
    """A block's largest norm, the log codes of its tokens, and the operator norm relative to these."""
    exact = squared_norms(rows)
    check_upper(maximum, max(exact), charged)
    if np.isinf(maximum):
        assert not codes.any()
        return
    # where even the largest norm is far below the smallest number, its code is not 0 either
    tiny = max(exact) < SMALLEST**2
    unit = check_codes(codes, maximum, exact, charged)
    relative = quotients(rows, np.broadcast_to(unit, rows.shape))
    slack = max((charged / float(u) for u in unit.ravel() if u), default=0.0) if charged else 0.0
    if tiny:
        assert operator_at_most(relative, Fraction(float(operator)))
    else:
        check_operator(operator, relative, 4 * slack * math.sqrt(len(rows)))


def assert_values_hold(fmt: Format, x: AnyArray, anchor: npt.NDArray[np.float64]) -> None:
    encoded = fmt.encode(x)
    annotations = annotate_values(x, encoded, fmt, anchor)
    assert annotations.leading == x.shape[:-2]
    for name, array in annotations.arrays().items():
        assert array.dtype == (np.uint8 if name.endswith("_codes") else BFLOAT16.dtype)
        assert not np.isnan(array.astype(np.float64)).any()
    mu = np.broadcast_to(anchor, (*x.shape[:-2], x.shape[-1]))
    for i in np.ndindex(x.shape[:-2]):
        original, meaning = exact_blocks(x[i]), exact_meaning(encoded.take(i))[0]
        one = annotations.take(i)
        err = 2 * math.sqrt(x.shape[-1]) * float(np.max(fmt.decode_error_ub(encoded)[i]))
        check_tokens(
            one.residual_norm_ub, one.residual_codes, one.residual_operator_ub, original - meaning, charged=err
        )
        check_tokens(
            one.anchored_norm_ub,
            one.anchored_codes,
            one.anchored_operator_ub,
            original - exact_blocks(mu[i]),
            charged=0.0,
        )
        check_upper(one.decoded_norm_ub, max(squared_norms(meaning)), 0.0)
        check_upper(one.norm_ub, max(squared_norms(original)), 0.0)
        check_lower(one.mean_norm_lb, mean_norm(original))


@keys
@corners
def test_keys_at_the_corners(fmt: Format, ft: FloatType, name: str, x: AnyArray) -> None:
    assert_keys_hold(fmt, x)


@values
@corners
def test_values_at_the_corners(fmt: Format, ft: FloatType, name: str, x: AnyArray) -> None:
    anchor = np.mean(x.astype(np.float64), axis=-2)
    assert_values_hold(fmt, x, anchor)


random_block = given(
    seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 9), channels=st.integers(1, 33), bits=st.booleans()
)


def draw(seed: int, tokens: int, channels: int, bits: bool, ft: FloatType) -> AnyArray:
    rng = np.random.default_rng(seed)
    if bits:
        return random_patterns(rng, (1, tokens, channels), ft)
    scale = 2.0 ** rng.integers(-10, 10)
    return np.asarray((scale * (rng.standard_normal((1, tokens, channels)) + rng.integers(-8, 9))).astype(ft.dtype))


@keys
@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@settings(max_examples=50, deadline=None)
@random_block
def test_keys_of_random_blocks(fmt: Format, ft: FloatType, seed: int, tokens: int, channels: int, bits: bool) -> None:
    assert_keys_hold(fmt, draw(seed, tokens, channels, bits, ft))


@values
@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
@settings(max_examples=50, deadline=None)
@random_block
def test_values_of_random_blocks(fmt: Format, ft: FloatType, seed: int, tokens: int, channels: int, bits: bool) -> None:
    x = draw(seed, tokens, channels, bits, ft)
    # An anchor that is no 16-bit number, so that the difference rounds.
    anchor = np.random.default_rng(seed).standard_normal(channels) * float(np.max(np.abs(x.astype(np.float64)))) / 3
    assert_values_hold(fmt, x, anchor)


def test_norms_beyond_the_range_are_infinite_above_and_finite_below() -> None:
    ft = TYPES[1]
    x = np.full((1, 4, 128), ft.max).astype(ft.dtype)
    fmt = VALUE_FORMATS["int4-g32"]
    annotations = annotate_values(x, fmt.encode(x), fmt, np.zeros(128))
    assert annotations.norm_ub[0] == np.inf
    assert annotations.mean_norm_lb[0] == LARGEST
    assert annotations.residual_norm_ub[0] == 0.0


def test_dense_has_no_residual() -> None:
    x = np.random.default_rng(3).standard_normal((2, 5, 20)).astype(np.float16)
    dense = KEY_FORMATS["dense"]
    key, value = annotate_keys(x, dense.encode(x), dense), annotate_values(x, dense.encode(x), dense, np.zeros(20))
    assert not key.relative_max_ub.any()
    assert not key.relative_norm_ub.any()
    assert not key.relative_operator_ub.any()
    assert not value.residual_norm_ub.any()
    assert not value.residual_operator_ub.any()
    assert not value.token_residuals_ub().any()


Annotate = Callable[[AnyArray, Encoded, Format], KeyAnnotations | ValueAnnotations]


def annotate_values_at_zero(x: AnyArray, encoded: Encoded, fmt: Format) -> ValueAnnotations:
    return annotate_values(x, encoded, fmt, np.zeros(x.shape[-1]))


@pytest.mark.parametrize("annotate", [annotate_keys, annotate_values_at_zero])
def test_take_and_concatenate(annotate: Annotate) -> None:
    x = np.random.default_rng(4).standard_normal((3, 2, 5, 20)).astype(np.float16)
    fmt = KEY_FORMATS["int8"]
    whole = annotate(x, fmt.encode(x), fmt)
    part: Any = annotate(x[1:, 0], fmt.encode(x[1:, 0]), fmt)
    taken: Any = whole.take((slice(1, None), 0))
    again: Any = type(whole).concatenate([whole.take(slice(0, 1)), whole.take([1, 2])])  # type: ignore[list-item]
    for name, array in whole.arrays().items():
        assert np.array_equal(taken.arrays()[name], part.arrays()[name])
        assert np.array_equal(again.arrays()[name], array)
    assert whole.bytes_per_block(5) * 6 == whole.nbytes
