"""The encoding kernels compile for compute capability 9.0, without spills and without flushing subnormals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SHARED_MEMORY = 232_448
"""Bytes of shared memory that one program may take."""


LAUNCHES = {
    # six formats of values with two operator norms each, twice keys with one
    "encode_launches.py": {"encode_keys_kernel": 2, "encode_values_kernel": 6, "operator_norm_kernel": 14},
    # three operator norms each; one format has no norms of tokens
    "encode_oscar_launches.py": {
        "token_norm_kernel": 3,
        "encode_oscar_keys_kernel": 4,
        "encode_oscar_values_kernel": 4,
        "operator_norm_kernel": 12,
    },
}


@pytest.mark.parametrize("launches", LAUNCHES)
def test_no_spills_and_no_flushing(launches: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / launches)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        name, registers, spills, shared, flushed = line.split()
        print(line)
        kernels[name] += 1
        assert (int(spills), int(flushed)) == (0, 0), line
        assert int(registers) <= 255, line
        assert int(shared) <= SHARED_MEMORY, line
    assert kernels == LAUNCHES[launches]
