"""Write the golden logits of `tests/cli/test_llama.py`: the torch model on the exported weights, one fixed prompt.

    python models/golden.py

Run it again whenever the weights change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from network import load
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
PROMPT = (
    b"def merge(left, right):\n"
    b'    """Merge two sorted lists."""\n'
    b"    result = []\n"
    b"    while left and right:\n"
    b"        smaller = left if left[0] <= right[0] else right\n"
    b"        result.append(smaller.pop(0))\n"
    b"    return result + left + right\n"
)


def main() -> int:
    """Evaluate and write."""
    model = load(ROOT / "cli/certkv/cli/data/model")
    tokens = np.concatenate([[0], np.frombuffer(PROMPT, np.uint8)]).astype(np.int64)
    positions = np.append(np.arange(0, len(tokens) - 1, 7), len(tokens) - 1)  # a sample keeps the file small
    batch = torch.from_numpy(tokens)[None]
    with torch.no_grad():
        tensors = {
            "tokens": tokens,
            "positions": positions,
            "float32": model(batch)[0, positions].numpy(),
            "float64": model.double()(batch, torch.float64)[0, positions].numpy(),
            "float64_rounded_qkv": model.double()(batch, torch.float64, round_qkv=True)[0, positions].numpy(),
        }
    out = ROOT / "tests/cli/golden_logits.safetensors"
    save_file(tensors, out, metadata={"command": "python models/golden.py"})
    print(f"{out.relative_to(ROOT)}: {len(tokens)} tokens, {out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
