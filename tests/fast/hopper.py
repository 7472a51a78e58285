"""Compile kernels for compute capability 9.0 without a GPU; print registers, spills, shared memory, loose instructions.

Run as a script in a process of its own, because one process either interprets or compiles: ``python hopper.py MODULE``
calls ``MODULE``'s function ``launches``, whose launches are compiled instead of run.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

LOOSE = re.compile(r"(?<!ex2\.approx)\.ftz|\b(div\.(full|approx)|r?sqrt\.approx|rcp\.approx)")
"""Instructions that flush or do not round correctly; exp2 has an error of its own in every model."""


class _Driver:
    """Enough of a driver to compile for a target that is not there."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", 90, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def ptxas() -> Path:
    import triton

    return next(Path(triton.__file__).parent.rglob("ptxas"))


def report(ptx: str) -> dict[str, int]:
    """Assemble and return registers, spilled bytes and shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [str(ptxas()), "-v", "-arch=sm_90a", str(source), "-o", str(Path(folder) / "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", said)[-1])
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))
    return {"registers": registers, "spills": spills}


def main(path: str) -> None:
    import triton
    from triton.runtime.jit import JITFunction

    triton.runtime.driver.set_active(_Driver())

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = original(self, *args, grid=grid, warmup=True, **kwargs)
        numbers = report(kernel.asm["ptx"])
        shared = kernel.metadata.shared
        if "ld.global.nc" in kernel.asm["ptx"]:
            # such loads may return what a program that has met this one has overwritten
            raise SystemExit(f"{self.__name__} reads through the cache that nothing invalidates")
        if kernel.metadata.launch_pdl and "griddepcontrol.wait" not in kernel.asm["ptx"]:
            raise SystemExit(f"{self.__name__} starts before the kernel ahead has ended and never waits for it")
        loose = sum(bool(LOOSE.search(line)) for line in kernel.asm["ptx"].splitlines())
        print(f"{self.__name__} {numbers['registers']} {numbers['spills']} {shared} {loose}")
        return kernel

    original = JITFunction.run
    JITFunction.run = compiled
    spec = importlib.util.spec_from_file_location("launches", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.launches()


if __name__ == "__main__":
    main(sys.argv[1])
