"""The model card belongs to the weights that ship."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from certkv.cli import llama

ROOT = Path(__file__).parents[2]
CARD = (ROOT / "models" / "README.md").read_text(encoding="utf-8")


def test_card_travels_with_the_weights() -> None:
    assert (llama.BUNDLED_MODEL / "README.md").read_text(encoding="utf-8") == CARD


def test_card_names_these_weights() -> None:
    weights = (llama.BUNDLED_MODEL / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in CARD
    assert f"{len(weights):,} bytes" in CARD
    assert f"{llama.BUNDLED_CAPTURE.stat().st_size:,} bytes" in CARD


def test_card_states_the_measured_figures() -> None:
    measured = json.loads((ROOT / "models" / "results" / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["weights_bytes"] == (llama.BUNDLED_MODEL / "model.safetensors").stat().st_size
    assert measured["ratio"] <= measured["ratio_goal"] == 0.85
    assert measured["passkey_recall"] >= measured["passkey_goal"] == 0.95
    assert measured["window"] == 8192
    assert f"**{measured['model_bits_per_byte']:.4f}**" in CARD
    assert f"| {measured['xz_bits_per_byte']:.4f} |" in CARD
    assert f"**{measured['ratio']:.3f}**" in CARD
