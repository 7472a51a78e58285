"""What a token costs on the device, annotations included: as counted, and as it is in a cache."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from certkv.reference import Cache
from certkv.reference.annotations import annotation_bytes_per_token, device_bytes_per_token
from certkv.reference.cache.cache import SIDES
from certkv.reference.errors import SettingError
from certkv.reference.formats import dense_bytes_per_token, key_format, value_format


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (64, 2 + Fraction(22, 64)),  # two codes per token; 4 scalars of keys and 7 of values, 2 bytes each, per block
        (16, 2 + Fraction(22, 16)),
        (1, Fraction(24)),
    ],
)
def test_annotations(block: int, expected: Fraction) -> None:
    assert annotation_bytes_per_token(block) == expected


def test_annotations_take_less_than_two_and_a_half_bytes() -> None:
    assert annotation_bytes_per_token(64) == Fraction(234375, 100000) < 2.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("int4-g32", Fraction(21834375, 100000)),  # 136 + 80 of the formats: 42.6 % of dense
        ("int8-g64", Fraction(27434375, 100000)),  # 136 + 136: 53.6 %
    ],
)
def test_default_cache(values: str, expected: Fraction) -> None:
    found = device_bytes_per_token(key_format("int8"), value_format(values), 64, 128)
    assert found == expected
    assert round(float(found / dense_bytes_per_token(128)), 3) == {"int4-g32": 0.426, "int8-g64": 0.536}[values]


def test_bytes_are_those_of_a_cache() -> None:
    x = np.random.default_rng(0).standard_normal((192, 2, 64)).astype(np.float16)
    cache = Cache(kv_heads=2, head_dim=64, dtype=x.dtype, keys="int8", values="int4-g32", block=64)
    cache.append(x, x)
    held = sum(part.codes.nbytes + part.step.nbytes + part.minimum.nbytes for part in map(cache.encoded, SIDES))
    held += cache.key_annotations().nbytes + cache.value_annotations().nbytes
    assert held == 192 * 2 * device_bytes_per_token(cache.format("keys"), cache.format("values"), 64, 64)


@pytest.mark.parametrize(("block", "head_dim"), [(0, 128), (64, 0), (-1, 8)])
def test_sizes_below_one_are_refused(block: int, head_dim: int) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        device_bytes_per_token(key_format("int8"), value_format("int8"), block, head_dim)
    if block < 1:
        with pytest.raises(SettingError, match="at least 1"):
            annotation_bytes_per_token(block)
