"""Kernels that start before the one ahead of them has ended, and wait for it where they read what it writes.

The kernel ahead says so (``griddepcontrol.launch_dependents``) when it starts; the next one is launched with the
attribute of programmatic serialization, reads what was there before, and waits (``griddepcontrol.wait``) until all that
the other wrote is visible. What it saves is a launch, and the first fetch of instructions. Graphs capture it with
drivers of CUDA 12.4 and later.

What a launch costs depends on all the code of its kernel, whatever of it runs: as if it were fetched ahead, and pushed
out what an earlier kernel has yet to run. On an H200, 300 KiB that are never run cost a step 9 microseconds at 8K
tokens behind kernels of 120 KiB, and 1 to 2 behind less than 90. So what runs in every step is kept small.
A kernel that may start as soon as the one ahead has started meets it in the same cache: where attend and a first tier
were 87 KiB together, each part of the latter took three times as long (18,500 cycles in all) as when attend said so
only behind its loop (6,700); with 84 KiB both ways were alike.
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
