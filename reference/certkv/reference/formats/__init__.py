"""Formats: how blocks are stored, what the stored bits mean exactly, and how many bytes they take."""

from certkv.reference.formats.base import KEYS, VALUES, Format, check_originals
from certkv.reference.formats.encoded import Encoded, concatenate, step_per_channel
from certkv.reference.formats.oscar import OscarKeys, least_block
from certkv.reference.formats.oscar_family import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS
from certkv.reference.formats.oscar_values import OscarValues
from certkv.reference.formats.planes import PlanarFormat, levels_of, plane_bytes
from certkv.reference.formats.registry import (
    KEY_FORMATS,
    PLANAR_KEY_FORMATS,
    PLANAR_VALUE_FORMATS,
    VALUE_FORMATS,
    key_format,
    value_format,
)
from certkv.reference.formats.storage import bytes_per_token, dense_bytes_per_token, share_of_dense

__all__ = [
    "KEYS",
    "KEY_FORMATS",
    "OSCAR_KEY_FORMATS",
    "OSCAR_VALUE_FORMATS",
    "PLANAR_KEY_FORMATS",
    "PLANAR_VALUE_FORMATS",
    "VALUES",
    "VALUE_FORMATS",
    "Encoded",
    "Format",
    "OscarKeys",
    "OscarValues",
    "PlanarFormat",
    "bytes_per_token",
    "check_originals",
    "concatenate",
    "dense_bytes_per_token",
    "key_format",
    "least_block",
    "levels_of",
    "plane_bytes",
    "share_of_dense",
    "step_per_channel",
    "value_format",
]
