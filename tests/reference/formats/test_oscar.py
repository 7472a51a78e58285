"""OScaR's formats: every stored bit, the real numbers they mean, their bytes, and examples worked by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from certkv.reference.errors import SettingError
from certkv.reference.formats import (
    OSCAR_KEY_FORMATS,
    OSCAR_VALUE_FORMATS,
    Encoded,
    OscarKeys,
    OscarValues,
    bytes_per_token,
    concatenate,
)
from certkv.reference.formats.planes import join, unpack_plane
from certkv.reference.formats.rotated import extra_roundings, is_rotated
from certkv.reference.formats.storage import bytes_with_residual, dense_bytes_per_token
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

from .corners import CORNER_IDS, CORNERS, TYPES, AnyArray
from .oscar_definition import BITS, Row, butterflies, norm, plain, root_below, rotated_sums, scaled, single, zero_point
from .oscar_definition import finite as stored_as
from .scalar_definition import GRIDS, affine

F = Fraction
FORMATS: list[OscarKeys | OscarValues] = [*OSCAR_KEY_FORMATS.values(), *OSCAR_VALUE_FORMATS.values()]
SWITCHES = [
    OscarKeys("t", 2, 4, rotated=True, scope="joint", zero_point=False),
    OscarKeys("t", 4, 4, rotated=True, scope="head", zero_point=True),
    OscarKeys("t", 2, 3, rotated=True, scope=None, zero_point=True),
    OscarKeys("t", 2, 32, rotated=False, scope="joint", zero_point=True),
    OscarKeys("t", 4, 3, rotated=False, scope=None, zero_point=False),
]
VALUES = [OscarValues("v", 2, 32, True), OscarValues("v", 4, 8, False)]
JUDGED = [
    *(OSCAR_KEY_FORMATS[name] for name in ("oscar", "oscar+2+4", "oscar-paper", "kivi")),
    OSCAR_VALUE_FORMATS["oscar+2+4"],
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.name}-{next(iter(f.kind))}")
every_corner = pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)


def rows(x: AnyArray) -> list[Row]:
    return [[F(float(v)) for v in row] for row in x]


def prepared(fmt: OscarKeys | OscarValues, x: AnyArray, ft: FloatType) -> tuple[list[list[Row]], list[list[Fraction]]]:
    """u [heads][B][d] and norms [heads][B] of originals [heads, B, d]."""
    y = [[butterflies(row) if fmt.rotated else [v / 256 for v in row] for row in rows(head)] for head in x]
    scope = fmt.scope if isinstance(fmt, OscarKeys) else None
    if scope is None:
        return [[plain(row, ft.name) for row in head] for head in y], []
    tokens = range(x.shape[-2])
    if scope == "joint":
        norms = [[norm([head[t] for head in y]) for t in tokens]] * len(y)
    else:
        norms = [[norm([head[t]]) for t in tokens] for head in y]
    u = [[scaled(row, n, ft.name) for row, n in zip(*pair, strict=True)] for pair in zip(y, norms, strict=True)]
    return u, [[256 * n for n in of_head] for of_head in norms]


def unpacked(encoded: Encoded, bits: int) -> AnyArray:
    """Codes [..., B, d] by arithmetic that knows only the layout: byte row t, token ``t + i rows`` in its i-th bits."""
    held = 8 // bits
    n = -(-encoded.block // held)
    assert encoded.codes.shape[-2] == n
    return np.stack(
        [encoded.codes[..., t % n, :] // 2 ** (bits * (t // n)) % 2**bits for t in range(encoded.block)], axis=-2
    )


@pytest.mark.parametrize("fmt", [*SWITCHES, *VALUES], ids=lambda f: f"{f.rotated}-{f.bits}-{f.group}")
@every_corner
def test_every_stored_bit_is_the_definition(
    fmt: OscarKeys | OscarValues, ft: FloatType, name: str, x: AnyArray
) -> None:
    """The leading axis of a corner stands for KV heads."""
    encoded = fmt.encode(x)
    u, norms = prepared(fmt, x, ft)
    if norms:
        assert encoded.norm is not None
        assert rows(encoded.norm) == norms
    codes = unpacked(encoded, fmt.bits)
    levels = 2**fmt.bits - 1
    along_tokens = isinstance(fmt, OscarKeys)
    for head, block in enumerate(u):
        lines = list(zip(*block, strict=True)) if along_tokens else block
        for i, line in enumerate(lines):
            for j, start in enumerate(range(0, len(line), fmt.group)):
                part = line[start : start + fmt.group]
                if along_tokens and fmt.zero_point:  # type: ignore[union-attr]
                    want = zero_point(part, levels, single, stored_as(ft.name), ft.name)
                else:
                    want = affine(part, levels, GRIDS[ft.name])
                at = (head, j, i) if along_tokens else (head, i, j)
                span = slice(start, start + fmt.group)
                got = codes[head, span, i] if along_tokens else codes[head, i, span]
                assert (got.tolist(), F(float(encoded.step[at])), F(float(encoded.minimum[at]))) == want


@pytest.mark.parametrize("fmt", JUDGED, ids=lambda f: f.name)
@every_corner
def test_decoding_is_within_its_bounds(fmt: OscarKeys | OscarValues, ft: FloatType, name: str, x: AnyArray) -> None:
    """Judged in rational arithmetic at every level, roots to 200 bits; inside the rotation only one rounding."""
    finest = fmt.encode(x)
    for level in range(finest.level + 1):
        encoded = finest.at(level)
        decoded, limit, inside = fmt.decode(encoded), fmt.decode_error_ub(encoded), fmt.decode_rotated(encoded)
        codes = fmt._codes(encoded)
        assert np.isfinite(decoded).all()
        for i in np.ndindex(x.shape[:-1]):
            *head, t = i
            n = F(1) if encoded.norm is None or not encoded.norm.shape[-1] else F(float(encoded.norm[i]))
            exact = []
            for c in range(x.shape[-1]):
                at = (*head, t // fmt.group, c) if isinstance(fmt, OscarKeys) else (*head, t, c // fmt.group)
                exact.append(
                    n * (F(float(encoded.minimum[at])) + F(float(encoded.step[at])) * F(float(codes[(*i, c)])))
                )
            for meant, found in zip(exact, inside[i], strict=True):
                assert abs(F(float(found)) - meant) <= F(2) ** -53 * min(abs(meant), abs(F(float(found))))
            sums = rotated_sums(exact) if fmt.rotated else [(v, 1) for v in exact]
            for (total, size), found, bound in zip(sums, decoded[i], limit[i], strict=True):
                off = abs(F(float(found)) - total * root_below(F(1, size)))
                assert off <= F(float(bound)) + abs(total) / 2**BITS


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("scope", ["joint", None])
def test_finer_levels_cut_cells(rotated: bool, scope: Any) -> None:
    """A cell of level l is ``2**-F_l`` as wide: what is off, in the basis that is coded, is at most half of that."""
    x = np.random.default_rng(4).standard_normal((2, 64, 64)).astype(np.float16)
    fmt = OscarKeys("t", rotated=rotated, scope=scope, plane_bits=(2, 4))
    encoded = fmt.encode(x)
    u, norm = fmt.prepare(x, FLOAT16)
    meant = u.astype(np.float64) * (norm.astype(np.float64)[..., None] if scope else 1.0)
    step = fmt._affine(encoded)[0]
    for level, bits in enumerate((0, 2, 6)):
        off = np.abs(fmt.decode_rotated(encoded.at(level)) - meant)
        # in FP32: the quotient, below 4, is off by 4 2**-23; taking the code off and adding 1/2 round once more each
        assert (off <= step * (2.0 ** -(bits + 1) + 8 * 2.0**-23)).all()


def test_by_hand_four_tokens() -> None:
    """One head of 4 channels, FP16, oscar: rotation, norm, group of 4 tokens, 2 bits.

    Token 0, (1, 1, 1, 1): y = (2, 0, 0, 0), n = 2, u = (1, 0, 0, 0). Token 1, (8, -8, 8, -8): y = (0, 16, 0, 0),
    n = 16, u = (0, 1, 0, 0). Token 2, zeros: n = 0, u = 0. Token 3, (1/2, 1/2, -1/2, -1/2): y = (0, 0, 1, 0),
    n = 1, u = (0, 0, 1, 0). Channels 0, 1, 2 have the range 1: step 1/3 rounded up, 683/2048, minimum 0, and 1 is
    code 3 (2.9985); channel 3 is constant: step 0. Codes, token by token: (3,0,0,0), (0,3,0,0), (0,0,0,0),
    (0,0,3,0); one row of four tokens, from the lowest bits up: 3, 3 4, 3 64, 0. With f = 3 683/2048 = 2049/2048, token
    0 is 2 f/2 (1, 1, 1, 1), token 1 16 f/2 (1, -1, 1, -1), token 2 zero, token 3 f/2 (1, 1, -1, -1).
    """
    x = np.array([[1, 1, 1, 1], [8, -8, 8, -8], [0, 0, 0, 0], [0.5, 0.5, -0.5, -0.5]], np.float16)
    fmt = OSCAR_KEY_FORMATS["oscar"]
    encoded = fmt.encode(x)
    assert encoded.codes.tolist() == [[3, 12, 192, 0]]
    assert encoded.norm is not None
    assert encoded.norm.tolist() == [2, 16, 0, 1]
    assert encoded.step.tolist() == [[683 / 2048] * 3 + [0]]
    assert encoded.minimum.tolist() == [[0, 0, 0, 0]]
    f = 2049 / 2048
    want = [[f] * 4, [8 * f, -8 * f, 8 * f, -8 * f], [0] * 4, [f / 2, f / 2, -f / 2, -f / 2]]
    assert fmt.decode(encoded).tolist() == want


def test_by_hand_scaling_without_rotation_makes_outliers() -> None:
    """(1, 1, 1, 1 + 98) with (1, 1, 1, 1)/2, scaled: of norms 99.015 and 1, the fourth channel sticks out at 0.99985.

    a = (1, 1, 1, 99): u = (.0101, .0101, .0101, .99985); b = (.5, .5, .5, .5): u = b. Before: ranges .5, .5, .5, 98.5;
    after: .49, .49, .49, .49985: what was a range of 0.5 next to elements of 1 is now one of .49 next to .0101.
    """
    x = np.array([[[1, 1, 1, 99], [0.5, 0.5, 0.5, 0.5]]], np.float16)
    u, norm = OSCAR_KEY_FORMATS["oscar-scaling"].prepare(x, FLOAT16)
    assert norm[0, 1] == 1.0
    assert float(norm[0, 0]) == pytest.approx(9804**0.5, rel=2.0**-24)  # the root and its one rounding
    spread = np.ptp(u[0].astype(np.float64), axis=0) / np.abs(u[0].astype(np.float64)).min(axis=0)
    plain_spread = np.ptp(x[0].astype(np.float64), axis=0) / np.abs(x[0].astype(np.float64)).min(axis=0)
    assert (spread[:3] > 40 * plain_spread[:3]).all()


def test_by_hand_two_groups_of_two_tokens() -> None:
    """Two channels, no rotation, no norm, groups of 2: tokens (0, 4), (3, 4) and (6, 0), (12, 6), 2 bits.

    Group 0: channel 0 has step 1 and codes 0, 3; channel 1 is constant, 4. Group 1: channel 0 has step 2, minimum 6,
    codes 0, 3; channel 1 step 2, minimum 0, codes 0, 3. One row: channel 0 holds 3 in the bits of tokens 1 and 3:
    3 4 + 3 64 = 204; channel 1 in those of token 3: 192.
    """
    fmt = OscarKeys("t", 2, 2, rotated=False, scope=None)
    encoded = fmt.encode(np.array([[0, 4], [3, 4], [6, 0], [12, 6]], np.float16))
    assert encoded.step.tolist() == [[1, 0], [2, 2]]
    assert encoded.minimum.tolist() == [[0, 4], [6, 0]]
    assert encoded.codes.tolist() == [[204, 192]]
    assert fmt.decode(encoded).tolist() == [[0, 4], [3, 4], [6, 0], [12, 6]]


def test_by_hand_rotated_values() -> None:
    """Values (3, 0, 0, 3) and (1, 1, 1, 1), FP16, one group of 4 channels, 2 bits.

    y = (3, 0, 0, 3): h = 1: (3, 3, 3, -3); h = 2: (6, 0, 0, 6); times 1/2: (3, 0, 0, 3), range 3, step 1, codes 3, 0,
    0, 3: exact, and so is what comes back. (1, 1, 1, 1): y = (2, 0, 0, 0), step 2/3 rounded up, 683/1024, code 3:
    2049/1024; half of it in every channel.
    """
    fmt = OSCAR_VALUE_FORMATS["oscar"]
    encoded = fmt.encode(np.array([[3, 0, 0, 3], [1, 1, 1, 1]], np.float16))
    assert encoded.step.tolist() == [[1.0], [683 / 1024]]
    assert fmt.decode(encoded).tolist() == [[3, 0, 0, 3], [2049 / 2048] * 4]


@every_format
@every_corner
def test_bytes_are_what_is_stored(fmt: OscarKeys | OscarValues, ft: FloatType, name: str, x: AnyArray) -> None:
    encoded = fmt.encode(x)
    norms = 0 if encoded.norm is None else encoded.norm.nbytes
    stored = encoded.codes.nbytes + encoded.step.nbytes + encoded.minimum.nbytes + norms
    assert stored == len(x) * fmt.bytes_per_block(*x.shape[-2:])
    planes = [plane.nbytes // len(x) for plane in encoded.planes]
    assert tuple(planes) == fmt.plane_bytes(*x.shape[-2:])


@pytest.mark.parametrize(
    ("suffix", "block", "metadata", "total", "ratio"),
    [("", 64, 16, "96.5", "5.306"), ("-g64", 64, 8, "80.5", "6.36"), ("-g128", 128, 4, "72.5", "7.06")],
)
def test_published_storage_table(suffix: str, block: int, metadata: int, total: str, ratio: str) -> None:
    """d = 128, 8 KV heads: 32 + 32 bytes of codes, metadata of keys and of values, half a byte of norm."""
    keys, values = OSCAR_KEY_FORMATS[f"oscar{suffix}"], OSCAR_VALUE_FORMATS[f"oscar{suffix}"]
    assert keys.default_block == block
    of_keys, of_values = bytes_per_token(keys, block, 128, 8), bytes_per_token(values, block, 128, 8)
    assert of_keys == 32 + metadata + F(1, 2)
    assert of_values == 32 + metadata
    assert of_keys + of_values == F(total)
    digits = len(ratio.partition(".")[2])
    assert round(dense_bytes_per_token(128) / (of_keys + of_values), digits) == F(ratio)


@pytest.mark.parametrize(("tokens", "ratio"), [(1_000, "2.65"), (4_095, "4.18"), (131_071, "5.26")])
def test_published_storage_with_a_residual_window(tokens: int, ratio: str) -> None:
    """R = 256: 768, 3840 and 130816 tokens are coded, 232, 255 and 255 are not."""
    keys, values = OSCAR_KEY_FORMATS["oscar"], OSCAR_VALUE_FORMATS["oscar"]
    held = bytes_with_residual(keys, values, 64, 128, kv_heads=8, tokens=tokens, residual=256)
    coded = {1_000: 768, 4_095: 3_840, 131_071: 130_816}[tokens]
    assert held == coded * F("96.5") + (tokens - coded) * 512
    assert round(tokens * F(512) / held, 2) == F(ratio)


@pytest.mark.parametrize(("residual", "tokens"), [(0, 1), (96, 1), (64, -1)])
def test_no_such_window(residual: int, tokens: int) -> None:
    keys, values = OSCAR_KEY_FORMATS["oscar"], OSCAR_VALUE_FORMATS["oscar"]
    with pytest.raises(SettingError, match="residual"):
        bytes_with_residual(keys, values, 64, 128, kv_heads=8, tokens=tokens, residual=residual)


def test_what_is_rotated() -> None:
    for fmt in FORMATS:
        turned = fmt.name not in ("kivi", "oscar-scaling")
        assert is_rotated(fmt) == turned
        assert extra_roundings(fmt, 128) == (9 if turned else 0)


@pytest.mark.parametrize("scope", ["joint", "head"])
def test_norms_are_of_the_layer_or_of_the_head(scope: Any) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((3, 4, 8, 16)) * np.array([1, 10, 0.1, 100])[:, None, None]).astype(np.float16)
    norm = OscarKeys("t", scope=scope).encode(x).norm
    assert norm is not None
    axes = (-3, -1) if scope == "joint" else -1
    want = np.sqrt(np.square(x.astype(np.float64)).sum(axis=axes, keepdims=True))[..., 0]
    np.testing.assert_allclose(norm, np.broadcast_to(want, norm.shape), rtol=2.0**-18)  # of butterflies in FP32


def test_parts_are_taken_and_joined_with_their_norms() -> None:
    x = np.random.default_rng(6).standard_normal((3, 2, 8, 16)).astype(np.float16)
    for fmt in FORMATS:
        whole = fmt.encode(x)
        for head, block in product(range(2), range(3)):
            one = fmt.decode(whole.take((slice(block, block + 1), head)))
            np.testing.assert_array_equal(one[0], fmt.decode(whole)[block, head])
        again = concatenate([fmt.encode(x[:1]), fmt.encode(x[1:])])
        np.testing.assert_array_equal(fmt.decode(again), fmt.decode(whole))


def test_types_of_what_is_stored() -> None:
    for ft, fmt in product(TYPES, FORMATS):
        encoded = fmt.encode(np.ones((1, 4, 8), ft.dtype))
        assert encoded.codes.dtype == np.uint8
        assert encoded.step.dtype == encoded.minimum.dtype == ft.dtype
        assert encoded.norm is None or encoded.norm.dtype == np.float32
    assert BFLOAT16.itemsize == FLOAT16.itemsize == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 3}, "codes of 3 bits; give 2 or 4"),
        ({"bits": True}, "give 2 or 4"),
        ({"group": 0}, "groups of 0"),
        ({"group": 2.0}, "groups of 2.0"),
        ({"plane_bits": (3,)}, "a plane of 3 bits; give planes of 1, 2, 4 or 8"),
        ({"plane_bits": (8, 8)}, "18 bits, planes and codes together; give at most 16"),
        ({"bits": 4, "plane_bits": (8, 4, 1)}, "17 bits"),
        ({"bits": 4, "plane_bits": (8, 8, 8, 8)}, "planes of 32 bits in all; give at most 24"),
    ],
)
@pytest.mark.parametrize("make", [OscarKeys, OscarValues])
def test_formats_that_could_not_be_decoded_are_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make("mine", **settings)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(SettingError, match="format 'mine' has scope 'layer'; give one of 'joint', 'head', or None"):
        OscarKeys("mine", scope="layer")  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "plane_bits"), [(4, (8, 4)), (2, (4, 8, 2)), (2, (2, 4))])
def test_the_finest_planes_with_a_norm_are_decoded_in_one_rounding(bits: int, plane_bits: tuple[int, ...]) -> None:
    """Rational arithmetic: within 2^-53 of the exact meaning, at most as far off as it says, at every level."""
    fmt = OscarKeys("mine", bits, rotated=False, plane_bits=plane_bits)
    x = np.random.default_rng(0).standard_normal((1, 32, 16)).astype(np.float16)
    whole = fmt.encode(x)
    assert whole.norm is not None
    for level in range(len(plane_bits) + 1):
        encoded = whole.at(level)
        finer = sum(plane_bits[:level])
        codes = join(unpack_plane(encoded.codes, bits, 32), encoded.planes, plane_bits, 32)
        decoded, error = fmt.decode(encoded), fmt.decode_error_ub(encoded)
        for t, c in product(range(32), range(16)):
            code = F(int(codes[0, t, c]), 2**finer) + (F(1, 2**finer) - 1) / 2
            step, minimum = (F(float(m[0, 0, c])) for m in (whole.step, whole.minimum))
            exact = F(float(whole.norm[0, t])) * (minimum + step * code)
            off = abs(F(float(decoded[0, t, c])) - exact)
            assert off <= F(float(error[0, t, c]))
            assert off <= abs(exact) / 2**53
