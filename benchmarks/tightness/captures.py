"""Captures of the bundled model: the one that ships, and more that its NumPy forward produces from held-out text."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from certkv.cli import llama, passkey
from certkv.cli.capture import Layer, load_capture, split_layers

BUNDLED = "capture"
PROMPTS = {
    "turtle-2k": ("turtle.py", 2048, None),
    "pprint-4k": ("pprint.py", 4096, 0.3),
    "turtle-8k": ("turtle.py", 8192, 0.6),
}
"""Text, tokens, and where a passkey hides in it (None: the bare text); modules that the model was not trained on."""

NAMES = (BUNDLED, *PROMPTS)
LAYERS = (1, 3, 5)
QUERIES = 3


def capture(name: str) -> tuple[Layer, ...]:
    """Return the layers of a capture; the model is run for those that do not ship.

    Parameters
    ----------
    name : str
        One of ``NAMES``.
    """
    if name == BUNDLED:
        return load_capture(llama.BUNDLED_CAPTURE).layers
    file, tokens, depth = PROMPTS[name]
    text = (Path(sysconfig.get_path("stdlib")) / file).read_bytes()[: tokens - 1]
    if depth is not None:
        key = passkey.random_key(np.random.default_rng(len(text)))
        text = passkey.build(text, tokens - 1, depth, key).text
    model = llama.load()
    captured = llama.prefill(model, llama.encode(text)).layers
    positions = np.linspace(tokens / 4, tokens - 1, QUERIES).round().astype(np.int64)
    scale = np.asarray([model.config.scale])
    tensors: dict[str, llama.Array] = {}
    for layer in LAYERS:
        q, k, v = captured[layer]
        tensors |= {
            f"layers.{layer}.{tensor}": array
            for tensor, array in (("q", q[positions]), ("k", k), ("v", v), ("q_positions", positions), ("scale", scale))
        }
    return split_layers(tensors)
