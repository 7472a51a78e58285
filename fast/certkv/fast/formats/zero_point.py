"""The affine rule with an integer zero point, as OScaR's code has it (arXiv 2605.19660), made total.

Every written operator is one FP32 operation, rounded to nearest even, subnormals kept, except where T, the type of the
originals, is named; bit for bit that of docs/formats/oscar.md::

    s     = (hi/2 - lo/2) / (levels/2)
    zero  = rne(-lo / s)                      an integer, not clamped
    step  = rne_T(s), at least T's smallest number where s > 0
    shift = rne_T(-(zero s)), cut at the largest number of T
    code  = clamp(rne((x/2 - shift/2) / (step/2)), 0, levels)

Where hi = lo: step 0, shift lo, code 0, which is exact. The meaning is ``shift + step code``.
"""

from __future__ import annotations

import torch

from certkv.fast.formats.affine import codes_of
from certkv.fast.numbers import fp32, smallest


def quantize_zero_point(x: torch.Tensor, axis: int, levels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize along an axis to codes 0..levels; arguments and result as those of `affine.quantize`."""
    x64 = x.to(torch.float64)
    lo = x64.amin(axis, keepdim=True) + 0.0
    hi = x64.amax(axis, keepdim=True) + 0.0
    half_levels = torch.full((), levels / 2, dtype=torch.float64, device=x.device)
    s = fp32(fp32(0.5 * hi - 0.5 * lo) / half_levels)
    positive = s > 0
    zero = torch.round(fp32(-lo / torch.where(positive, s, 1.0)))
    largest = torch.finfo(x.dtype).max
    shift = torch.where(positive, fp32(-(zero * s)), lo).clamp(-largest, largest)
    # both are FP32 numbers, which are rounded to 16 bits once
    nearest = s.to(torch.float32).to(x.dtype).to(torch.float32).clamp(min=smallest(x.dtype))
    step = torch.where(positive, nearest, 0.0).to(x.dtype)
    minimum = (shift.to(torch.float32).to(x.dtype).to(torch.float32) + 0.0).to(x.dtype)
    codes = codes_of(x64, step.to(torch.float64), minimum.to(torch.float64), levels)
    return codes, step.squeeze(axis), minimum.squeeze(axis)
