"""The power of two that a pass scales a query with, so that products with steps keep their bits in binary16."""

from __future__ import annotations

import torch


def query_power(q: torch.Tensor) -> torch.Tensor:
    """Exponent k of the power of two that attend scales a query with, int32 [...]; q [..., d]."""
    largest = q.to(torch.float32).abs().amax(-1)
    exponent = torch.frexp(largest).exponent - 1
    least = -120 if q.dtype == torch.bfloat16 else 0
    # zero and subnormal numbers have the exponent field 0
    exponent = torch.where(largest < 2.0**-126, -127, exponent)
    return (5 - exponent).clamp(least, 100)
