"""The kernels that know levels compile for compute capability 9.0, without spills and flushing no subnormals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED_MEMORY = 232_448
"""Bytes of shared memory that one program may take."""


def test_no_spills_and_no_flushing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / "planes_launches.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        name, registers, spills, shared, flushed = line.split()
        print(line)
        kernels[name] += 1
        # joining corrections takes one logarithm, of a number that is no bound
        assert (int(spills), 0 if name == "settle_kernel" else int(flushed)) == (0, 0), line
        assert int(registers) <= 255, line
        assert int(shared) <= SHARED_MEMORY, line
    every: tuple[str, ...] = ("certify_kernel", "choose_kernel", "compact_kernel", "refine_kernel", "settle_kernel")
    every += ("finish_levels_kernel", "mark_kernel", "write_filled_kernel", "verify_kernel")
    # four settings; in three of them keys have a plane, and in three values do
    counted = dict.fromkeys(every, 4) | {"score_error_kernel": 3, "encode_plane_kernel": 6, "level_norm_kernel": 6}
    assert kernels == counted
