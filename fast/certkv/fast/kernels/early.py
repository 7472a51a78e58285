"""Kernels that start before the one ahead of them has ended, and wait for it where they read what it writes.

The kernel ahead says so (``griddepcontrol.launch_dependents``); the next one is launched with the attribute of
programmatic serialization, reads what was there before, and waits (``griddepcontrol.wait``) until all that the other
wrote is visible. What it saves is a launch, and the first fetch of instructions. Graphs capture it with
drivers of CUDA 12.4 and later.

What a launch costs depends on all the code of its kernel, whatever of it runs: as if it were fetched ahead, and pushed
out what an earlier kernel has yet to run. On an H200, 300 KiB that are never run cost a step 9 microseconds at 8K
tokens behind kernels of 120 KiB, and 1 to 2 behind less than 90. So what runs in every step is kept small.
Attend says so behind its loop, before its last sums: the ladder is then left for 0.9 microseconds at 8K and 32K tokens,
with 49 KiB of attend, where it took 1.8 and 2.5 if attend said so as it started. Programs of the next kernel would take
the places of those that end early and meet the others in the same cache: with 87 KiB of attend and first tier together
each part of the latter took three times as long.
Drivers go by the ELF section: what is linked from a section of its own (``ptxas -c``) is not fetched ahead, and with 61
KiB of attend, which said so as it started, the ladder was left for 0.4 to 0.9 microseconds. But such functions pass
arguments and keep registers in local memory, and a step with an open head took 18 to 35 longer. A smaller symbol in the
same section changed nothing.
"""

from __future__ import annotations

from functools import cache

import torch
import triton

LEAST_DRIVER = 12_040


@cache
def _driver() -> int:
    # without a GPU kernels are only compiled
    version = getattr(torch._C, "_cuda_getDriverVersion", None)
    return LEAST_DRIVER if version is None else int(version())


def early() -> bool:
    """Whether kernels are launched so."""
    return not triton.knobs.runtime.interpret and _driver() >= LEAST_DRIVER
