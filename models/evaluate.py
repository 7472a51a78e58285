"""Measure the exported float16 weights: bits per byte on held-out modules against `xz -9`, and passkey recall.

    python models/evaluate.py --weights cli/certkv/cli/data/model --json OUT

All arithmetic is float32 (torch). Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from corpus import default_stdlib, join, read_corpus
from network import Llama, load

from certkv.cli import passkey

RATIO_GOAL = 0.85
RECALL_GOAL = 0.95


@torch.no_grad()
def text_bits(model: Llama, stream: bytes, window: int, stride: int, rows: int, device: torch.device) -> float:
    """Return the bits that the model needs for the whole stream.

    Windows of `window` tokens (start token first) advance by `stride` bytes; each byte is charged once, in the first
    window that contains it, so every byte but the first `window` ones has at least `window - stride` bytes of context.
    """
    data = np.frombuffer(stream, np.uint8)
    starts = [0]
    while starts[-1] + window < len(data):
        starts.append(min(starts[-1] + stride, len(data) - window))
    nats, charged = 0.0, 0
    for group in range(0, len(starts), rows):
        chosen = starts[group : group + rows]
        batch = np.stack([np.resize(data[start : start + window], window) for start in chosen]).astype(np.int64)
        targets = torch.from_numpy(batch).to(device)
        logits = model(F.pad(targets[:, :-1], (1, 0)))
        loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double().cpu().numpy()
        for start, row in zip(chosen, loss, strict=True):
            end = min(start + window, len(data))
            nats += float(row[charged - start : end - start].sum())
            charged = end
    if charged != len(data):
        raise RuntimeError(f"charged {charged} of {len(data)} bytes")
    return nats / math.log(2)


@torch.no_grad()
def passkey_hits(
    model: Llama, filler: bytes, window: int, samples: int, rows: int, seed: int, device: torch.device
) -> list[tuple[float, bool]]:
    """Return (depth, exact) per sample: prompt and answer fill the window, depth and filler are drawn uniformly.

    Exact means that greedy decoding yields all digits: each digit is the most likely one after the right ones before.
    """
    rng = np.random.default_rng(seed)
    length = window - passkey.DIGITS  # start token + prompt + answer's first digits = window tokens
    prompts, depths = [], []
    for _ in range(samples):
        at = int(rng.integers(0, len(filler) - window))
        depths.append(float(rng.random()))
        prompts.append(passkey.build(filler[at:], length, depths[-1], passkey.random_key(rng)))
    hits = []
    for group in range(0, samples, rows):
        batch = np.stack([np.frombuffer(p.text + p.answer, np.uint8) for p in prompts[group : group + rows]])
        targets = torch.from_numpy(batch.astype(np.int64)).to(device)
        predicted = model(F.pad(targets[:, :-1], (1, 0)))[:, -passkey.DIGITS :].argmax(-1)
        hits += (predicted == targets[:, -passkey.DIGITS :]).all(dim=1).tolist()
    return list(zip(depths, hits, strict=True))


def parse() -> argparse.Namespace:
    """Read the command line."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=root / "cli/certkv/cli/data/model")
    parser.add_argument("--stdlib", type=Path, default=default_stdlib(), help="folder of the library trained on")
    parser.add_argument("--samples", type=int, default=400, help="passkey prompts")
    parser.add_argument("--stride", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8, help="windows per batch")
    parser.add_argument("--window", type=int, default=0, help="tokens; 0 takes the model's full context")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    options = parse()
    device = torch.device(options.device)
    model = load(options.weights).to(device)
    window = options.window or model.config["max_position_embeddings"]
    modules = read_corpus(options.stdlib).held_out
    raw = b"".join(module.text for module in modules)
    xz = len(lzma.compress(raw, preset=9)) * 8 / len(raw)
    began = time.perf_counter()
    # The stream carries a separator after each module. The model pays for those too; they are not counted as bytes.
    bits = text_bits(model, join(modules), window, min(options.stride, window), options.rows, device) / len(raw)
    hits = passkey_hits(model, raw, window, options.samples, options.rows, options.seed, device)
    recall = sum(hit for _, hit in hits) / len(hits)
    fifths = [[hit for depth, hit in hits if part / 5 <= depth < (part + 1) / 5] for part in range(5)]
    report = {
        "weights_bytes": (options.weights / "model.safetensors").stat().st_size,
        "held_out_modules": len(modules),
        "held_out_bytes": len(raw),
        "model_bits_per_byte": round(bits, 4),
        "xz_bits_per_byte": round(xz, 4),
        "ratio": round(bits / xz, 4),
        "ratio_goal": RATIO_GOAL,
        "window": window,
        "stride": options.stride,
        "passkey_samples": len(hits),
        "passkey_recall": round(recall, 4),
        "passkey_recall_by_depth": [round(sum(part) / max(1, len(part)), 4) for part in fifths],
        "passkey_goal": RECALL_GOAL,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - began, 1),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if bits <= RATIO_GOAL * xz and recall >= RECALL_GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
