"""The kernels of scratch compile for compute capability 9.0, without spills; copies are as wide as the bus wants."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_no_spills() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / "scratch_launches.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        name, registers, spills, _, _ = line.split()
        print(line)
        kernels[name] += 1
        assert int(spills) == 0, line
        assert int(registers) <= 255, line
    assert kernels == {"reserve_kernel": 8, "fill_kernel": 8}
