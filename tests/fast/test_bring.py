"""Blocks that programs of the ladder bring from the host: each has a place of its own."""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from certkv.fast.kernels.refine import bring

PROGRAMS = 7


@triton.jit
def brought_kernel(source, brought, found, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Bring a block per program, and write down what is read where it should be."""
    first = tl.program_id(0) * SIZE
    at = bring(source + first, brought, SIZE, PADDED)
    element = tl.arange(0, PADDED)
    tl.store(found + first + element, tl.load(at + element, mask=element < SIZE, other=0), mask=element < SIZE)


@pytest.mark.parametrize(("block", "head_dim"), [(16, 80), (48, 96), (128, 192), (5, 68)])
def test_every_program_has_its_own(block: int, head_dim: int) -> None:
    size, padded = block * head_dim, triton.next_power_of_2(block) * triton.next_power_of_2(head_dim)
    source = torch.randint(-30_000, 30_000, (PROGRAMS, size), dtype=torch.int16)
    brought, found = torch.full((PROGRAMS + 1, size), 77, dtype=torch.int16), torch.zeros_like(source)
    brought_kernel[(PROGRAMS,)](source, brought, found, SIZE=size, PADDED=padded)
    assert torch.equal(found, source)
    assert torch.equal(brought[:PROGRAMS], source)
    assert (brought[PROGRAMS] == 77).all()
