"""The kernels of an append within a graph compile for compute capability 9.0, without spills or flushing subnormals."""

from __future__ import annotations

from collections import Counter

from .compiled import compiled


def test_no_spills_and_no_flushing() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("append_launches.py"):
        name, registers, spills, shared, flushed = line
        kernels[name] += 1
        assert (spills, flushed) == (0, 0), line
        assert registers <= 255, line
        assert shared <= 48 << 10, line
    assert kernels == {"admit_kernel": 3, "turn_kernel": 3}
