"""The ladder compiles for compute capability 9.0; its programs fit, two or one of them to a multiprocessor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED_MEMORY = 233_472 // 2 - 1024
"""Bytes of shared memory that each of two programs on a multiprocessor may take."""

SPILLS = 1024
"""Bytes, loads and stores together: mostly arguments of the parts, which are functions of their own."""

LOGARITHMS = 2 * 12
"""Instructions of two log2, which only the reported lse uses: their rounding is in no bound."""


def test_registers_spills_and_rounding() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / "ladder_launches.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for line in lines:
        name, registers, spills, shared, loose = line.split()
        print(line)
        assert name == "ladder_kernel"
        assert int(registers) <= 255, line
        assert int(spills) <= SPILLS, line
        assert int(shared) <= SHARED_MEMORY, line
        assert int(loose) == LOGARITHMS, line
    assert len(lines) == 4
