"""The capture tool and the bundled capture."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from certkv.cli import llama, passkey

ROOT = Path(__file__).parents[2]


def _capture(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "models" / "capture.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "cli"), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "np") as opened:
        metadata: dict[str, str] = opened.metadata()
    return metadata


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    wide = b.astype(np.float64)
    return float(np.linalg.norm(a.astype(np.float64) - wide) / np.linalg.norm(wide))


def test_text_capture(tmp_path: Path) -> None:
    text = tmp_path / "text.py"
    text.write_bytes(Path(json.__file__).read_bytes())
    out = tmp_path / "capture.safetensors"
    arguments = ("--text", str(text), "--tokens", "90", "--layers", "0,4", "--positions", "10,89", "--out", str(out))
    result = _capture(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    tensors = load_file(out)
    kinds = ("q", "k", "v", "q_positions", "scale")
    assert set(tensors) == {f"layers.{layer}.{kind}" for layer in (0, 4) for kind in kinds}
    model = llama.load()
    whole = llama.prefill(model, llama.encode(text.read_bytes()[:89]))
    for layer in (0, 4):
        q, k, v, positions, scale = (tensors[f"layers.{layer}.{kind}"] for kind in kinds)
        assert (q.shape, k.shape, v.shape) == ((2, 8, 64), (90, 2, 64), (90, 2, 64))
        assert q.dtype == k.dtype == v.dtype == np.float16
        assert positions.dtype == np.int64
        assert positions.tolist() == [10, 89]
        assert scale.dtype == np.float64
        assert scale.tolist() == [0.125]
        # Same code, same machine, same BLAS: the same bits.
        np.testing.assert_array_equal(q, whole.layers[layer].q[[10, 89]])
        np.testing.assert_array_equal(k, whole.layers[layer].k)
        np.testing.assert_array_equal(v, whole.layers[layer].v)


def test_passkey_capture(tmp_path: Path) -> None:
    filler, out = tmp_path / "filler.py", tmp_path / "capture.safetensors"
    filler.write_bytes(Path(json.__file__).read_bytes())
    arguments = ("--passkey", "300", "--filler", str(filler), "--seed", "3", "--queries", "3", "--out", str(out))
    result = _capture(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    metadata = _metadata(out)
    start, stop = map(int, metadata["needle_tokens"].split(":"))
    assert metadata["text"].encode()[start - 1 : stop - 1] == passkey.NEEDLE % metadata["passkey"].encode()
    tensors = load_file(out)
    assert len(tensors) == 5 * 6
    assert tensors["layers.5.k"].shape == (300, 2, 64)
    assert tensors["layers.5.q_positions"].tolist()[-1] == 299


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "no/such/file"), "No such file"),
        (("--text", __file__, "--layers", "6", "--tokens", "50"), "layers must lie in 0..5"),
        (("--text", __file__, "--positions", "50", "--tokens", "50"), "positions must lie in 0..49"),
        (
            ("--text", __file__, "--tokens", "9000", "--skip", "100000", "--positions", "3"),
            "positions must lie in 0..0",
        ),
        (("--passkey", "10"), "a prompt of 9 bytes needs"),
        (("--passkey", "100", "--weights", "no/such/folder"), "config.json: no such file"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    filler = ("--filler", __file__) if "--passkey" in arguments else ()
    result = _capture(*arguments, *filler, "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_bundled_capture_is_the_bundled_models() -> None:
    metadata = _metadata(llama.BUNDLED_CAPTURE)
    weights = (llama.BUNDLED_MODEL / "model.safetensors").read_bytes()
    assert metadata["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    tensors = load_file(llama.BUNDLED_CAPTURE)
    tokens = llama.encode(metadata["text"])
    model = llama.load()
    layers = sorted({int(name.split(".")[1]) for name in tensors})
    assert len(layers) >= 3
    start = llama.prefill(model, tokens)
    for layer in layers:
        positions = tensors[f"layers.{layer}.q_positions"]
        assert positions[-1] == len(tokens) - 1
        assert tensors[f"layers.{layer}.scale"].tolist() == [model.config.scale]
        whole = start.layers[layer]
        for name, expected in (("q", whole.q[positions]), ("k", whole.k), ("v", whole.v)):
            # Another machine's BLAS sums in another order, which moves a few elements to the neighbouring half.
            # The limit is what moving *every* element by one unit in the last place could do.
            assert _relative(tensors[f"layers.{layer}.{name}"], expected) <= 2.0**-10
    answer = llama.generate(model, start.logits[-1], len(tokens), llama.DenseCache(model, start), passkey.DIGITS)
    assert bytes(answer) == metadata["passkey"].encode()
