"""Formats by name, those of several levels among them."""

from __future__ import annotations

from typing import TypeVar

from certkv.fast.errors import SettingError
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, Format, KeyFormat
from certkv.fast.formats.planar import (
    INT4_G32_4,
    INT4_INT4,
    INT8_4,
    INT8_G64_4,
    OSCAR_KEYS_2_4,
    OSCAR_VALUES_2_4,
    Planar,
)

PLANAR_KEY_FORMATS: dict[str, Planar] = {f.name: f for f in (INT8_4, INT4_INT4, OSCAR_KEYS_2_4)}
PLANAR_VALUE_FORMATS: dict[str, Planar] = {
    f.name: f for f in (INT8_4, INT4_INT4, INT4_G32_4, INT8_G64_4, OSCAR_VALUES_2_4)
}
"""Formats of several levels; apart, since everything in the others is one level."""

T = TypeVar("T")

_KEYS: dict[str, KeyFormat] = {**KEY_FORMATS, **PLANAR_KEY_FORMATS}
_VALUES: dict[str, Format] = {**VALUE_FORMATS, **PLANAR_VALUE_FORMATS}


def key_format(name: str) -> KeyFormat:
    """Return the key format of that name.

    Raises
    ------
    SettingError
        With the names that there are.
    """
    return _named("key", name, _KEYS)


def value_format(name: str) -> Format:
    """Return the value format of that name.

    Raises
    ------
    SettingError
        With the names that there are.
    """
    return _named("value", name, _VALUES)


def _named(side: str, name: str, known: dict[str, T]) -> T:
    if not isinstance(name, str) or name not in known:
        raise SettingError(f"unknown {side} format {name!r}; choose one of {', '.join(known)}")
    return known[name]
