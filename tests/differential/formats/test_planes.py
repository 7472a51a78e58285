"""Formats of several levels: base, planes and meanings of twin and kernel equal the reference bit for bit.

What is measured of every level is judged in rational arithmetic, as that of the base is.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from certkv.fast.encode import encode_keys_twin, encode_values_twin
from certkv.fast.encode_planes import encode_key_planes_twin, encode_value_planes_twin
from certkv.fast.formats.planar import Planar, base_of
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS
from certkv.fast.kernels import encode_planes as kernels
from certkv.fast.pages import PageTable
from certkv.fast.planes import Planes
from certkv.fast.pool import Pool, allocate
from certkv.reference.formats import Encoded, value_format
from certkv.reference.formats.planes import unpack_plane
from certkv.reference.numbers import BFLOAT16, FloatType

from ...reference.annotations.exact import check_operator, check_upper, exact_blocks, quotients, squared_norms
from ...reference.annotations.test_annotations import check_tokens
from ...reference.formats.corners import CORNER_IDS, CORNERS, TYPES
from ..bridge import INTERPRETED_KERNELS, AnyArray, bits, guarded, to_torch
from ..encoded import PAGE, anchor_of, as_blocks
from .shared import draw

pytestmark = INTERPRETED_KERNELS

types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
RATIONAL = {name: fmt for name, fmt in PLANAR_VALUE_FORMATS.items() if not fmt.rotated}
"""Formats whose numbers are rational; test_oscar_planes.py has the others."""

formats = pytest.mark.parametrize("fmt", RATIONAL.values(), ids=RATIONAL)
SHAPES = [(1, 8), (2, 20), (33, 20), (16, 96), (64, 80), (64, 128)]


def compare(fmt: Planar, x: AnyArray, ft: FloatType) -> None:
    """Base, planes, and the decoded float64 numbers of every level with the error of their rounding."""
    theirs = value_format(fmt.name)
    encoded, block = theirs.encode(x), x.shape[-2]
    mine, planes = fmt.encode_all(to_torch(x, ft))
    np.testing.assert_array_equal(bits(mine.codes), encoded.codes)
    for name in ("step", "minimum"):
        np.testing.assert_array_equal(bits(getattr(mine, name)), getattr(encoded, name).view(np.uint16))
    assert len(planes) == len(encoded.planes) == len(fmt.plane_bits)
    for plane, its in zip(planes, encoded.planes, strict=True):
        np.testing.assert_array_equal(plane.numpy(), its)
    for level in range(len(planes) + 1):
        decoded, err = fmt.decode_level(mine, planes[:level], block)
        np.testing.assert_array_equal(decoded.numpy(), theirs.decode(encoded.at(level)))
        np.testing.assert_array_equal(err.numpy(), theirs.decode_error_ub(encoded.at(level)))
    base, _ = fmt.decode(mine, block)
    np.testing.assert_array_equal(base.numpy(), base_of(fmt).decode(mine, block)[0].numpy())


@formats
@corners
def test_at_the_corners(fmt: Planar, ft: FloatType, name: str, x: AnyArray) -> None:
    compare(fmt, x, ft)


@formats
@types
@pytest.mark.parametrize(("block", "head_dim"), SHAPES)
def test_at_the_shapes(fmt: Planar, ft: FloatType, block: int, head_dim: int) -> None:
    for seed in range(6):
        compare(fmt, draw(seed + block * head_dim, (2, 2, block, head_dim), ft), ft)


Encode = Any


def exact_level(encoded: Encoded, fmt: Planar) -> tuple[AnyArray, AnyArray]:
    """Return the meaning of one block [B, d] at its level, and the step of every element, as Fractions."""
    block, group = encoded.block, fmt.group
    codes = unpack_plane(encoded.codes, fmt.bits, block).astype(object)
    for plane, width in zip(encoded.planes, fmt.plane_bits, strict=False):
        codes = codes * 2**width + unpack_plane(plane, width, block).astype(object)
    finer = sum(fmt.plane_bits[: encoded.level])
    grid = sum(fmt.plane_bits) if fmt.divided else 0
    centre = (Fraction(1, 2**finer) - Fraction(1, 2**grid)) / 2
    step, minimum = exact_blocks(encoded.step), exact_blocks(encoded.minimum)
    meaning, steps = (np.empty((block, encoded.head_dim), dtype=object) for _ in range(2))
    for t, c in np.ndindex(meaning.shape):
        place = (t, c // group) if group else (c,)
        steps[t, c] = step[place]
        meaning[t, c] = minimum[place] + step[place] * (Fraction(int(codes[t, c]), 2**finer) + centre)
    return meaning, steps


def judge_keys(original: AnyArray, meaning: AnyArray, steps: AnyArray, notes: AnyArray) -> None:
    """Every scalar is at least the exact norm, in units of the step of the base; see `test_annotations.judge_keys`."""
    relative = quotients(original - meaning, steps)
    cells = zip(meaning.ravel(), steps.ravel(), strict=True)
    charged = max((float(abs(m) / step) for m, step in cells if step), default=0.0) * 2.0**-52
    norm = charged * math.sqrt(original.shape[-1])
    check_upper(notes[0], max(abs(r) for r in relative.ravel()) ** 2, charged)
    check_upper(notes[1], max(squared_norms(relative)), norm)
    check_operator(notes[2], relative, 4 * norm * math.sqrt(len(original)))
    check_upper(notes[3], max(squared_norms(meaning)), 0.0)


def encode_with_twin(x: AnyArray, ft: FloatType, fmt: Planar, keys: bool) -> tuple[Pool, Planes]:
    """Encode blocks [n, H, B, d] as values, and with ``keys`` as keys too."""
    n, heads, block, head_dim = x.shape
    original, pages = to_torch(x, ft), torch.arange(PAGE, PAGE + n)
    names = {"keys": fmt.name} if keys else {}
    pool = allocate(n + 2, heads, block, head_dim, original.dtype, fmt.name, **names)
    of_keys = fmt if keys else PLANAR_KEY_FORMATS["int8+4"].layout
    table = PageTable(1, n, n + 2, torch.device("cpu"))
    planes = Planes.allocate(of_keys, fmt, table, n + 2, heads, block, head_dim, "host", torch.device("cpu"))
    if keys:
        encode_keys_twin(original, pages, pool, base_of(fmt))
        encode_key_planes_twin(original, pages, pool, planes, fmt)
    encode_values_twin(original, pages, pool, anchor_of(x), base_of(fmt))
    encode_value_planes_twin(original, pages, pool, planes, fmt)
    return pool, planes


def encode_with_kernel(x: AnyArray, ft: FloatType, fmt: Planar, keys: bool) -> tuple[Pool, Planes]:
    """As `encode_with_twin`; a base is encoded by the twin, which test_stored.py compares with its kernel."""
    original = guarded(to_torch(x, ft))
    pool, planes = encode_with_twin(x, ft, fmt, keys)
    pages = torch.arange(PAGE, PAGE + len(x))
    for tensor in (pool.finer_key_notes, pool.finer_value_notes):
        tensor.fill_(torch.nan)
    for tensor in (pool.finer_residual_codes, *planes.keys, *planes.values):
        tensor.fill_(0xA5)
    if keys:
        kernels.encode_key_planes(original, pages, pool, planes, fmt)
    kernels.encode_value_planes(original, pages, pool, planes, fmt)
    return pool, planes


def judge(encode: Encode, x: AnyArray, ft: FloatType, fmt: Planar) -> None:
    """Planes by page, pages around them untouched; notes of every level at least the exact norms, and not much more."""
    is_key = fmt.name in PLANAR_KEY_FORMATS
    if encode is encode_with_kernel and not kernels.takes(fmt):
        return
    pool, planes = encode(x, ft, fmt, is_key)
    inside = slice(PAGE, PAGE + len(x))
    encoded = value_format(fmt.name).encode(x)
    for side in (planes.keys, planes.values) if is_key else (planes.values,):
        for plane, its in zip(side, encoded.planes, strict=True):
            np.testing.assert_array_equal(plane.numpy()[inside], its)
            assert (np.delete(plane.numpy(), inside, axis=0) == 0xA5).all()
    for level in range(1, len(fmt.plane_bits) + 1):
        here = encoded.at(level)
        notes = bits(pool.finer_value_notes[inside, :, level - 1]).view(BFLOAT16.dtype)
        codes = pool.finer_residual_codes[inside, :, level - 1].numpy()
        off = value_format(fmt.name).decode_error_ub(here)
        for i in np.ndindex(x.shape[:-2]):
            original, (meaning, steps) = exact_blocks(x[i]), exact_level(here.take(i), fmt)
            err = 2 * float(np.sqrt(x.shape[-1])) * float(np.max(off[i]))
            check_tokens(notes[i][0], codes[i], notes[i][2], original - meaning, err)
            check_upper(notes[i][1], max(squared_norms(meaning)), 0.0)
            if is_key:
                of_keys = bits(pool.finer_key_notes[inside, :, level - 1]).view(BFLOAT16.dtype)
                judge_keys(original, meaning, steps, of_keys[i])


paths = pytest.mark.parametrize("encode", [encode_with_twin, encode_with_kernel], ids=["twin", "kernel"])


@paths
@formats
@corners
def test_exactly_at_the_corners(encode: Encode, fmt: Planar, ft: FloatType, name: str, x: AnyArray) -> None:
    judge(encode, as_blocks(x), ft, fmt)


@paths
@formats
@types
@pytest.mark.parametrize(("block", "head_dim"), [(1, 8), (9, 33), (16, 40)])
def test_exactly_on_drawn_blocks(encode: Encode, fmt: Planar, ft: FloatType, block: int, head_dim: int) -> None:
    for seed in range(4):
        judge(encode, draw(seed + 31 * block, (1, 1, block, head_dim), ft), ft, fmt)
