from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from certkv.reference.errors import DTypeError, NonFiniteError, SettingError, ShapeError
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, Encoded, Format, concatenate, step_per_channel

from .corners import CORNER_IDS, CORNERS, AnyArray

FORMATS = list({**KEY_FORMATS, **VALUE_FORMATS}.values())
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)


def gaussian(shape: tuple[int, ...], seed: int = 1) -> AnyArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def assert_same(a: Encoded, b: Encoded) -> None:
    assert (a.format_name, a.block, a.head_dim, a.dtype) == (b.format_name, b.block, b.head_dim, b.dtype)
    for one, other in ((a.codes, b.codes), (a.step, b.step), (a.minimum, b.minimum)):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@every_format
def test_take_and_concatenate_are_encode_of_the_part(fmt: Format) -> None:
    x = gaussian((3, 4, 5, 20))
    whole = fmt.encode(x)
    assert whole.leading == (3, 4)
    assert_same(whole.take(1), fmt.encode(x[1]))
    assert_same(whole.take((2, 3)), fmt.encode(x[2, 3]))
    assert_same(whole.take((slice(None), [0, 2])), fmt.encode(x[:, [0, 2]]))
    assert_same(whole.take(np.array([True, False, True])), fmt.encode(x[[0, 2]]))
    assert_same(concatenate([whole.take(slice(0, 1)), whole.take(slice(1, 3))]), whole)


@every_format
def test_take_stops_at_the_leading_axes(fmt: Format) -> None:
    encoded = fmt.encode(gaussian((2, 5, 20)))
    for index in ((0, 1), (0, slice(0, 2)), (slice(None), slice(0, 1))):
        with pytest.raises(ShapeError, match="leading axes \\(2,\\)"):
            encoded.take(index)
    with pytest.raises(ShapeError, match="leading axes \\(\\)"):
        encoded.take(0).take(0)


@every_format
def test_concatenate_refuses_what_does_not_fit(fmt: Format) -> None:
    first = fmt.encode(gaussian((2, 5, 20)))
    others = [
        fmt.encode(gaussian((2, 4, 20))),
        fmt.encode(gaussian((2, 5, 16))),
        fmt.encode(gaussian((2, 5, 20)).astype(ml_dtypes.bfloat16)),
        fmt.encode(gaussian((2, 1, 5, 20))),
        fmt.encode(gaussian((5, 20))),
        next(f for f in FORMATS if f is not fmt).encode(gaussian((2, 5, 20))),
    ]
    for other in others:
        with pytest.raises(ShapeError, match="part 1"):
            concatenate([first, other])
    with pytest.raises(ShapeError, match="nothing"):
        concatenate([])


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_is_refused_with_its_position(fmt: Format, value: float) -> None:
    x = gaussian((2, 5, 20))
    x[1, 3, 7] = value
    x[1, 4, 0] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        fmt.encode(x)
    assert caught.value.position == (1, 3, 7)
    assert caught.value.tensor == ("x" if len(fmt.kind) > 1 else "k" if "keys" in fmt.kind else "v")


def test_a_signalling_nan_is_refused_without_a_warning() -> None:
    x = np.array([[0x7F81]], dtype=np.uint16).view(ml_dtypes.bfloat16)
    with pytest.raises(NonFiniteError):
        KEY_FORMATS["int8"].encode(x)


@every_format
def test_other_types_and_shapes_are_refused(fmt: Format) -> None:
    for dtype in (np.float32, np.float64, np.int8):
        with pytest.raises(DTypeError):
            fmt.encode(np.zeros((4, 8), dtype=dtype))
    for shape in ((), (8,), (0, 8), (4, 0), (2, 0, 8)):
        with pytest.raises(ShapeError, match="B >= 1"):
            fmt.encode(np.zeros(shape, dtype=np.float16))


@every_format
def test_no_blocks_is_fine(fmt: Format) -> None:
    encoded = fmt.encode(np.zeros((0, 2, 5, 20), dtype=np.float16))
    assert encoded.leading == (0, 2)
    assert fmt.decode(encoded).shape == (0, 2, 5, 20)


@every_format
@pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
def test_byte_count_is_what_is_stored(fmt: Format, ft: object, name: str, x: AnyArray) -> None:
    encoded = fmt.encode(x)
    blocks = int(np.prod(encoded.leading))
    stored = encoded.codes.nbytes + encoded.step.nbytes + encoded.minimum.nbytes
    assert stored == blocks * fmt.bytes_per_block(x.shape[-2], x.shape[-1])


@every_format
def test_encoding_copies_its_input(fmt: Format) -> None:
    x = gaussian((2, 5, 20))
    encoded = fmt.encode(x)
    before = encoded.codes.copy()
    x[...] = 0
    assert np.array_equal(encoded.codes, before)


def test_step_per_channel() -> None:
    x = gaussian((2, 5, 20))
    for name in ("int8", "int8-paper"):
        encoded = KEY_FORMATS[name].encode(x)
        assert np.array_equal(step_per_channel(encoded), encoded.step.astype(np.float64))
    assert step_per_channel(KEY_FORMATS["dense"].encode(x)).tolist() == np.zeros((2, 20)).tolist()
    with pytest.raises(SettingError, match="int4-g16"):
        step_per_channel(VALUE_FORMATS["int4-g16"].encode(x))
