"""Results into files: strict JSON, and outputs with their bounds as safetensors. Checked before a long run starts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from certkv.cli.backends.base import Backend
from certkv.cli.capture import Capture
from certkv.cli.measure import HeadStep, PolicyRun
from certkv.cli.summary import summarise
from certkv.reference.errors import InputError

HEAD_FIELDS = (
    "policy",
    "layer",
    "query",
    "head",
    "error",
    "bound",
    "key",
    "value",
    "arithmetic",
    "tolerance",
    "rung",
    "status",
    "promoted",
    "host_bytes",
    "plane_bytes",
    "levels",
    "paper_bound",
    "judged_by",
)


def certkv_version() -> str:
    """Return the installed version; "unknown" in a tree that is not installed."""
    try:
        return version("certkv")
    except PackageNotFoundError:
        return "unknown"


def require_writable(option: str, path: Path, source: Path | None = None) -> None:
    """Make sure that a result can be written where the user wants it; nothing is left behind.

    Raises
    ------
    InputError
    """
    if path.is_dir():
        raise InputError(f"{option} {path} is a directory; the name of a file is expected")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{option} {path} is the capture itself; another file is expected")
    existed = path.exists()
    try:
        with path.open("ab"):  # the only test that is right for every file system and user
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}; another place is expected") from error


def write(option: str, path: Path, content: bytes) -> None:
    """Write a file whole or not at all (to a device or pipe: as it is).

    Raises
    ------
    InputError
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from error


def strict(x: Any) -> Any:
    """Replace infinities and NaN, which JSON does not have, by null."""
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, dict):
        return {key: strict(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [strict(value) for value in x]
    return x


def head_row(step: HeadStep) -> dict[str, Any]:
    """Return one head-step as the JSON has it."""
    return {name: getattr(step, name) for name in HEAD_FIELDS}


def document(runs: Sequence[PolicyRun], capture: Capture, backend: Backend) -> dict[str, Any]:
    """Build the JSON document; docs/audit.md is its description."""
    layers = [
        {
            "layer": layer.index,
            "queries": layer.queries,
            "q_heads": int(layer.q.shape[1]),
            "kv_heads": int(layer.k.shape[1]),
            "tokens": layer.tokens,
            "head_dim": int(layer.k.shape[2]),
            "dtype": layer.k.dtype.name,
            "q_dtype": layer.q.dtype.name,
            "rounded_from": layer.rounded_from,
            "causal": layer.positions is not None,
            "scale": layer.scale,
        }
        for layer in capture.layers
    ]
    policies = {
        run.policy.name: {
            "parameters": dataclasses.asdict(run.policy),
            "layers": [
                {
                    "layer": s.layer,
                    "keys": s.keys,
                    "values": s.values,
                    "block": s.block,
                    "residual": s.residual,
                    "planes": s.planes,
                    "blocks": s.blocks,
                    "tail": s.tail,
                }
                for s in run.storage
            ],
        }
        for run in runs
    }
    config = {
        "file": capture.source,
        "backend": backend.name,
        "layers": layers,
        "policies": policies,
        "versions": {
            "certkv": certkv_version(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            **backend.versions,
        },
    }
    summary = {run.policy.name: dataclasses.asdict(summarise(run)) for run in runs}
    heads = [head_row(step) for run in runs for step in run.steps]
    whole: dict[str, Any] = strict({"config": config, "summary": summary, "heads": heads})
    return whole


def json_bytes(tree: dict[str, Any]) -> bytes:
    """Serialise; one head per line, so that the file can be read and compared."""
    heads = ",\n  ".join(json.dumps(row, allow_nan=False) for row in tree["heads"])
    config, summary = (json.dumps(tree[part], indent=1, allow_nan=False) for part in ("config", "summary"))
    return f'{{"config": {config},\n"summary": {summary},\n"heads": [\n  {heads}\n]}}\n'.encode()


def saved_bytes(run: PolicyRun, capture: Capture) -> bytes:
    """Serialise output and bound of every layer, float64, under the names of the capture's layers."""
    tensors = {}
    for layer in capture.layers:
        tensors[f"{layer.prefix}output"] = np.ascontiguousarray(run.outputs[layer.index])
        tensors[f"{layer.prefix}bound"] = np.ascontiguousarray(run.bounds[layer.index])
    return bytes(save(tensors, metadata={"policy": run.policy.name, "certkv": certkv_version()}))
