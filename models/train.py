"""Train the bundled model on one GPU, in minutes.

    python models/train.py --minutes 5 --out models/run

Text: the Python standard library's source (`--stdlib DIR`; this interpreter's by default). Half of the windows hide a
passkey and ask for it. The window grows from 1,024 to 8,192 bytes. Interrupted runs go on with `--resume`, and
`--time-limit SECONDS` ends a call in time; the float16 weights are exported whenever a call ends.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from corpus import default_stdlib, join, read_corpus
from muon import Muon
from network import CONFIG, Llama, export

from certkv.cli import passkey


class Phase(NamedTuple):
    """A stretch of training: it lasts until `until` (a share of the run), with windows of `window` bytes."""

    until: float
    window: int


PHASES = (Phase(0.40, 1024), Phase(0.54, 2048), Phase(1.0, 8192))
PASSKEY_SHARE = 0.5
NEEDLE = np.frombuffer(passkey.NEEDLE.replace(b"%s", b"0" * passkey.DIGITS), np.uint8)
NEEDLE_KEY = passkey.NEEDLE.index(b"%s")
QUESTION = np.frombuffer(passkey.QUESTION + b"0" * passkey.DIGITS + b"\n", np.uint8)
QUESTION_KEY = len(passkey.QUESTION)


class Windows:
    """Draws training windows on the device: start token, then text, in half of them a passkey and its question."""

    def __init__(self, text: bytes, device: torch.device, seed: int) -> None:
        self.text = torch.from_numpy(np.frombuffer(text, np.uint8).copy()).to(device)
        self.device = device
        self.needle, self.question = (torch.from_numpy(s.astype(np.int64)).to(device) for s in (NEEDLE, QUESTION))
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def draw(self, rows: int, window: int, share: float = PASSKEY_SHARE) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, targets (int64) and loss weights (float32), each `[rows, window]`.

        The planted sentences weigh nothing (their places and digits are chance), except the answer's digits, which
        weigh more, the longer the window.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=self.generator, device=self.device)

        size_needle, size_question = len(NEEDLE), len(QUESTION)
        start = (uniform(rows, 1) * (len(self.text) - window - 2)).long()
        planted = uniform(rows, 1) < share
        # Half of the questions end the window, the others stand anywhere behind the needle; text goes on after them.
        last = window - size_question
        needle = (uniform(rows, 1) * (last - size_needle)).long()
        earliest = needle + size_needle
        question = torch.where(
            uniform(rows, 1) < 0.5, last, earliest + (uniform(rows, 1) * (last - earliest + 1)).long().clamp(max=last)
        ).clamp(max=last)
        key = 48 + (uniform(rows, passkey.DIGITS) * 10).long().clamp(max=9)

        position = torch.arange(window, device=self.device)[None]
        in_needle = planted & (position >= needle) & (position < needle + size_needle)
        in_question = planted & (position >= question) & (position < question + size_question)
        skipped = planted * (
            (position >= needle + size_needle) * size_needle + (position >= question + size_question) * size_question
        )
        data = self.text[start + position - skipped].long()
        for inside, at, sentence, digits_at in (
            (in_needle, needle, self.needle, NEEDLE_KEY),
            (in_question, question, self.question, QUESTION_KEY),
        ):
            offset = (position - at).clamp(0, len(sentence) - 1)
            fixed = sentence[offset]
            digit = key.gather(1, (offset - digits_at).clamp(0, passkey.DIGITS - 1))
            is_digit = (offset >= digits_at) & (offset < digits_at + passkey.DIGITS)
            data = torch.where(inside, torch.where(is_digit, digit, fixed), data)
        answer_offset = position - question - QUESTION_KEY
        is_answer = in_question & (answer_offset >= 0) & (answer_offset < passkey.DIGITS)
        weight = torch.where(is_answer, 4.0 + window / 512, (~(in_needle | in_question)).float())
        inputs = F.pad(data[:, :-1], (1, 0))
        return inputs, data, weight


def learning_rate(progress: float) -> float:
    """Return the share of the full rate: warm-up over 1 % of the run, flat, then linear to 0 over the last 46 %."""
    return min(1.0, progress / 0.01 + 0.01, max(0.01, (1 - progress) / 0.46))


def fastest_attention(device: torch.device) -> SDPBackend:
    """Time the fused attention kernels on this GPU at full window and return the faster one."""
    times = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        q, k, v = (
            torch.randn(8, heads, 8192, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
            for heads in (8, 2, 2)
        )
        try:
            with sdpa_kernel(backend):
                for repeat in range(4):
                    if repeat == 1:
                        torch.cuda.synchronize()
                        began = time.perf_counter()
                    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()
                torch.cuda.synchronize()
            times[backend] = time.perf_counter() - began
        except RuntimeError as error:
            print(f"attention {backend.name}: not usable ({str(error).splitlines()[0]})")
    print("attention seconds:", {backend.name: round(seconds, 4) for backend, seconds in times.items()}, flush=True)
    return min(times, key=lambda backend: times[backend])


def inspect(model: Llama, windows: Windows, window: int, rows: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return bits per byte and the share of exact passkey answers on fresh windows of unseen text."""
    nats, count, exact, asked = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for _ in range(4):
            inputs, targets, weight = windows.draw(rows, window, 1.0)
            logits = model(inputs, dtype)
            loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
            nats += float((loss * (weight == 1)).sum())
            count += float((weight == 1).sum())
            wrong = ((logits.argmax(-1) != targets) & (weight > 1)).any(dim=1)
            exact, asked = exact + int((~wrong).sum()), asked + rows
    return nats / count / math.log(2), exact / asked


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stdlib", type=Path, default=default_stdlib(), help="folder of a Python standard library")
    parser.add_argument("--out", type=Path, default=Path("models/run"), help="folder for checkpoints and weights")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of the whole run")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="end this call after so many seconds")
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to go on from")
    parser.add_argument("--batch", type=int, default=262_144, help="bytes per step")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a toy model and short windows, to try the script on a CPU")
    return parser.parse_args()


def main() -> int:
    """Train, export, report."""
    called = time.perf_counter()
    options = parse()
    device = torch.device(options.device)
    config, phases = dict(CONFIG), PHASES
    if options.tiny:
        config.update(hidden_size=64, intermediate_size=96, num_hidden_layers=2)
        phases = tuple(Phase(phase.until, phase.window // 8) for phase in PHASES)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True

    corpus = read_corpus(options.stdlib)
    train_text = join(corpus.train)
    print(f"train {len(corpus.train)} modules, {len(train_text)} bytes; validation {len(corpus.validation)} modules")
    model = Llama(config)
    model.initialise(options.seed)
    model.to(device)
    matrices = [weight for weight in model.layers.parameters() if weight.ndim == 2]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=options.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)
    state = {"trained": 0.0, "step": 0, "bytes": 0}
    if options.resume:
        model.load_state_dict(torch.load(options.resume / "model.pt", map_location=device))
        saved = torch.load(options.resume / "optimizer.pt", map_location=device)
        muon.restore(saved["muon"])
        adam.load_state_dict(saved["adam"])
        state = saved["state"]
        print("resumed at", state)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters", flush=True)

    windows = Windows(train_text, device, options.seed + 1000 * int(state["step"]))
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    backend = fastest_attention(device) if on_gpu else SDPBackend.MATH

    def loss_of(inputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        logits = model(inputs, dtype)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (loss * weight.flatten()).sum() / weight.sum()

    run = loss_of if options.no_compile else torch.compile(loss_of, dynamic=False)

    def save() -> None:
        torch.save(model.state_dict(), options.out / "model.pt")
        torch.save({"muon": muon.state(), "adam": adam.state_dict(), "state": state}, options.out / "optimizer.pt")

    log = (options.out / "log.jsonl").open("a")
    budget = options.minutes * 60
    last_window, reported, saved_at = 0, time.perf_counter(), time.perf_counter()
    clock = time.perf_counter()
    pending = 0
    losses = []
    while state["trained"] < budget:
        progress = state["trained"] / budget
        window = next(phase.window for phase in phases if progress < phase.until)
        rows = max(1, options.batch // window)
        if window != last_window:
            # Compilation is not training time: one pass through the graph before the clock runs on.
            began = time.perf_counter()
            with sdpa_kernel(backend):
                run(*windows.draw(rows, window)).backward()
            model.zero_grad(set_to_none=True)
            if on_gpu:
                torch.cuda.synchronize()
            print(f"window {window}, {rows} rows: ready after {time.perf_counter() - began:.1f} s", flush=True)
            last_window, clock, pending = window, time.perf_counter(), 0
        rate = learning_rate(progress)
        with sdpa_kernel(backend):
            loss = run(*windows.draw(rows, window))
            loss.backward()
        muon.step(options.muon_rate * rate)
        for group in adam.param_groups:
            group["lr"] = options.adam_rate * rate
        adam.step()
        adam.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        state["step"] += 1
        state["bytes"] += rows * window
        pending += 1
        if pending < (20 if on_gpu else 5):
            continue
        mean_loss = float(torch.stack(losses).mean())  # waits for the device
        now = time.perf_counter()
        state["trained"] += now - clock
        pending, losses = 0, []
        over = now - called > options.time_limit
        if now - reported > 15 or over:
            unseen = Windows(join(corpus.validation), device, 7)
            bits, recall = inspect(model, unseen, window, max(1, (65_536 if on_gpu else 4096) // window), dtype)
            line = {
                "step": state["step"],
                "trained_s": round(state["trained"], 1),
                "window": window,
                "gigabytes": round(state["bytes"] / 1e9, 3),
                "rate": round(rate, 4),
                "train_bits": round(mean_loss / math.log(2), 4),
                "validation_bits": round(bits, 4),
                "passkey": round(recall, 3),
            }
            print(json.dumps(line), flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
            reported = time.perf_counter()
        if now - saved_at > 60 or over:
            save()
            saved_at = time.perf_counter()
        if over:
            print("time limit: stopped before the end of the run")
            break
        clock = time.perf_counter()
    save()
    provenance = {
        "trained_seconds": f"{state['trained']:.0f}",
        "steps": str(state["step"]),
        "bytes_seen": str(state["bytes"]),
        "license": "Apache-2.0; trained on the Python standard library (PSF-2.0)",
    }
    size = export(model, options.out / "export", provenance)
    print(f"exported {size} bytes after {state['trained']:.0f} s of training, {state['bytes'] / 1e9:.2f} GB read")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
