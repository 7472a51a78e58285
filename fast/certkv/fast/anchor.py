"""The anchor of the certificate: the mean value of the first full block, in FP32, fixed from then on."""

from __future__ import annotations

import torch


def first_block_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of a block, [..., B, d] of 16-bit values -> float32 [..., d].

    Summed token by token in float64, divided, rounded: any vector is a valid anchor, and this order makes it the one of
    the reference, bit for bit.
    """
    total = torch.zeros_like(values[..., 0, :], dtype=torch.float64)
    for t in range(values.shape[-2]):
        total = total + values[..., t, :].to(torch.float64)
    # a tensor, because CUDA multiplies by the reciprocal of a Python number
    tokens = torch.full((), values.shape[-2], dtype=torch.float64, device=values.device)
    return (total / tokens).to(torch.float32)
