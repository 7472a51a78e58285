"""Whether the kernel library and a GPU are here, found out before a long run starts."""

from __future__ import annotations

from certkv.cli.page.library import MissingLibraryError
from certkv.cli.present import missing_gpu, missing_library
from certkv.reference import CertkvError


class MissingDeviceError(CertkvError):
    """No GPU on which the kernels can run."""


def require_fast(what: str, kernels: bool = False) -> None:
    """Make sure that torch, and for kernels Triton, can be imported.

    Raises
    ------
    MissingLibraryError
    """
    if message := missing_library(what, kernels):
        raise MissingLibraryError(message)


def require_gpu(what: str, instead: str) -> None:
    """Make sure that torch sees a GPU.

    Raises
    ------
    MissingDeviceError
    """
    if message := missing_gpu(what, instead):
        raise MissingDeviceError(message)
