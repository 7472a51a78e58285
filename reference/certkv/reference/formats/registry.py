"""Formats by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from certkv.reference.errors import SettingError
from certkv.reference.formats.base import KEYS, VALUES, Format
from certkv.reference.formats.channel import INT4, INT8
from certkv.reference.formats.dense import DENSE
from certkv.reference.formats.int8_paper import INT8_PAPER
from certkv.reference.formats.token_group import INT4_G16, INT4_G32, INT8_G64

_ALL: tuple[Format, ...] = (INT8_PAPER, INT4_G16, INT4_G32, INT8_G64, INT4, INT8, DENSE)

KEY_FORMATS: Mapping[str, Format] = MappingProxyType({f.name: f for f in _ALL if KEYS in f.kind})
VALUE_FORMATS: Mapping[str, Format] = MappingProxyType({f.name: f for f in _ALL if VALUES in f.kind})


def key_format(name: str) -> Format:
    """Return the key format of that name; SettingError lists the names."""
    return _find(name, "key", KEY_FORMATS)


def value_format(name: str) -> Format:
    """Return the value format of that name; SettingError lists the names."""
    return _find(name, "value", VALUE_FORMATS)


def _find(name: str, what: str, formats: Mapping[str, Format]) -> Format:
    if name not in formats:
        raise SettingError(f"unknown {what} format {name!r}; choose one of {', '.join(formats)}")
    return formats[name]
