"""Formats: how blocks are stored, and what the stored bits mean exactly."""

from certkv.fast.formats.base import Encoded, Format
from certkv.fast.formats.channel import INT4, INT8, PerChannel
from certkv.fast.formats.token_group import INT4_G32, INT8_G64, PerTokenGroup

KEY_FORMATS: dict[str, Format] = {"int8": INT8}
VALUE_FORMATS: dict[str, Format] = {f.name: f for f in (INT8, INT4, INT4_G32, INT8_G64)}

__all__ = ["KEY_FORMATS", "VALUE_FORMATS", "Encoded", "Format", "PerChannel", "PerTokenGroup"]
