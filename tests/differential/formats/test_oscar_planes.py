"""OScaR's kin with refinement planes: planes and meanings are the reference's, and what is measured of levels holds."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.fast.encode import encode_keys_twin, encode_values_twin
from certkv.fast.encode_planes import encode_key_planes_twin, encode_value_planes_twin
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.fast.formats.planar import Planar, base_of
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS
from certkv.fast.kernels import encode_planes as kernels
from certkv.fast.pages import PageTable
from certkv.fast.planes import Planes
from certkv.fast.pool import FINER_VALUE_NOTES, KEY_NOTES, Pool, allocate
from certkv.reference.annotations import annotate_keys, annotate_values
from certkv.reference.formats import Encoded
from certkv.reference.formats.oscar_family import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS
from certkv.reference.formats.planes import unpack_plane
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

from ...reference.annotations.exact import check_operator, check_upper, exact_blocks, squared_norms
from ...reference.annotations.test_annotations import check_tokens
from ...reference.formats.corners import CORNER_IDS, CORNERS, TYPES
from ..bridge import INTERPRETED_KERNELS, AnyArray, bits, guarded, to_torch
from ..encoded import PAGE, anchor_of, as_blocks
from .shared import draw
from .test_oscar import awkward

pytestmark = INTERPRETED_KERNELS

NAME = "oscar+2+4"
OF_KEYS, OF_VALUES = PLANAR_KEY_FORMATS[NAME], PLANAR_VALUE_FORMATS[NAME]

FAMILY = [
    ("oscar", "oscar", (2, 4)),
    ("oscar", "oscar", (2,)),
    ("oscar-4", "oscar-4", (4,)),
    ("oscar-head", "oscar", (1, 8)),
    ("oscar-paper", "kivi", (4, 2, 1)),
    ("kivi", "kivi", (8,)),
    ("oscar-rotation", "oscar-g64", (4, 8)),
]
"""Key and value formats, and planes to refine them with; the first is `oscar+2+4`."""

types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
corners = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
paths = pytest.mark.parametrize("kernel", [False, True], ids=["twin", "kernel"])
family = pytest.mark.parametrize(("keys", "values", "planes"), FAMILY)


def pairs(keys: str, values: str, planes: tuple[int, ...]) -> list[tuple[Planar, Any]]:
    """Refine a format of keys and one of values: ours and the reference's."""
    of_keys = Planar("keys", KEY_FORMATS[keys], planes)  # type: ignore[arg-type]
    of_values = Planar("values", VALUE_FORMATS[values], planes)  # type: ignore[arg-type]
    return [
        (of_keys, replace(OSCAR_KEY_FORMATS[keys], name="keys", plane_bits=planes)),
        (of_values, replace(OSCAR_VALUE_FORMATS[values], name="values", plane_bits=planes)),
    ]


def compare(mine: Planar, theirs: Any, x: AnyArray, ft: FloatType) -> None:
    """Base and planes bit for bit; numbers of every level too, and what they may be off by but for a sum's order."""
    encoded, block = theirs.encode(x), x.shape[-2]
    base, planes = mine.encode_all(to_torch(x, ft))
    np.testing.assert_array_equal(bits(base.codes), encoded.codes)
    assert len(planes) == len(encoded.planes) == len(mine.plane_bits)
    for plane, its in zip(planes, encoded.planes, strict=True):
        np.testing.assert_array_equal(plane.numpy(), its)
    for level in range(len(planes) + 1):
        here = encoded.at(level)
        inside, _ = mine.decode_level_rotated(base, planes[:level], block)
        np.testing.assert_array_equal(inside.numpy(), theirs.decode_rotated(here))
        decoded, err = mine.decode_level(base, planes[:level], block)
        np.testing.assert_array_equal(decoded.numpy(), theirs.decode(here))
        np.testing.assert_allclose(err.numpy(), theirs.decode_error_ub(here), rtol=x.shape[-1] * 2.0**-51, atol=0)
    assert torch.equal(mine.decode(base, block)[0], mine.layout.decode(base, block)[0])


@family
@corners
def test_at_the_corners(keys: str, values: str, planes: tuple[int, ...], ft: FloatType, name: str, x: AnyArray) -> None:
    for mine, theirs in pairs(keys, values, planes):
        compare(mine, theirs, as_blocks(x), ft)


@family
@types
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), heads=st.integers(1, 3), block=st.integers(1, 70), head_dim=st.integers(1, 130))
def test_on_drawn_blocks(
    keys: str,
    values: str,
    planes: tuple[int, ...],
    ft: FloatType,
    seed: int,
    heads: int,
    block: int,
    head_dim: int,
) -> None:
    x = awkward(seed, (1, heads, block, head_dim), ft)
    for mine, theirs in pairs(keys, values, planes):
        compare(mine, theirs, x, ft)


def test_the_registered_one_is_that_of_the_reference() -> None:
    for mine, theirs in ((OF_KEYS, OSCAR_KEY_FORMATS[NAME]), (OF_VALUES, OSCAR_VALUE_FORMATS[NAME])):
        assert mine.plane_bits == theirs.plane_bits
        assert (mine.bits, mine.group, mine.rotated) == (theirs.bits, theirs.group, theirs.rotated)
        assert base_of(mine).name == "oscar"
    assert OF_KEYS.scope == OSCAR_KEY_FORMATS[NAME].scope
    assert OF_KEYS.least_block == 1


def encoded(
    x: AnyArray, ft: FloatType, kernel: bool, fmts: tuple[Planar, Planar] = (OF_KEYS, OF_VALUES)
) -> tuple[Pool, Planes]:
    """Encode blocks [n, H, B, d] on both sides; bases by the twins, which test_oscar.py compares with their kernels."""
    n, heads, block, head_dim = x.shape
    original, pages, (of_keys, of_values) = to_torch(x, ft), torch.arange(PAGE, PAGE + n), fmts
    pool = allocate(n + 2, heads, block, head_dim, original.dtype, of_values.layout.name, "cpu", of_keys.layout.name)
    levels = len(of_keys.plane_bits), len(of_values.plane_bits)
    pool = replace(
        pool,
        finer_key_notes=torch.full((n + 2, heads, levels[0], len(KEY_NOTES)), torch.nan, dtype=torch.bfloat16),
        finer_value_notes=torch.full(
            (n + 2, heads, levels[1], len(FINER_VALUE_NOTES)), torch.nan, dtype=torch.bfloat16
        ),
        finer_residual_codes=torch.full((n + 2, heads, levels[1], block), 0xAA, dtype=torch.uint8),
    )
    table = PageTable(1, n, n + 2, torch.device("cpu"))
    planes = Planes.allocate(of_keys, of_values, table, n + 2, heads, block, head_dim, "host", torch.device("cpu"))
    encode_keys_twin(original, pages, pool, base_of(of_keys))
    encode_values_twin(original, pages, pool, anchor_of(x), base_of(of_values))
    if kernel:
        original = guarded(original)
        kernels.encode_key_planes(original, pages, pool, planes, of_keys)
        kernels.encode_value_planes(original, pages, pool, planes, of_values)
    else:
        encode_key_planes_twin(original, pages, pool, planes, of_keys)
        encode_value_planes_twin(original, pages, pool, planes, of_values)
    return pool, planes


@family
@pytest.mark.parametrize(("ft", "seed"), [(FLOAT16, 1), (BFLOAT16, 3), (FLOAT16, 4), (BFLOAT16, 2)])
def test_kernel_is_the_twin(keys: str, values: str, planes: tuple[int, ...], ft: FloatType, seed: int) -> None:
    """In what is stored every bit; in what is measured at most a last one, since sums have other orders."""
    (of_keys, _), (of_values, _) = pairs(keys, values, planes)
    x = awkward(7 * len(keys) + seed, (2, 2, (17, 5, 8, 9, 33)[seed], (20, 12, 8, 36, 96)[seed]), ft)
    (pool, mine), (twin, its) = (encoded(x, ft, kernel, (of_keys, of_values)) for kernel in (True, False))
    for side, other in zip(mine.sides, its.sides, strict=True):
        for plane, expected in zip(side, other, strict=True):
            assert torch.equal(plane, expected)
    for name, tensor in pool.tensors().items():
        if tensor.numel():
            apart = np.abs(bits(tensor).astype(np.int64) - bits(getattr(twin, name)).astype(np.int64))
            assert apart.max() <= name.startswith("finer_"), name


def exact_level(stored: Encoded, of_keys: bool) -> AnyArray:
    """``H norm (minimum + step code_l)`` of one block [B, d] as Fractions; blocks of H are powers of 4."""
    fmt = OF_KEYS if of_keys else OF_VALUES
    block, head_dim = stored.block, stored.head_dim
    codes = unpack_plane(stored.codes, fmt.bits, block).astype(object)
    for plane, width in zip(stored.planes, fmt.plane_bits, strict=False):
        codes = codes * 2**width + unpack_plane(plane, width, block).astype(object)
    finer = sum(fmt.plane_bits[: stored.level])
    centre = (Fraction(1, 2**finer) - 1) / 2
    step, minimum = exact_blocks(stored.step), exact_blocks(stored.minimum)
    out = np.empty((block, head_dim), dtype=object)
    for t, c in np.ndindex(out.shape):
        norm = Fraction(float(stored.norm[t])) if of_keys and stored.norm is not None else Fraction(1)
        at = (t // fmt.group, c) if of_keys else (t, c // fmt.group)
        out[t, c] = norm * (minimum[at] + step[at] * (Fraction(int(codes[t, c]), 2**finer) + centre))
    start = 0
    while start < head_dim:
        size = 1 << (head_dim - start).bit_length() - 1
        signs = [[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
        part = out[:, start : start + size] @ np.array(signs, dtype=object).T
        out[:, start : start + size] = part * Fraction(1, math.isqrt(size))
        start += size
    return out


@paths
@types
@pytest.mark.parametrize("seed", range(6))
def test_what_is_measured_of_levels_holds_exactly(kernel: bool, ft: FloatType, seed: int) -> None:
    """Against rational arithmetic, in head sizes whose 1/sqrt(size) is rational; and no looser than its roundings."""
    block, head_dim = ((5, 20), (3, 16), (7, 4), (1, 5), (40, 4), (9, 16))[seed]
    x = awkward(31 * seed + 5, (1, 2, block, head_dim), ft)
    pool, _ = encoded(x, ft, kernel)
    for of_keys in (True, False):
        fmt: Any = (OSCAR_KEY_FORMATS if of_keys else OSCAR_VALUE_FORMATS)[NAME]
        stored = fmt.encode(x)
        notes = pool.finer_key_notes if of_keys else pool.finer_value_notes
        found = bits(notes)[PAGE:-1].view(BFLOAT16.dtype)
        codes = bits(pool.finer_residual_codes)[PAGE:-1]
        for level in (1, 2):
            here = stored.at(level)
            for i in np.ndindex(x.shape[:2]):
                original, meaning = exact_blocks(x[i]), exact_level(here.take(i), of_keys)
                residual, one = original - meaning, found[i][level - 1]
                element = 2 * float(np.max(fmt.decode_error_ub(here)[i]))
                token = element * math.sqrt(head_dim)
                if of_keys:
                    check_upper(one[0], max(abs(r) for r in residual.ravel()) ** 2, element)
                    check_upper(one[1], max(squared_norms(residual)), token)
                    check_operator(one[2], residual, 2 * token * math.sqrt(block))
                    check_upper(one[3], max(squared_norms(meaning)), token)
                else:
                    check_tokens(one[0], codes[i][level - 1], one[2], residual, token)
                    check_upper(one[1], max(squared_norms(meaning)), token)


@types
def test_as_the_reference_measures(ft: FloatType) -> None:
    """Equal, or neighbours in bfloat16."""
    x = draw(7, (1, 2, 33, 24), ft)
    pool, _ = encoded(x, ft, False)
    of_keys, of_values = OSCAR_KEY_FORMATS[NAME], OSCAR_VALUE_FORMATS[NAME]
    anchor = anchor_of(x).numpy().astype(np.float64)
    for level in (1, 2):
        theirs = annotate_keys(x, of_keys.encode(x).at(level), of_keys).arrays()
        mine = bits(pool.finer_key_notes)[PAGE:-1, :, level - 1]
        for i, name in enumerate(KEY_NOTES):
            assert np.abs(mine[..., i].astype(int) - theirs[name].view(np.uint16).astype(int)).max() <= 1, name
        theirs = annotate_values(x, of_values.encode(x).at(level), of_values, anchor).arrays()
        mine = bits(pool.finer_value_notes)[PAGE:-1, :, level - 1]
        for i, name in enumerate(FINER_VALUE_NOTES):
            assert np.abs(mine[..., i].astype(int) - theirs[name].view(np.uint16).astype(int)).max() <= 1, name
        codes = bits(pool.finer_residual_codes)[PAGE:-1, :, level - 1].astype(int)
        assert np.abs(codes - theirs["residual_codes"].astype(int)).max() <= 1
