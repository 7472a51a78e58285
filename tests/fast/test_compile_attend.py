"""Attend, merge and the exact head compile for compute capability 9.0; what the fast path runs does not spill."""

from __future__ import annotations

from collections import Counter

from certkv.fast.kernels.attend import HALVES_REGISTERS

from .compiled import SHARED_MEMORY, compiled


def test_registers_spills_and_shared_memory() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("attend_launches.py"):
        name, registers, spills, shared, _ = line
        kernels[name] += 1
        # under the limit it is the residents' path that spills, twice per program; loops over blocks have next to none,
        # but for 16 registers' worth where four warps share a bfloat16 tile and have 128 registers each
        assert spills <= {HALVES_REGISTERS: 1024, 128: 64}.get(registers, 0), line
        assert registers <= 255, line
        assert shared <= SHARED_MEMORY, line
    assert kernels == {"attend_kernel": 19, "exact_head_kernel": 5, "merge_kernel": 4}
