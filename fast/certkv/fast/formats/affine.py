"""The affine rule that the formats share, and what its codes mean; bit for bit that of docs/formats/channel.md.

Every written operator is one FP32 operation, rounded to nearest even, subnormals kept, never fused::

    half_range = hi/2 - lo/2
    step       = round_up_T(half_range / (levels/2))       T: type of the originals
    minimum    = lo                                        an element, exact; zero is +0.0
    code       = clamp(rne((x/2 - lo/2) / (step/2)), 0, levels)     0 where the step is 0
"""

from __future__ import annotations

import torch

from certkv.fast.numbers import fp32, round_up


def quantize(x: torch.Tensor, axis: int, levels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize along an axis to codes 0..levels.

    Parameters
    ----------
    x : float16 or bfloat16, finite
    axis : int
        The axis that shares a step.
    levels : int
        3, 15 or 255.

    Returns
    -------
    codes : uint8, shape of x
    step, minimum : type of x, shape of x without the axis
    """
    x64 = x.to(torch.float64)
    lo = x64.amin(axis, keepdim=True) + 0.0
    hi = x64.amax(axis, keepdim=True) + 0.0
    half_range = fp32(0.5 * hi - 0.5 * lo)
    # a tensor, because CUDA multiplies by the reciprocal of a Python number
    half_levels = torch.full((), levels / 2, dtype=torch.float64, device=x.device)
    step = round_up(fp32(half_range / half_levels), x.dtype)
    codes = codes_of(x64, step.to(torch.float64), lo, levels)
    # lo is an element, so these conversions are exact
    minimum = lo.to(torch.float32).to(x.dtype)
    return codes, step.squeeze(axis), minimum.squeeze(axis)


def codes_of(x: torch.Tensor, step: torch.Tensor, minimum: torch.Tensor, levels: int) -> torch.Tensor:
    """Return the codes of numbers, uint8, from the step and the minimum that are stored; float64, broadcast."""
    half_step = 0.5 * step
    divisor = torch.where(half_step > 0, half_step, 1.0)
    quotient = fp32(fp32(0.5 * x - 0.5 * minimum) / divisor)
    return torch.round(quotient).clamp(0, levels).to(torch.uint8)


def reconstruct(codes: torch.Tensor, step: torch.Tensor, minimum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return D = ``fl64(minimum + step code)`` and ``|D - (minimum + step code)|``, both float64 and exact as such.

    The product is exact; the error of the sum is Knuth's TwoSum. Arguments broadcast against each other.
    """
    a = minimum.to(torch.float64)
    b = step.to(torch.float64) * codes.to(torch.float64)
    total = a + b
    from_b = total - a
    from_a = total - from_b
    return total, ((a - from_a) + (b - from_b)).abs()
