"""The ladder compiles for compute capability 9.0; its programs fit, two or one of them to a multiprocessor."""

from __future__ import annotations

from .compiled import compiled

SHARED_MEMORY = 233_472 // 2 - 1024
"""Bytes of shared memory that each of two programs on a multiprocessor may take."""

SPILLS = 1040
"""Bytes, loads and stores together: mostly arguments of the parts, which are functions of their own."""

LOGARITHMS = 2 * 12
"""Instructions of two log2, which only the reported lse uses: their rounding is in no bound."""


def test_registers_spills_and_rounding() -> None:
    lines = compiled("ladder_launches.py")
    for line in lines:
        name, registers, spills, shared, loose = line
        assert name == "ladder_kernel"
        assert registers <= 255, line
        assert spills <= SPILLS, line
        assert shared <= SHARED_MEMORY, line
        assert loose == LOGARITHMS, line
    assert len(lines) == 5
