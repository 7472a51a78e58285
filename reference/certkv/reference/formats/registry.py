"""Formats by name: our own, and those that a user has registered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from certkv.reference.errors import SettingError
from certkv.reference.formats.base import KEYS, VALUES, Format
from certkv.reference.formats.channel import INT4, INT8
from certkv.reference.formats.dense import DENSE
from certkv.reference.formats.int8_paper import INT8_PAPER
from certkv.reference.formats.oscar_family import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS
from certkv.reference.formats.planar import INT4_G32_4, INT4_INT4, INT8_4, INT8_G64_4
from certkv.reference.formats.planes import PlanarFormat
from certkv.reference.formats.token_group import INT4_G16, INT4_G32, INT8_G64

_ALL: tuple[Format, ...] = (INT8_PAPER, INT4_G16, INT4_G32, INT8_G64, INT4, INT8, DENSE)

_KEYS: dict[str, Format] = {f.name: f for f in _ALL if KEYS in f.kind}
_VALUES: dict[str, Format] = {f.name: f for f in _ALL if VALUES in f.kind}

KEY_FORMATS: Mapping[str, Format] = MappingProxyType(_KEYS)
VALUE_FORMATS: Mapping[str, Format] = MappingProxyType(_VALUES)

_PLANAR: tuple[PlanarFormat, ...] = (INT4_INT4, INT8_4, INT4_G32_4, INT8_G64_4)

PLANAR_KEY_FORMATS: Mapping[str, PlanarFormat] = MappingProxyType({f.name: f for f in _PLANAR if KEYS in f.kind})
PLANAR_VALUE_FORMATS: Mapping[str, PlanarFormat] = MappingProxyType({f.name: f for f in _PLANAR if VALUES in f.kind})
"""Formats of several levels, found by name like the others; apart, since everything in the others is one level."""


def key_format(name: str) -> Format:
    """Return the key format of that name; SettingError lists the names."""
    return _find(name, "key", {**KEY_FORMATS, **PLANAR_KEY_FORMATS, **OSCAR_KEY_FORMATS})


def value_format(name: str) -> Format:
    """Return the value format of that name; SettingError lists the names."""
    return _find(name, "value", {**VALUE_FORMATS, **PLANAR_VALUE_FORMATS, **OSCAR_VALUE_FORMATS})


def register(fmt: Format) -> None:
    """Make a format known by its name, for what its kind says.

    Raises
    ------
    SettingError
        The name is taken (a name never changes its meaning), or the kind is not one or both of "keys" and "values".
    """
    if not fmt.kind or not fmt.kind <= {KEYS, VALUES}:
        raise SettingError(f"format {fmt.name!r} has kind {set(fmt.kind)}; give one or both of {KEYS!r} and {VALUES!r}")
    apart = {*(planar.name for planar in _PLANAR), *OSCAR_KEY_FORMATS, *OSCAR_VALUE_FORMATS}
    if fmt.name in _KEYS or fmt.name in _VALUES or fmt.name in apart:
        raise SettingError(f"there is already a format {fmt.name!r}; give yours another name, or unregister that one")
    for kind, formats in ((KEYS, _KEYS), (VALUES, _VALUES)):
        if kind in fmt.kind:
            formats[fmt.name] = fmt


def unregister(name: str) -> None:
    """Forget a registered format; caches that hold blocks in it keep it.

    Raises
    ------
    SettingError
        No such format, or one of our own.
    """
    if name in (fmt.name for fmt in _ALL) or not (name in _KEYS or name in _VALUES):
        raise SettingError(f"{name!r} is not a format that was registered")
    _KEYS.pop(name, None)
    _VALUES.pop(name, None)


def _find(name: str, what: str, formats: Mapping[str, Format]) -> Format:
    if not isinstance(name, str) or name not in formats:
        raise SettingError(f"unknown {what} format {name!r}; choose one of {', '.join(formats)}")
    return formats[name]
