"""The kernels of an append within a graph compile for compute capability 9.0, without spills or flushing subnormals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_no_spills_and_no_flushing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / "append_launches.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        name, registers, spills, shared, flushed = line.split()
        print(line)
        kernels[name] += 1
        assert (int(spills), int(flushed)) == (0, 0), line
        assert int(registers) <= 255, line
        assert int(shared) <= 48 << 10, line
    assert kernels == {"admit_kernel": 3, "turn_kernel": 3}
