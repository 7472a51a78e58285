"""Small synthetic captures, and what a run of the command leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    def refused(self, *parts: str) -> None:
        """Exit code 2, nothing on standard output, one line on standard error that holds every part."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.startswith("certkv: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err, (part, self.err)


Run = Callable[..., Outcome]


def save(tensors: Mapping[str, NDArray[Any]], path: Path) -> Path:
    """Write a capture: npz or safetensors, by the name."""
    if path.suffix == ".npz":
        np.savez(path, **tensors)  # type: ignore[arg-type]
    else:
        save_file({key: np.array(x, order="C") for key, x in tensors.items()}, path)
    return path


def synthetic(
    queries: int = 2,
    q_heads: int = 4,
    kv_heads: int = 2,
    tokens: int = 150,
    d: int = 16,
    dtype: object = np.float16,
    seed: int = 0,
    prefix: str = "",
) -> Tensors:
    """Gaussian queries, keys and values; keys have one loud channel, as those of real models do."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((tokens, kv_heads, d))
    k[..., 3] += 8.0
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    return {
        f"{prefix}q": (2.0 * rng.standard_normal((queries, q_heads, d))).astype(kind),
        f"{prefix}k": k.astype(kind),
        f"{prefix}v": rng.standard_normal((tokens, kv_heads, d)).astype(kind),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Parse strictly: the names that Python's parser takes beyond the standard are refused."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    tree: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return tree
