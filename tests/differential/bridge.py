"""Between the arrays of the reference and the tensors of the fast path, bit for bit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from certkv.fast.pool import Pool, allocate
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType

AnyArray = npt.NDArray[Any]

TORCH = {FLOAT16.name: torch.float16, BFLOAT16.name: torch.bfloat16}

DEVICE = "cuda" if os.environ.get("TRITON_INTERPRET") == "0" and torch.cuda.is_available() else "cpu"
"""Where kernels run: interpreted on the CPU, unless TRITON_INTERPRET is 0."""

INTERPRETED_KERNELS = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]
"""Marks of tests that run kernels: the interpreter computes with NumPy, which warns of every overflow."""


def to_torch(x: AnyArray, ft: FloatType) -> torch.Tensor:
    """Tensor with the same 16-bit patterns."""
    return torch.from_numpy(np.ascontiguousarray(x).view(np.int16).copy()).view(TORCH[ft.name])


def bits(t: torch.Tensor) -> AnyArray:
    """Bytes or 16-bit patterns of a tensor; float32 too."""
    t = t.detach().cpu().contiguous()
    if t.dtype == torch.uint8:
        return t.numpy()
    width = torch.int32 if t.dtype == torch.float32 else torch.int16
    return t.view(width).numpy().view(np.uint32 if width == torch.int32 else np.uint16)


def guarded(x: torch.Tensor) -> torch.Tensor:
    """Same numbers as a view into a larger tensor of NaN, so that a read beside it shows."""
    around = torch.full([size + 2 for size in x.shape], float("nan"), dtype=x.dtype, device=x.device)
    inside = around[tuple(slice(1, -1) for _ in x.shape)]
    inside.copy_(x)
    return inside


def two_pools(x: torch.Tensor, values: str, pages: int, device: str = "cpu") -> tuple[Pool, Pool]:
    """Two poisoned pools for blocks [n, H, B, d]: for the twin on the CPU, for the kernel where it runs."""
    _, heads, block, head_dim = x.shape
    return (
        allocate(pages, heads, block, head_dim, x.dtype, values),
        allocate(pages, heads, block, head_dim, x.dtype, values, device),
    )
