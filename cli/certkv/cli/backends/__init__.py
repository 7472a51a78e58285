"""What computes the steps of an audit: the reference, or the kernel library's twins or kernels."""

from __future__ import annotations

from certkv.cli.backends.base import Backend
from certkv.cli.backends.reference import ReferenceBackend
from certkv.reference import SettingError

BACKENDS = ("reference", "torch", "triton")


def backend(name: str) -> Backend:
    """Make a backend by its name.

    Raises
    ------
    SettingError
        An unknown name.
    MissingLibraryError, MissingDeviceError
        What it needs is not here; the message says what to do.
    """
    if name not in BACKENDS:
        raise SettingError(f"--backend: unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "reference":
        return ReferenceBackend()
    from certkv.cli.kernel_library import require_fast, require_gpu

    require_fast(f"--backend {name}", kernels=name == "triton")
    from certkv.cli.backends.fast import FastBackend, interpreted

    if name == "torch":
        return FastBackend("torch", "cpu")
    if interpreted():
        return FastBackend("triton", "cpu")
    require_gpu("--backend triton", "--backend torch computes the same steps on the CPU")
    return FastBackend("triton", "cuda")
