import pytest

from certkv.reference.errors import SettingError
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, key_format, value_format


def test_names() -> None:
    assert set(KEY_FORMATS) == {"int8-paper", "int8", "dense"}
    assert set(VALUE_FORMATS) == {"int4-g16", "int4-g32", "int8-g64", "int4", "int8", "dense"}
    for formats, find, kind in ((KEY_FORMATS, key_format, "keys"), (VALUE_FORMATS, value_format, "values")):
        for name, fmt in formats.items():
            assert find(name) is fmt
            assert fmt.name == name
            assert kind in fmt.kind


def test_default_blocks() -> None:
    formats = {**KEY_FORMATS, **VALUE_FORMATS}
    paper = {"int8-paper", "int4-g16"}
    assert {name: f.default_block for name, f in formats.items()} == {n: 16 if n in paper else 64 for n in formats}


@pytest.mark.parametrize("name", ["int4-g16", "", "INT8", "oscars"])
def test_unknown_key_format_lists_the_names(name: str) -> None:
    with pytest.raises(SettingError, match="int8-paper, int8, dense"):
        key_format(name)


def test_unknown_value_format_lists_the_names() -> None:
    with pytest.raises(SettingError, match="int4-g16, int4-g32, int8-g64, int4, int8, dense"):
        value_format("int8-paper")
