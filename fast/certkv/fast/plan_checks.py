"""What a plan checks: every reason why it cannot run, or would run without a proof."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.checks import Reasons, real_number
from certkv.fast.errors import SettingError
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, OscarKeys, OscarValues

HOPPER, LARGEST_HEAD = 9, 256

LARGEST_SCALE = 2.0**60
"""Scales between its inverse and it: scores of originals stay in binary32."""


class Listed(Reasons):
    """Reasons as strings."""

    def strings(self) -> list[str]:
        """Return every reason."""
        return [str(error) for error in self._errors]


def checked_scale(scale: float | None, head_dim: int) -> float:
    """Return the softmax scale as a float64.

    Raises
    ------
    SettingError
        Not a finite number of a magnitude between 2**-60 and 2**60.
    """
    value = head_dim**-0.5 if scale is None else real_number("scale", scale)
    if not 1.0 / LARGEST_SCALE <= abs(value) <= LARGEST_SCALE:
        raise SettingError(f"scale is {value}; give a finite number whose magnitude is between 2**-60 and 2**60")
    return value


def format_reasons(cache: TieredCache) -> list[str]:
    """Say which formats of the cache steps do not read."""
    sides = (("keys", cache.keys, KEY_FORMATS), ("values", cache.values, VALUE_FORMATS))
    return [
        f"{what} are {name}, which a cache stores and steps do not read yet"
        for what, name, known in sides
        if isinstance(known.get(name), OscarKeys | OscarValues)
    ]


def device_reasons(cache: TieredCache) -> list[str]:
    """Say why kernels cannot run, or would run without a proof, on the cache's GPU."""
    reasons = []
    major, minor = torch.cuda.get_device_capability(cache.device)
    if major != HOPPER:
        reasons.append(f"the GPU has compute capability {major}.{minor}; the kernels' rounding is modelled for 9.x")
    if cache.head_dim % 4 or cache.head_dim > LARGEST_HEAD:
        reasons.append(f"head_dim is {cache.head_dim}; kernels take multiples of 4 up to {LARGEST_HEAD}")
    if cache.planes.some:
        names = f"keys={cache.keys!r}, values={cache.values!r}"
        reasons.append(
            f"{names} have refinement planes, which kernels do not read yet; give formats of one level, such as "
            "int8 and int4-g32, or a cache on the CPU"
        )
    return reasons
