"""What `hopper.py` says of the kernels that a module launches, compiled for compute capability 9.0 in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SHARED_MEMORY = 232_448
"""Bytes of shared memory that one program may take."""


class Compiled(NamedTuple):
    """One kernel as it was compiled; ``loose`` counts instructions that flush or do not round correctly."""

    name: str
    registers: int
    spills: int
    shared: int
    loose: int


def compiled(launches: str) -> list[Compiled]:
    """Compile what a module beside this one launches; the path may be below this folder."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "hopper.py"), str(HERE / launches)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = []
    for line in done.stdout.splitlines():
        print(line)
        name, *numbers = line.split()
        found.append(Compiled(name, *map(int, numbers)))
    return found
