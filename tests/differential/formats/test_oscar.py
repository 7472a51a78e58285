"""OScaR's kin: what twin and kernels store is the reference's bit for bit, and what they measure holds exactly."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.fast import encode
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, OscarKeys, OscarValues
from certkv.fast.kernels.encode_oscar_keys import encode_oscar_keys
from certkv.fast.kernels.encode_oscar_values import encode_oscar_values
from certkv.fast.pool import KEY_NOTES, VALUE_NOTES, Pool, allocate
from certkv.reference.annotations import KeyAnnotations, ValueAnnotations, annotate_keys, annotate_values
from certkv.reference.formats import Encoded
from certkv.reference.formats.oscar_family import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS
from certkv.reference.formats.planes import unpack_plane
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

from ...reference.annotations.exact import check_operator, check_upper, exact_blocks, squared_norms
from ...reference.annotations.test_annotations import check_tokens
from ...reference.formats.corners import CORNER_IDS, CORNERS, TYPES
from ..bridge import DEVICE, INTERPRETED_KERNELS, AnyArray, bits, guarded, to_torch
from ..encoded import PAGE, anchor_of, as_blocks
from .shared import SHAPES, draw

pytestmark = INTERPRETED_KERNELS

KEYS = {name: fmt for name, fmt in KEY_FORMATS.items() if isinstance(fmt, OscarKeys)}
VALUES = {name: fmt for name, fmt in VALUE_FORMATS.items() if isinstance(fmt, OscarValues)}
PAIRED = dict(zip(KEYS, sorted(VALUES) * 3, strict=False))
"""A value format for every key format, so that each is met."""

key_formats = pytest.mark.parametrize("keys", KEYS)
types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
paths = pytest.mark.parametrize("kernel", [False, True], ids=["twin", "kernel"])


def encoded_pool(x: AnyArray, ft: FloatType, keys: str, values: str, kernel: bool) -> Pool:
    """Encode blocks [n, H, B, d] on both sides; kernels read views whose surroundings are NaN."""
    of_keys, of_values, original = KEYS[keys], VALUES[values], to_torch(x, ft)
    n, heads, block, head_dim = x.shape
    device = DEVICE if kernel else "cpu"
    pool = allocate(n + 2, heads, block, head_dim, original.dtype, values, device, keys)
    pages = torch.arange(PAGE, PAGE + n, device=device)
    anchor = anchor_of(x)
    if kernel:
        original, anchor = guarded(original.to(device)), guarded(anchor.to(device))
        encode_oscar_keys(original, pages, pool, of_keys)
        encode_oscar_values(original, pages, pool, anchor, of_values)
    else:
        encode.encode_keys_twin(original, pages, pool, of_keys)
        encode.encode_values_twin(original, pages, pool, anchor, of_values)
    return pool


def assert_stored_is_reference(pool: Pool, x: AnyArray, keys: str, values: str) -> None:
    """Codes, steps, minima and norms; the pages around are untouched."""
    inside = slice(PAGE, PAGE + len(x))
    sides = {"key": OSCAR_KEY_FORMATS[keys].encode(x), "value": OSCAR_VALUE_FORMATS[values].encode(x)}
    for side, encoded in sides.items():
        for name, array in (("codes", encoded.codes), ("step", encoded.step), ("minimum", encoded.minimum)):
            expected = array if name == "codes" else array.view(np.uint16)
            np.testing.assert_array_equal(bits(getattr(pool, f"{side}_{name}"))[inside], expected, f"{side}_{name}")
    norm = sides["key"].norm
    assert norm is not None
    assert (norm.shape[-1] == 0) == (pool.key_norm.shape[1] == 0)
    if norm.shape[-1]:
        shared = bits(pool.key_norm.expand(-1, x.shape[1], -1))
        np.testing.assert_array_equal(shared[inside], norm.view(np.uint32))
    for name, tensor in pool.tensors().items():
        outside = torch.cat([tensor[:PAGE], tensor[PAGE + len(x) :]]).cpu()
        untouched = outside == 0xAA if outside.dtype == torch.uint8 else outside.isnan()
        assert untouched.all(), name


def awkward(seed: int, shape: tuple[int, ...], ft: FloatType) -> AnyArray:
    """Blocks of `draw`, some with tokens or groups of zeros, with a head that is far weaker, or the largest number."""
    x = draw(seed, shape, ft)
    kind = seed % 7
    if kind == 1:
        x[..., :: 1 + seed % 3, :] = 0.0
    elif kind == 2:
        x[..., : max(1, shape[-2] // 2), : shape[-1] // 2] = 0.0
    elif kind == 3:
        x[:, 0] = np.sign(x[:, 0]) * np.asarray(ft.smallest_subnormal, ft.dtype)
        x[:, 1:] = np.sign(x[:, 1:]) * np.asarray(ft.max, ft.dtype)
    elif kind == 4:
        x[..., shape[-2] // 2, :] = ft.max
    elif kind == 5:
        x[:] = -0.0
    return x


@key_formats
@corners
def test_twin_at_the_corners(keys: str, ft: FloatType, name: str, x: AnyArray) -> None:
    x = as_blocks(x)
    if x.shape[-2] >= KEYS[keys].least_block:
        assert_stored_is_reference(encoded_pool(x, ft, keys, PAIRED[keys], False), x, keys, PAIRED[keys])


@types
@pytest.mark.parametrize(("block", "head_dim"), SHAPES)
def test_twin_at_every_shape(ft: FloatType, block: int, head_dim: int) -> None:
    fit = [name for name, fmt in KEYS.items() if fmt.least_block <= block]
    for keys in (fit[head_dim // 8 % len(fit)], "oscar"):
        x = awkward(block + head_dim, (1, 2, block, head_dim), ft)
        assert_stored_is_reference(encoded_pool(x, ft, keys, PAIRED[keys], False), x, keys, PAIRED[keys])


@key_formats
@pytest.mark.parametrize("values", VALUES)
@types
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), heads=st.integers(1, 3), block=st.integers(1, 70), head_dim=st.integers(1, 130))
def test_twin_on_drawn_blocks(
    keys: str, values: str, ft: FloatType, seed: int, heads: int, block: int, head_dim: int
) -> None:
    block = max(block, KEYS[keys].least_block)
    x = awkward(seed, (1, heads, block, head_dim), ft)
    assert_stored_is_reference(encoded_pool(x, ft, keys, values, False), x, keys, values)


@key_formats
@pytest.mark.parametrize(("ft", "seed"), [(FLOAT16, 1), (BFLOAT16, 3), (FLOAT16, 4)])
def test_kernel_is_the_twin(keys: str, ft: FloatType, seed: int) -> None:
    """In what is stored every bit; in what is measured at most a last one, since sums have other orders."""
    values, block = PAIRED[keys], max((17, 5, 8)[seed % 3], KEYS[keys].least_block)
    x = awkward(7 * len(keys) + seed, (2, 2, block, (20, 12, 8)[seed % 3]), ft)
    pool, twin = (encoded_pool(x, ft, keys, values, kernel) for kernel in (True, False))
    assert_stored_is_reference(pool, x, keys, values)
    for name, tensor in pool.tensors().items():
        if tensor.numel():
            apart = np.abs(bits(tensor).astype(np.int64) - bits(getattr(twin, name)).astype(np.int64))
            assert apart.max() <= (name in ("key_notes", "value_notes", "residual_codes", "anchored_codes", "sizes"))


@paths
def test_norms_are_summed_in_the_written_order(kernel: bool) -> None:
    """S = (1 + 2^-24)^2 is a tie of the norm: what is small enough to be lost singly, and not together, decides it."""
    x = np.zeros((1, 5, 2, 16), BFLOAT16.dtype)
    x[0, 0, :, [0, 2, 4, 6]] = np.array([1.0, 2.0**-12, 2.0**-12, 2.0**-24])[:, None]
    # token 0: 8 times 2^-54 in the odd channels, which halves bring together before they meet the others
    x[0, 0, 0, 1::2] = 2.0**-27
    # token 1: 4 heads of 2^-53 each, which are lost one after another
    x[0, 1:, 1, :2] = 2.0**-27
    pool = encoded_pool(x, BFLOAT16, "oscar-scaling", "kivi", kernel)
    assert_stored_is_reference(pool, x, "oscar-scaling", "kivi")
    assert pool.key_norm[PAGE, 0].tolist() == [1.0 + 2.0**-23, 1.0]


@pytest.mark.parametrize(("block", "head_dim"), [(8, 80), (4, 128), (1, 96), (3, 256)])
def test_kernel_at_the_head_sizes(block: int, head_dim: int) -> None:
    x = draw(block + head_dim, (1, 2, block, head_dim), BFLOAT16)
    assert_stored_is_reference(encoded_pool(x, BFLOAT16, "oscar", "oscar", True), x, "oscar", "oscar")


@pytest.mark.parametrize("keys", ["oscar", "oscar-head", "oscar-paper", "kivi"])
@corners
def test_meaning(keys: str, ft: FloatType, name: str, x: AnyArray) -> None:
    """D is the reference's number, and so is what it may be off by, but for the order of a sum of d terms."""
    x = as_blocks(x)
    pairs: tuple[tuple[Any, Any], ...] = (
        (OSCAR_KEY_FORMATS[keys], KEYS[keys]),
        (OSCAR_VALUE_FORMATS[PAIRED[keys]], VALUES[PAIRED[keys]]),
    )
    for reference, fast in pairs:
        encoded = reference.encode(x)
        decoded, err = fast.decode(fast.encode(to_torch(x, ft)), x.shape[-2])
        np.testing.assert_array_equal(decoded.numpy(), reference.decode(encoded))
        np.testing.assert_allclose(err.numpy(), reference.decode_error_ub(encoded), rtol=x.shape[-1] * 2.0**-51, atol=0)


def exactly(encoded: Encoded, fmt: Any, of_tokens: bool) -> AnyArray:
    """``H norm (minimum + step code)`` of one block [B, d] as Fractions; blocks of H are powers of 4."""
    block, head_dim = encoded.block, encoded.head_dim
    codes = unpack_plane(encoded.codes, fmt.bits, block)
    step, minimum = exact_blocks(encoded.step), exact_blocks(encoded.minimum)
    out = np.empty((block, head_dim), dtype=object)
    for t in range(block):
        norm = Fraction(float(encoded.norm[t])) if encoded.norm is not None and encoded.norm.shape[-1] else Fraction(1)
        for c in range(head_dim):
            at = (t // fmt.group, c) if of_tokens else (t, c // fmt.group)
            out[t, c] = norm * (minimum[at] + step[at] * int(codes[t, c]))
    if fmt.rotated:
        start = 0
        while start < head_dim:
            size = 1 << (head_dim - start).bit_length() - 1
            signs = [[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
            part = out[:, start : start + size] @ np.array(signs, dtype=object).T
            out[:, start : start + size] = part * Fraction(1, math.isqrt(size))
            start += size
    return out


def notes_of(pool: Pool) -> tuple[KeyAnnotations, ValueAnnotations]:
    """What pages hold, as the reference's dataclasses."""
    keys, values = (bits(x)[PAGE:-1].view(BFLOAT16.dtype) for x in (pool.key_notes, pool.value_notes))
    codes = {name: bits(getattr(pool, name))[PAGE:-1] for name in ("residual_codes", "anchored_codes")}
    of_keys = KeyAnnotations(**{name: keys[..., i] for i, name in enumerate(KEY_NOTES)})
    return of_keys, ValueAnnotations(**{name: values[..., i] for i, name in enumerate(VALUE_NOTES)}, **codes)


@paths
@types
@pytest.mark.parametrize("keys", ["oscar", "oscar-paper", "oscar-4", "kivi"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_measured_holds_exactly(kernel: bool, ft: FloatType, keys: str, seed: int) -> None:
    """Against rational arithmetic, in head sizes whose 1/sqrt(size) is rational; and no looser than its roundings."""
    values = PAIRED[keys]
    block, head_dim = ((5, 20), (3, 16), (7, 4), (1, 5))[seed]
    x = awkward(31 * seed + len(keys), (1, 2, block, head_dim), ft)
    pool = encoded_pool(x, ft, keys, values, kernel)
    of_keys, of_values = notes_of(pool)
    sides: tuple[tuple[Any, Any, bool], ...] = (
        (OSCAR_KEY_FORMATS[keys], of_keys, True),
        (OSCAR_VALUE_FORMATS[values], of_values, False),
    )
    for fmt, measured, of_tokens in sides:
        encoded = fmt.encode(x)
        for i in np.ndindex(x.shape[:2]):
            original, meaning = exact_blocks(x[i]), exactly(encoded.take(i), fmt, of_tokens)
            residual, one = original - meaning, measured.take(i)
            # |r| + err is above the residual by no more than twice the error of decoding
            element = 2 * float(np.max(fmt.decode_error_ub(encoded)[i]))
            token = element * math.sqrt(head_dim)
            check_upper(one.decoded_norm_ub, max(squared_norms(meaning)), token)
            if of_tokens:
                check_upper(one.relative_max_ub, max(abs(r) for r in residual.ravel()) ** 2, element)
                check_upper(one.relative_norm_ub, max(squared_norms(residual)), token)
                check_operator(one.relative_operator_ub, residual, 2 * token * math.sqrt(block))
                norm = np.ones(block) if encoded.norm is None or not encoded.norm.shape[-1] else encoded.norm[i]
                widest = np.abs(encoded.minimum[i].astype(np.float64)) + 2.0**fmt.bits * encoded.step[i].astype(float)
                largest = max(
                    Fraction(float(n)) ** 2 * squared_norms(exact_blocks(widest))[t // fmt.group]
                    for t, n in enumerate(norm)
                )
                assert Fraction(min(float(pool.sizes[PAGE, i[1], 0]), 2.0**200)) ** 2 >= largest
            else:
                check_tokens(one.residual_norm_ub, one.residual_codes, one.residual_operator_ub, residual, token)
                assert float(pool.sizes[PAGE, i[1], 1]) == 0.0


@key_formats
@types
def test_as_the_reference_measures(keys: str, ft: FloatType) -> None:
    """Equal, or neighbours in bfloat16, which are less than 1.01 apart.

    Both are within 2^-30 of the same number before they are rounded up; kernels are compared with the twin.
    """
    values, block = PAIRED[keys], max(33, KEYS[keys].least_block)
    x = draw(len(keys), (1, 2, block, 24), ft)
    mine = notes_of(encoded_pool(x, ft, keys, values, False))
    of_keys, of_values = OSCAR_KEY_FORMATS[keys], OSCAR_VALUE_FORMATS[values]
    theirs = (
        annotate_keys(x, of_keys.encode(x), of_keys),
        annotate_values(x, of_values.encode(x), of_values, anchor_of(x).numpy().astype(np.float64)),
    )
    for found, expected in zip(mine, theirs, strict=True):
        for name, array in expected.arrays().items():
            pair = (found.arrays()[name], array)
            a, b = (y.astype(int) if name.endswith("_codes") else y.view(np.uint16).astype(int) for y in pair)
            assert np.abs(a - b).max() <= 1, name
