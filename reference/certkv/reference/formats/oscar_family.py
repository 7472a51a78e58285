"""The names of OScaR's formats and of the baselines that one quantizer's switches make of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from certkv.reference.formats.oscar import OscarKeys
from certkv.reference.formats.oscar_values import OscarValues

PLANES = (2, 4)

# 32 is the size of the paper, and short blocks have shorter groups; a name that says 64 or 128 means it
_of_32 = partial(OscarKeys, group=32, short_groups=True)

_KEYS = (
    _of_32("oscar"),
    OscarKeys("oscar-g64", group=64),
    OscarKeys("oscar-g128", group=128, default_block=128),
    _of_32("oscar-4", bits=4),
    OscarKeys("oscar-4-g64", bits=4, group=64),
    OscarKeys("oscar-4-g128", bits=4, group=128, default_block=128),
    _of_32("oscar-head", scope="head"),
    _of_32("oscar-paper", zero_point=True),
    _of_32("oscar+2+4", plane_bits=PLANES),
    _of_32("oscar-rotation", scope=None),
    _of_32("oscar-scaling", rotated=False),
    _of_32("kivi", rotated=False, scope=None),
)
_VALUES = (
    OscarValues("oscar"),
    OscarValues("oscar-g64", group=64),
    OscarValues("oscar-g128", group=128),
    OscarValues("oscar-4", bits=4),
    OscarValues("oscar+2+4", plane_bits=PLANES),
    OscarValues("kivi", rotated=False),
)

OSCAR_KEY_FORMATS: Mapping[str, OscarKeys] = MappingProxyType({f.name: f for f in _KEYS})
OSCAR_VALUE_FORMATS: Mapping[str, OscarValues] = MappingProxyType({f.name: f for f in _VALUES})
"""Found by name like the others; apart, since what the others mean is a rational number and has no rotation in it."""
