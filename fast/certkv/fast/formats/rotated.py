"""What formats in the rotated basis share: the way there, and the way back."""

from __future__ import annotations

import torch

from certkv.fast.formats import rotation
from certkv.fast.formats.rotation import EXPONENT


def originals_as_stored(x: torch.Tensor, rotated: bool) -> torch.Tensor:
    """Return 16-bit originals times ``2**EXPONENT``, rotated or not, as FP32 numbers in float64; [..., d]."""
    return rotation.rotate_originals(x) if rotated else rotation.scaled(x)


def to_type(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Take the factor ``2**EXPONENT`` off and round to 16 bits, nearest even; what overflows is the largest number.

    Numbers that were not rotated come back as they were.
    """
    largest = torch.finfo(dtype).max
    # a number of FP32 is rounded to 16 bits once
    return (y * 2.0**-EXPONENT).clamp(-largest, largest).to(torch.float32).to(dtype)


def turned_back(inside: torch.Tensor, err: torch.Tensor, rotated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``H inside`` and a bound of its distance from H times the meaning that `inside` rounds.

    Parameters
    ----------
    inside : float64 [..., d]
        Each element rounded once.
    err : float64 [..., d]
        What it is off by; the result where nothing is rotated.
    """
    return (rotation.rotate(inside), rotation.rotate_error_ub(inside)) if rotated else (inside, err)
