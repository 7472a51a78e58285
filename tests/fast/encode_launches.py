"""Launches of the encoding kernels, at the usual size and at the largest tiles; to be compiled by hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.formats import VALUE_FORMATS, OscarValues
from certkv.fast.kernels.encode_keys import encode_keys
from certkv.fast.kernels.encode_values import encode_values
from certkv.fast.pool import allocate

AFFINE = tuple(name for name, fmt in VALUE_FORMATS.items() if not isinstance(fmt, OscarValues))
SIZES = {(64, 128): AFFINE, (128, 256): ("int8", "int8-g64")}


def launches() -> None:
    for (block, head_dim), names in SIZES.items():
        for name in names:
            dtype = torch.float16 if name == "int4" else torch.bfloat16
            x = torch.zeros(4, 2, block, head_dim, dtype=dtype)
            pages = torch.zeros(4, dtype=torch.int32)
            pool = allocate(4, 2, block, head_dim, dtype, name)
            if name == "int8":
                encode_keys(x, pages, pool)
            encode_values(x, pages, pool, torch.zeros(4, 2, head_dim), VALUE_FORMATS[name])
