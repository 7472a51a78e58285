"""Attend with statistics and the first tier compile for compute capability 9.0; what runs at length does not spill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPILLS = 128
"""Bytes that a program of one or two blocks may spill: once, not in a loop."""

LOGARITHM = 12
"""Instructions of log2, which only the reported lse uses: its rounding is in no bound."""


def test_registers_spills_and_rounding() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / "first_tier_launches.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels: Counter[str] = Counter()
    spilled = []
    for line in done.stdout.splitlines():
        name, registers, spills, _, loose = line.split()
        print(line)
        kernels[name] += 1
        assert int(registers) <= 255, line
        assert int(loose) == (LOGARITHM if name == "first_tier_kernel" else 0), line
        assert int(spills) <= SPILLS, line
        spilled.append(int(spills))
    assert kernels == {"attend_kernel": 7, "first_tier_kernel": 7}
    # many blocks per program: the first, third and fourth launch of attend
    assert spilled[0] == spilled[4] == spilled[6] == 0
