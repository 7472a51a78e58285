"""Attend with statistics and the first tier compile for compute capability 9.0; what runs at length does not spill."""

from __future__ import annotations

from collections import Counter

from .compiled import compiled

SPILLS = 128
"""Bytes that a program of one or two blocks may spill: once, not in a loop."""

LOGARITHM = 12
"""Instructions of log2, which only the reported lse uses: its rounding is in no bound."""


def test_registers_spills_and_rounding() -> None:
    kernels: Counter[str] = Counter()
    spilled = []
    for line in compiled("first_tier_launches.py"):
        name, registers, spills, _, loose = line
        kernels[name] += 1
        assert registers <= 255, line
        assert loose == (LOGARITHM if name == "first_tier_kernel" else 0), line
        assert spills <= SPILLS, line
        spilled.append(spills)
    assert kernels == {"attend_kernel": 7, "first_tier_kernel": 7}
    # many blocks per program: the first, third and fourth launch of attend
    assert spilled[0] == spilled[4] == spilled[6] == 0
