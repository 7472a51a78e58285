"""Launches of the kernels that encode OScaR's kin, at the usual size and at the largest tiles; for hopper.py."""

from __future__ import annotations

import torch

from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, OscarKeys, OscarValues
from certkv.fast.kernels.encode_oscar_keys import encode_oscar_keys
from certkv.fast.kernels.encode_oscar_values import encode_oscar_values
from certkv.fast.pool import allocate

SIZES = {
    (64, 128): ("oscar", "kivi"),
    (128, 256): ("oscar-4-g128",),
    (64, 80): ("oscar-paper",),
}


def launches() -> None:
    for (block, head_dim), names in SIZES.items():
        for name in names:
            dtype = torch.float16 if name == "kivi" else torch.bfloat16
            of_keys, of_values = KEY_FORMATS[name], VALUE_FORMATS.get(name, VALUE_FORMATS["oscar-g128"])
            if not isinstance(of_keys, OscarKeys) or not isinstance(of_values, OscarValues):
                raise TypeError(name)
            x = torch.zeros(4, 2, block, head_dim, dtype=dtype)
            pages = torch.zeros(4, dtype=torch.int32)
            pool = allocate(4, 2, block, head_dim, dtype, of_values.name, keys=name)
            encode_oscar_keys(x, pages, pool, of_keys)
            encode_oscar_values(x, pages, pool, torch.zeros(4, 2, head_dim), of_values)
