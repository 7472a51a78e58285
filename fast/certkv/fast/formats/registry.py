"""Formats by name, those of several levels among them."""

from __future__ import annotations

from certkv.fast.errors import SettingError
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, Format, KeyFormat
from certkv.fast.formats.planar import INT4_G32_4, INT4_INT4, INT8_4, INT8_G64_4, Planar

PLANAR_KEY_FORMATS: dict[str, Planar] = {f.name: f for f in (INT8_4, INT4_INT4)}
PLANAR_VALUE_FORMATS: dict[str, Planar] = {f.name: f for f in (INT8_4, INT4_INT4, INT4_G32_4, INT8_G64_4)}
"""Formats of several levels; apart, since everything in the others is one level."""


def key_format(name: str) -> KeyFormat:
    """Return the key format of that name.

    Raises
    ------
    SettingError
        With the names that there are.
    """
    known: dict[str, KeyFormat] = {**KEY_FORMATS, **PLANAR_KEY_FORMATS}
    if name not in known:
        raise SettingError(f"unknown key format {name!r}; choose one of {', '.join(known)}")
    return known[name]


def value_format(name: str) -> Format:
    """Return the value format of that name.

    Raises
    ------
    SettingError
        With the names that there are.
    """
    known: dict[str, Format] = {**VALUE_FORMATS, **PLANAR_VALUE_FORMATS}
    if name not in known:
        raise SettingError(f"unknown value format {name!r}; choose one of {', '.join(known)}")
    return known[name]
