"""The torch network against the NumPy forward, on a small random model. Skipped where torch is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certkv.cli import llama

torch: Any = pytest.importorskip("torch")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    yield import_module("network")
    sys.modules.pop("network")


def test_exported_random_model_agrees_with_numpy(network: Any, tmp_path: Path) -> None:
    config = network.CONFIG | {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 16}
    model = network.Llama(config)
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.2)
    network.export(model, tmp_path, {"made_by": "test"})
    tokens = llama.encode(b"for index in range(3):\n    print(index)\n")
    batch = torch.from_numpy(tokens)[None]
    loaded = network.load(tmp_path)
    with torch.no_grad():
        single = loaded(batch)[0].numpy()
        expected = loaded.double()(batch, torch.float64)[0].numpy()
        rounded = loaded(batch, torch.float64, round_qkv=True)[0].numpy()
    # As in tests/cli/test_llama.py: torch's own float32 error, scaled to float64, is the yardstick.
    slack = 16 * float(np.abs(single - expected).max()) * 2.0**-29
    exact = llama.load(tmp_path, dtype=np.float64, round_qkv=False)
    assert np.abs(llama.prefill(exact, tokens).logits - expected).max() <= slack
    halves = llama.load(tmp_path, dtype=np.float64)
    assert np.abs(llama.prefill(halves, tokens).logits - rounded).max() <= slack


def test_overflow_is_refused(network: Any, tmp_path: Path) -> None:
    model = network.Llama(network.CONFIG | {"num_hidden_layers": 1})
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"model\.norm\.weight does not fit float16"):
        network.export(model, tmp_path, {})
