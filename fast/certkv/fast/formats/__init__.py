"""Formats: how blocks are stored, and what the stored bits mean exactly."""

from certkv.fast.formats.base import Encoded, Format, KeyFormat
from certkv.fast.formats.channel import INT4, INT8, PerChannel
from certkv.fast.formats.oscar import OscarKeys
from certkv.fast.formats.oscar_family import OSCAR_KEYS, OSCAR_VALUES
from certkv.fast.formats.oscar_values import OscarValues
from certkv.fast.formats.token_group import INT4_G32, INT8_G64, PerTokenGroup

KEY_FORMATS: dict[str, KeyFormat] = {f.name: f for f in (INT8, *OSCAR_KEYS)}
VALUE_FORMATS: dict[str, Format] = {f.name: f for f in (INT8, INT4, INT4_G32, INT8_G64, *OSCAR_VALUES)}

__all__ = [
    "INT4",
    "INT8",
    "KEY_FORMATS",
    "VALUE_FORMATS",
    "Encoded",
    "Format",
    "KeyFormat",
    "OscarKeys",
    "OscarValues",
    "PerChannel",
    "PerTokenGroup",
]
