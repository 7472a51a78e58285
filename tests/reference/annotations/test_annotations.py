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
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers import FloatType

from ..formats.corners import CORNER_IDS, CORNERS, TYPES, random_patterns
from .exact import (
    LARGEST_FLOAT32,
    check_lower,
    check_upper,
    exact_blocks,
    exact_meaning,
    mean_norm,
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
        assert array.dtype == np.float32
    for i in np.ndindex(x.shape[:-2]):
        original, meaning, steps = exact_blocks(x[i]), *exact_meaning(encoded.take(i))
        residual = original - meaning
        err = 2 * math.sqrt(x.shape[-1]) * float(np.max(fmt.decode_error_ub(encoded)[i]))
        check_upper(annotations.residual_norm_ub[i], max(squared_norms(residual)), err)
        check_upper(annotations.decoded_norm_ub[i], max(squared_norms(meaning)), 0.0)
        check_upper(annotations.norm_ub[i], max(squared_norms(original)), 0.0)
        cells = list(zip(residual.ravel(), meaning.ravel(), steps.ravel(), strict=True))
        assert all(r == 0 for r, _, step in cells if not step)
        worst = max((abs(r) / step for r, _, step in cells if step), default=Fraction(0))
        # The charge for decoding is at most 2u |k_hat| per element, here in units of a step.
        charged = max((float(abs(m) / step) for _, m, step in cells if step), default=0.0) * 2.0**-52
        check_upper(annotations.relative_max_ub[i], worst**2, charged)


def assert_values_hold(fmt: Format, x: AnyArray, anchor: npt.NDArray[np.float64]) -> None:
    encoded = fmt.encode(x)
    annotations = annotate_values(x, encoded, fmt, anchor)
    assert annotations.leading == x.shape[:-2]
    for array in annotations.arrays().values():
        assert array.dtype == np.float32
        assert not np.isnan(array).any()
    mu = np.broadcast_to(anchor, (*x.shape[:-2], x.shape[-1]))
    for i in np.ndindex(x.shape[:-2]):
        original, meaning = exact_blocks(x[i]), exact_meaning(encoded.take(i))[0]
        err = 2 * math.sqrt(x.shape[-1]) * float(np.max(fmt.decode_error_ub(encoded)[i]))
        check_upper(annotations.residual_norm_ub[i], max(squared_norms(original - meaning)), err)
        check_upper(annotations.decoded_norm_ub[i], max(squared_norms(meaning)), 0.0)
        check_upper(annotations.norm_ub[i], max(squared_norms(original)), 0.0)
        check_upper(annotations.anchored_norm_ub[i], max(squared_norms(original - exact_blocks(mu[i]))), 0.0)
        check_lower(annotations.mean_norm_lb[i], mean_norm(original))


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


def test_norms_beyond_float32_are_infinite_above_and_finite_below() -> None:
    ft = TYPES[1]
    x = np.full((1, 4, 128), ft.max).astype(ft.dtype)
    fmt = VALUE_FORMATS["int4-g32"]
    annotations = annotate_values(x, fmt.encode(x), fmt, np.zeros(128))
    assert annotations.norm_ub[0] == np.inf
    assert annotations.mean_norm_lb[0] == LARGEST_FLOAT32
    assert annotations.residual_norm_ub[0] == 0.0


def test_dense_has_no_residual() -> None:
    x = np.random.default_rng(3).standard_normal((2, 5, 20)).astype(np.float16)
    dense = KEY_FORMATS["dense"]
    key, value = annotate_keys(x, dense.encode(x), dense), annotate_values(x, dense.encode(x), dense, np.zeros(20))
    assert not key.relative_max_ub.any()
    assert not key.residual_norm_ub.any()
    assert not value.residual_norm_ub.any()


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
    assert whole.bytes_per_block() == 4 * len(whole.arrays())
