"""Capture what attention reads: post-RoPE queries, keys and values of chosen layers and positions, as safetensors.

    python models/capture.py --passkey 1536 --layers 1,3,5 --out capture.safetensors
    python models/capture.py --text FILE --tokens 4096 --out capture.safetensors

Runs the NumPy forward; torch is not needed. `docs/model.md` describes the format, and how to capture another model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from corpus import default_stdlib
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from certkv.cli import llama, passkey


def select(model: llama.Llama, text: bytes, layers: list[int], positions: list[int]) -> dict[str, llama.Array]:
    """Run the model over `text` and return the tensors of a capture.

    Parameters
    ----------
    model
        From `certkv.cli.llama.load`.
    text
        At most the model's context, less the start token.
    layers, positions
        What to keep. Position p is the query of token p, token 0 being the start token.

    Raises
    ------
    ValueError
        If a layer or a position does not exist.
    """
    tokens = llama.encode(text)
    if not layers or not set(layers) <= set(range(model.config.num_hidden_layers)):
        raise ValueError(f"layers must lie in 0..{model.config.num_hidden_layers - 1}, got {layers}")
    if not positions or not set(positions) <= set(range(len(tokens))):
        raise ValueError(f"positions must lie in 0..{len(tokens) - 1}, got {positions}")
    captures = llama.prefill(model, tokens).layers
    tensors: dict[str, llama.Array] = {}
    for layer in layers:
        tensors |= {
            f"layers.{layer}.q": np.ascontiguousarray(captures[layer].q[positions]),
            f"layers.{layer}.k": captures[layer].k,
            f"layers.{layer}.v": captures[layer].v,
            f"layers.{layer}.q_positions": np.asarray(positions, np.int64),
            f"layers.{layer}.scale": np.asarray([model.config.scale], np.float64),
        }
    return tensors


def integers(text: str) -> list[int]:
    """Read a list such as `1,3,5`."""
    return [int(part) for part in text.split(",")]


def spread(last: int, count: int) -> list[int]:
    """Return `count` positions from an eighth of the text to its last token, evenly spread, in order."""
    return sorted({round(x) for x in np.linspace(last / 8, last, count)})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="file whose first bytes are run")
    source.add_argument("--passkey", type=int, metavar="TOKENS", help="run a generated passkey prompt of this length")
    parser.add_argument("--tokens", type=int, help="with --text: tokens to run (default: the model's context)")
    parser.add_argument(
        "--filler",
        type=Path,
        help="with --passkey: file to hide the key in (default: statistics.py of the standard library)",
    )
    parser.add_argument("--skip", type=int, default=0, help="bytes of the text or filler to leave out at its start")
    parser.add_argument("--depth", type=float, default=0.4, help="with --passkey: where the key hides, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="with --passkey: draws the key")
    parser.add_argument("--weights", type=Path, default=llama.BUNDLED_MODEL, help="model folder")
    parser.add_argument("--layers", type=integers, help="such as 1,3,5 (default: all)")
    parser.add_argument("--positions", type=integers, help="such as 100,1535 (default: --queries evenly spread)")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    """Capture and write; say what was written."""
    options = parse()
    try:
        model = llama.load(options.weights)
        metadata = {"generator": "models/capture.py", "arguments": " ".join(sys.argv[1:])}
        if options.passkey:
            file = options.filler or default_stdlib() / "statistics.py"
            key = passkey.random_key(np.random.default_rng(options.seed))
            # The start token takes one place. The last byte's query is the one that gives the answer.
            filler = file.read_bytes()[options.skip :]
            prompt = passkey.build(filler, options.passkey - 1, options.depth, key)
            text = prompt.text
            needle = 1 + prompt.needle_start
            metadata |= {"passkey": key.decode(), "needle_tokens": f"{needle}:{needle + passkey.NEEDLE_BYTES}"}
        else:
            file = options.text
            room = (options.tokens or model.config.max_position_embeddings) - 1
            text = file.read_bytes()[options.skip : options.skip + room]
        layers = options.layers or list(range(model.config.num_hidden_layers))
        positions = options.positions or spread(len(text), options.queries)
        tensors = select(model, text, layers, positions)
    except (OSError, ValueError) as error:
        print(f"capture: {error}", file=sys.stderr)
        return 2
    weights = (options.weights / "model.safetensors").read_bytes()
    metadata |= {
        "source": file.name,
        "text": text.decode("utf-8", "replace"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "start_token": str(llama.START),
        "positions": json.dumps(positions),
    }
    save_file(tensors, options.out, metadata=metadata)
    size = options.out.stat().st_size
    print(f"{options.out}: layers {layers}, {len(text) + 1} tokens, positions {positions}, {size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
