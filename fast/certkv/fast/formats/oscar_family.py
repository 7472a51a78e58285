"""The names of OScaR's formats and of the baselines that one quantizer's switches make of it."""

from __future__ import annotations

from functools import partial

from certkv.fast.formats.oscar import OscarKeys
from certkv.fast.formats.oscar_values import OscarValues

# 32 is the size of the paper, and short blocks have shorter groups; a name that says 64 or 128 means it
_of_32 = partial(OscarKeys, group=32, short_groups=True)

OSCAR_KEYS = (
    _of_32("oscar"),
    OscarKeys("oscar-g64", group=64),
    OscarKeys("oscar-g128", group=128),
    _of_32("oscar-4", bits=4),
    OscarKeys("oscar-4-g64", bits=4, group=64),
    OscarKeys("oscar-4-g128", bits=4, group=128),
    _of_32("oscar-head", scope="head"),
    _of_32("oscar-paper", zero_point=True),
    _of_32("oscar-rotation", scope=None),
    _of_32("oscar-scaling", rotated=False),
    _of_32("kivi", rotated=False, scope=None),
)
OSCAR_VALUES = (
    OscarValues("oscar"),
    OscarValues("oscar-g64", group=64),
    OscarValues("oscar-g128", group=128),
    OscarValues("oscar-4", bits=4),
    OscarValues("kivi", rotated=False),
)
