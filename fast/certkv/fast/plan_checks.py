"""What a plan checks: every reason why it cannot run, or would run without a proof."""

from __future__ import annotations

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.checks import Reasons, real_number
from certkv.fast.errors import SettingError
from certkv.fast.formats.planar import Planar
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS, key_format, value_format

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


def gpu_reason(device: torch.device) -> str | None:
    """Say why no certificate of the kernels' rounding holds on a GPU; None where one does."""
    name, instead = torch.cuda.get_device_name(device), "use an H100 or H200, or a cache on the CPU"
    known = f"rounding of the kernels is known for NVIDIA's compute capability {HOPPER}.x alone; {instead}"
    if torch.version.hip is not None:
        # AMD's GPUs count 9.x, too
        return f"{name} is driven by ROCm; {known}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major == HOPPER else f"{name} has compute capability {major}.{minor}; {known}"


def device_reasons(cache: TieredCache) -> list[str]:
    """Say why kernels cannot run, or would run without a proof, on the cache's GPU."""
    reasons = [] if (reason := gpu_reason(cache.device)) is None else [reason]
    if cache.head_dim % 4 or cache.head_dim > LARGEST_HEAD:
        reasons.append(f"head_dim is {cache.head_dim}; kernels take multiples of 4 up to {LARGEST_HEAD}")
    for side, fmt in (("keys", key_format(cache.keys)), ("values", value_format(cache.values))):
        if isinstance(fmt, Planar) and fmt.divided:
            known = PLANAR_KEY_FORMATS if side == "keys" else PLANAR_VALUE_FORMATS
            refined = ", ".join(x.name for x in known.values() if not x.divided)
            reasons.append(
                f"{side} are {fmt.name}, whose base plane kernels do not write yet; give one of {refined}, a format of "
                "one level, or a cache on the CPU"
            )
    return reasons
