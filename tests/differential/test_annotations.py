"""What twin and kernel measure, against exact rational norms and against the reference."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.fast.anchor import first_block_mean
from certkv.fast.formats import VALUE_FORMATS as FAST_VALUES
from certkv.fast.log_codes import ratios
from certkv.fast.pool import KEY_NOTES, KEYS, VALUE_NOTES, VALUES, Pool
from certkv.reference.annotations import KeyAnnotations, ValueAnnotations, annotate_keys, annotate_values
from certkv.reference.annotations.log_codes import RATIOS
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format
from certkv.reference.numbers import BFLOAT16, FloatType

from ..reference.annotations.exact import (
    check_lower,
    check_operator,
    check_upper,
    exact_blocks,
    exact_meaning,
    mean_norm,
    quotients,
    squared_norms,
)
from ..reference.annotations.test_annotations import check_tokens
from ..reference.formats.corners import CORNER_IDS, CORNERS, TYPES
from .bridge import INTERPRETED_KERNELS, AnyArray, bits, to_torch
from .encoded import (
    KEYS_WITH,
    PAGE,
    anchor_of,
    as_blocks,
    assert_stored_is_reference,
    encode_with_kernel,
    encode_with_twin,
)
from .formats.shared import draw

pytestmark = INTERPRETED_KERNELS

paths = pytest.mark.parametrize("encode", [encode_with_twin, encode_with_kernel], ids=["twin", "kernel"])
formats = pytest.mark.parametrize("values", ["int8", "int4", "int4-g32", "int8-g64"])
types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)


def key_annotations(pool: Pool, n: int) -> KeyAnnotations:
    notes = bits(pool.key_notes)[PAGE : PAGE + n].view(BFLOAT16.dtype)
    return KeyAnnotations(**{name: notes[..., i] for i, name in enumerate(KEY_NOTES)})


def value_annotations(pool: Pool, n: int) -> ValueAnnotations:
    inside = slice(PAGE, PAGE + n)
    notes = bits(pool.value_notes)[inside].view(BFLOAT16.dtype)
    codes = {name: bits(getattr(pool, name))[inside] for name in ("residual_codes", "anchored_codes")}
    return ValueAnnotations(**{name: notes[..., i] for i, name in enumerate(VALUE_NOTES)}, **codes)


def judge_keys(x: AnyArray, encoded: Encoded, annotations: KeyAnnotations) -> None:
    """Every scalar is at least the exact norm, and above it by no more than its roundings."""
    for i in np.ndindex(x.shape[:-2]):
        original, meaning, steps = exact_blocks(x[i]), *exact_meaning(encoded.take(i))
        relative = quotients(original - meaning, steps)
        # the charge for decoding is at most 2u |k_hat| per element, here in units of a step
        cells = zip(meaning.ravel(), steps.ravel(), strict=True)
        charged = max((float(abs(m) / step) for m, step in cells if step), default=0.0) * 2.0**-52
        norm = charged * math.sqrt(x.shape[-1])
        check_upper(annotations.relative_max_ub[i], max(abs(r) for r in relative.ravel()) ** 2, charged)
        check_upper(annotations.relative_norm_ub[i], max(squared_norms(relative)), norm)
        check_operator(annotations.relative_operator_ub[i], relative, 4 * norm * math.sqrt(len(original)))
        check_upper(annotations.decoded_norm_ub[i], max(squared_norms(meaning)), 0.0)


def judge_values(x: AnyArray, encoded: Encoded, fmt: Format, annotations: ValueAnnotations, mu: AnyArray) -> None:
    """As `judge_keys`; tokens' codes by what they mean."""
    for i in np.ndindex(x.shape[:-2]):
        original, meaning = exact_blocks(x[i]), exact_meaning(encoded.take(i))[0]
        one = annotations.take(i)
        err = 2 * math.sqrt(x.shape[-1]) * float(np.max(fmt.decode_error_ub(encoded)[i]))
        apart = original - exact_blocks(mu[i])
        check_tokens(one.residual_norm_ub, one.residual_codes, one.residual_operator_ub, original - meaning, err)
        check_tokens(one.anchored_norm_ub, one.anchored_codes, one.anchored_operator_ub, apart, 0.0)
        check_upper(one.decoded_norm_ub, max(squared_norms(meaning)), 0.0)
        check_upper(one.norm_ub, max(squared_norms(original)), 0.0)
        check_lower(one.mean_norm_lb, mean_norm(original))


def judge_sizes(pool: Pool, side: int, levels: float, encoded: Encoded | None) -> None:
    """Above the norm of the sizes of channels by no more than its roundings; 0 for values with groups."""
    sizes = pool.sizes[PAGE:-1, :, side].double().numpy()
    if encoded is None:
        assert (sizes == 0.0).all()
        return
    for i in np.ndindex(sizes.shape):
        one = encoded.take(i)
        minima, steps = exact_blocks(one.minimum[None])[0], exact_blocks(one.step[None])[0]
        square = sum((abs(m) + Fraction(levels) * s) ** 2 for m, s in zip(minima, steps, strict=True))
        found = Fraction(float(sizes[i])) if math.isfinite(sizes[i]) else Fraction(2) ** 128
        assert found**2 >= square or math.isinf(sizes[i])
        # one rounding up to FP32, whose numbers are at most 2^-23 apart or 2^-149, and roundings of float64
        below = max(found - Fraction(2) ** -149, Fraction(0))
        assert below**2 <= square * (1 + Fraction(2) ** -21) or math.isinf(sizes[i])


def judge(encode: Any, x: AnyArray, ft: FloatType, values: str) -> None:
    anchor = anchor_of(x)
    pool = encode(x, ft, values, anchor)
    assert_stored_is_reference(pool, x, values)
    fmt = VALUE_FORMATS[values]
    measured = value_annotations(pool, len(x))
    for array in measured.arrays().values():
        assert not np.isnan(array.astype(np.float64)).any()
    encoded = fmt.encode(x)
    judge_values(x, encoded, fmt, measured, anchor.numpy().astype(np.float64))
    kind = FAST_VALUES[values]
    judge_sizes(pool, VALUES, 2.0**kind.bits - 1.0, None if kind.group else encoded)
    if values == KEYS_WITH:
        judge_keys(x, KEY_FORMATS["int8"].encode(x), key_annotations(pool, len(x)))
        judge_sizes(pool, KEYS, 256.0, KEY_FORMATS["int8"].encode(x))


@paths
@formats
@corners
def test_exactly_at_the_corners(encode: Any, values: str, ft: FloatType, name: str, x: AnyArray) -> None:
    judge(encode, as_blocks(x), ft, values)


@paths
@formats
@types
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 9), head_dim=st.integers(1, 33))
def test_exactly_on_drawn_blocks(encode: Any, values: str, ft: FloatType, seed: int, block: int, head_dim: int) -> None:
    judge(encode, draw(seed, (1, 1, block, head_dim), ft), ft, values)


def same_but_for_rounding(mine: AnyArray, theirs: AnyArray) -> None:
    """Equal, or neighbours in bfloat16.

    Both are within 2^-30 of the same exact number before they are rounded up (norms of 2^14 numbers at most), so they
    differ only where a bfloat16 number lies between the two.
    """
    apart = np.abs(mine.view(np.uint16).astype(int) - theirs.view(np.uint16).astype(int))
    assert apart.max(initial=0) <= 1


@paths
@formats
@types
@pytest.mark.parametrize(("block", "head_dim"), [(16, 8), (16, 80), (64, 128), (33, 96), (128, 192)])
def test_as_the_reference_at_the_shapes(encode: Any, values: str, ft: FloatType, block: int, head_dim: int) -> None:
    x = draw(7 * block + head_dim, (2, 1, block, head_dim), ft)
    anchor = anchor_of(x)
    pool = encode(x, ft, values, anchor)
    fmt = VALUE_FORMATS[values]
    theirs = annotate_values(x, fmt.encode(x), fmt, anchor.numpy().astype(np.float64))
    mine = value_annotations(pool, len(x))
    for name, array in theirs.arrays().items():
        if not name.endswith("_codes"):
            same_but_for_rounding(mine.arrays()[name], array)
    # the largest code whose meaning is at least the norm, which both know to within 2^-40
    for name, largest in (("residual_codes", "residual_norm_ub"), ("anchored_codes", "anchored_norm_ub")):
        apart = mine.arrays()[name].astype(int) - theirs.arrays()[name].astype(int)
        same = mine.arrays()[largest].view(np.uint16) == theirs.arrays()[largest].view(np.uint16)
        assert np.abs(apart[same]).max(initial=0) <= 1
    if values == KEYS_WITH:
        key_fmt = KEY_FORMATS["int8"]
        keys = annotate_keys(x, key_fmt.encode(x), key_fmt)
        for name, array in keys.arrays().items():
            same_but_for_rounding(key_annotations(pool, len(x)).arrays()[name], array)


@types
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 70), head_dim=st.integers(2, 40))
def test_anchor_is_the_mean_of_the_reference(ft: FloatType, seed: int, block: int, head_dim: int) -> None:
    """Bit for bit, as the reference's cache forms it."""
    values = draw(seed, (3, block, head_dim), ft)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float64).mean(axis=1).astype(np.float32)
    np.testing.assert_array_equal(bits(first_block_mean(to_torch(values, ft))), expected.view(np.uint32))


def test_meanings_of_codes_are_those_of_the_reference() -> None:
    np.testing.assert_array_equal(ratios(torch.device("cpu")).numpy(), RATIOS)
