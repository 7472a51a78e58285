"""Every value format, and `int8` keys: codes and metadata of twin and kernel equal the reference bit for bit.

Kernels meet the corners in test_annotations.py, where what they store is judged as well.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.fast.formats import VALUE_FORMATS as FAST_VALUES
from certkv.reference.formats import VALUE_FORMATS
from certkv.reference.numbers import FloatType

from ...reference.formats.corners import CORNER_IDS, CORNERS, TYPES
from ..bridge import INTERPRETED_KERNELS, AnyArray, to_torch
from ..encoded import anchor_of, as_blocks, assert_stored_is_reference, encode_with_kernel, encode_with_twin
from .shared import INTERPRETED, SHAPES, draw

pytestmark = INTERPRETED_KERNELS

formats = pytest.mark.parametrize("values", ["int8", "int4", "int4-g32", "int8-g64"])
types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)


@formats
@corners
def test_twin_at_the_corners(values: str, ft: FloatType, name: str, x: AnyArray) -> None:
    x = as_blocks(x)
    assert_stored_is_reference(encode_with_twin(x, ft, values, anchor_of(x)), x, values)


@formats
@types
@pytest.mark.parametrize(("block", "head_dim"), SHAPES)
def test_twin_at_every_shape(values: str, ft: FloatType, block: int, head_dim: int) -> None:
    x = draw(block * head_dim, (2, 2, block, head_dim), ft)
    assert_stored_is_reference(encode_with_twin(x, ft, values, anchor_of(x)), x, values)


@formats
@types
@pytest.mark.parametrize(("block", "head_dim"), INTERPRETED)
def test_kernel_at_the_shapes(values: str, ft: FloatType, block: int, head_dim: int) -> None:
    x = draw(block + head_dim, (1, 2, block, head_dim), ft)
    assert_stored_is_reference(encode_with_kernel(x, ft, values, anchor_of(x)), x, values)


@formats
@types
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 40), head_dim=st.integers(1, 130))
def test_twin_on_drawn_blocks(values: str, ft: FloatType, seed: int, block: int, head_dim: int) -> None:
    x = draw(seed, (1, 2, block, head_dim), ft)
    assert_stored_is_reference(encode_with_twin(x, ft, values, anchor_of(x)), x, values)


@formats
@types
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), block=st.sampled_from((1, 15, 16)), head_dim=st.sampled_from((8, 40)))
def test_kernel_on_drawn_blocks(values: str, ft: FloatType, seed: int, block: int, head_dim: int) -> None:
    x = draw(seed, (2, 1, block, head_dim), ft)
    assert_stored_is_reference(encode_with_kernel(x, ft, values, anchor_of(x)), x, values)


@formats
@corners
def test_meaning(values: str, ft: FloatType, name: str, x: AnyArray) -> None:
    """The decoded float64 number and the error of its rounding are those of the reference."""
    reference, fast = VALUE_FORMATS[values], FAST_VALUES[values]
    encoded = reference.encode(x)
    block = x.shape[-2]
    mine = fast.encode(to_torch(x, ft))
    decoded, err = fast.decode(mine, block)
    np.testing.assert_array_equal(decoded.numpy(), reference.decode(encoded))
    np.testing.assert_array_equal(err.numpy(), reference.decode_error_ub(encoded))
