from fractions import Fraction

import pytest

from certkv.reference.errors import SettingError
from certkv.reference.formats import bytes_per_token, dense_bytes_per_token, key_format, share_of_dense, value_format


def test_storage_table_of_the_paper() -> None:
    keys, values = key_format("int8-paper"), value_format("int4-g16")
    assert bytes_per_token(keys, 16, 128) == 192
    assert bytes_per_token(values, 16, 128) == 96
    assert dense_bytes_per_token(128) == 512
    assert share_of_dense(keys, values, 16, 128) == Fraction(5625, 10000)


@pytest.mark.parametrize(
    ("name", "block", "head_dim", "expected"),
    [
        ("int8", 64, 128, Fraction(136)),  # 128 codes + 128 x 4 / 64
        ("int4", 64, 128, Fraction(72)),  # 64 + 128 x 4 / 64
        ("int4-g32", 64, 128, Fraction(80)),  # 64 + 4 groups x 4
        ("int8-g64", 64, 128, Fraction(136)),  # 128 + 2 groups x 4
        ("dense", 64, 128, Fraction(256)),
        ("int4-g32", 64, 80, Fraction(52)),  # 40 + 3 groups x 4, the last of 16 channels
        ("int4", 7, 20, Fraction(4 * 20 + 4 * 20, 7)),  # ceil(7/2) rows of codes
    ],
)
def test_bytes_per_token_of_values(name: str, block: int, head_dim: int, expected: Fraction) -> None:
    assert bytes_per_token(value_format(name), block, head_dim) == expected


def test_default_formats_take_42_percent() -> None:
    assert share_of_dense(key_format("int8"), value_format("int4-g32"), 64, 128) == Fraction(216, 512)


@pytest.mark.parametrize(("block", "head_dim"), [(0, 128), (64, 0), (-1, 8)])
def test_sizes_below_one_are_refused(block: int, head_dim: int) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        bytes_per_token(key_format("int8"), block, head_dim)
