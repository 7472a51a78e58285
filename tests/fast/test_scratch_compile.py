"""The kernels of scratch compile for compute capability 9.0, without spills; copies are as wide as the bus wants."""

from __future__ import annotations

from collections import Counter

from .compiled import compiled


def test_no_spills() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("scratch_launches.py"):
        name, registers, spills, _, _ = line
        kernels[name] += 1
        assert spills == 0, line
        assert registers <= 255, line
    assert kernels == {"reserve_kernel": 8, "fill_kernel": 8}
