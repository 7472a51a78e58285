"""Whether the kernel library and a GPU are here, found out before a long run starts."""

from __future__ import annotations

from certkv.cli.page.library import MissingLibraryError
from certkv.reference import CertkvError


class MissingDeviceError(CertkvError):
    """No GPU on which the kernels can run."""


def require_fast(what: str, kernels: bool = False) -> None:
    """Make sure that torch, and for kernels Triton, can be imported.

    Raises
    ------
    MissingLibraryError
    """
    try:
        import torch  # noqa: F401

        if kernels:
            import triton  # noqa: F401
    except ImportError as error:
        name = "torch" if error.name is None else error.name.partition(".")[0]
        raise MissingLibraryError(
            f"{what} needs {name}: install certkv[fast], e.g. pip install 'certkv[fast]' ({error})"
        ) from error


def require_gpu(what: str, instead: str) -> None:
    """Make sure that torch sees a GPU.

    Parameters
    ----------
    what : str
        What asks for it.
    instead : str
        What can be done without one.

    Raises
    ------
    MissingDeviceError
    """
    import torch

    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = f"this torch ({torch.__version__}) is built without CUDA; install a CUDA build on a machine with a GPU"
    else:
        why = f"torch {torch.__version__} sees none here; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    raise MissingDeviceError(f"{what} needs an NVIDIA GPU, but {why}; {instead}")
