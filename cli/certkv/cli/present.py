"""Whether torch, Triton and a GPU are here, as a message that says what to do where they are not."""

from __future__ import annotations


def missing_library(what: str, kernels: bool = False) -> str | None:
    """Return why ``what`` cannot run without torch or, for kernels, Triton; None where they can be imported."""
    try:
        import torch  # noqa: F401

        if kernels:
            import triton  # noqa: F401
    except ImportError as error:
        name = "torch" if error.name is None else error.name.partition(".")[0]
        return f"{what} needs {name}: install certkv[fast], e.g. pip install 'certkv[fast]' ({error})"
    return None


def missing_gpu(what: str, instead: str) -> str | None:
    """Return why ``what`` has no GPU, and what can be done ``instead``; None where torch sees one."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        why = f"this torch ({torch.__version__}) is built without CUDA; install a CUDA build on a machine with a GPU"
    else:
        why = f"torch {torch.__version__} sees none here; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return f"{what} needs an NVIDIA GPU, but {why}; {instead}"
