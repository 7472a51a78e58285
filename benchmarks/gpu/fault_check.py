"""Checksums on a GPU: the bits of the twins, faults on the real kernels, captured; then what verifying costs.

    python benchmarks/gpu/fault_check.py [--tokens 131072] [--flips 40]

It exits with 1 at the first thing that does not hold. Without a GPU the twins run on small shapes, and nothing is
captured or timed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fast"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

from benchmarks.gpu.graphs import DEVICE, GPU, capture, captured, quiet, require, say, timed

from certkv.fast import Budget, Naive, Plan, Status, Step, TieredCache, checksum, float64, plan
from certkv.fast.errors import CorruptionError
from certkv.fast.policies import Policy
from certkv.fast.resident import TAIL

Flip = Callable[[TieredCache, random.Random], torch.Tensor]


def filled(tokens: list[int], kv_heads: int, d: int, values: str, dtype: torch.dtype) -> TieredCache:
    """Fill a ragged batch."""
    cache = TieredCache(len(tokens), kv_heads, d, max(tokens) + 128, dtype, values=values, device=DEVICE)
    k, v = torch.randn(2, len(tokens), max(tokens), kv_heads, d, device=DEVICE).to(dtype)
    cache.append(k, v, lengths=tokens if len(set(tokens)) > 1 else None)
    return cache


def bits_of_twins(values: str, dtype: torch.dtype, d: int) -> None:
    """Kernels and twins sum the same bits, from device memory and through the pinned pointer."""
    cache = filled([333, 70], 2, d, values, dtype)
    sums = cache.checksums
    pages = torch.tensor(cache.pages.pages(0), device=DEVICE)
    rows = (pages[:, None] * 2 + torch.arange(2, device=DEVICE)).flatten()
    found = checksum.totals_twin(checksum.pool_fields(cache.pool), rows).view(-1, 2)
    owner = torch.arange(len(pages), device=DEVICE)
    require(torch.equal(found + checksum.owned(owner)[:, None], sums.blocks[pages]), f"blocks, {values}, d = {d}")
    for side, store in enumerate((cache.originals.keys, cache.originals.values)):
        everything = store.flatten(0, 2)
        at = torch.arange(len(everything), device=DEVICE)
        twin = checksum.totals_twin((everything.to(DEVICE),), at)
        require(torch.equal(checksum.totals((everything,), at), twin), f"originals, {values}, d = {d}")
        there = cache.originals.present.flatten() != 0
        require(torch.equal(twin[there], sums.originals[side].flatten()[there]), f"kept originals, {values}")
    blank = checksum.Checksums.empty(2, 2, cache.max_blocks, 1, DEVICE)
    checksum.add_resident_twin(blank, cache.lengths, cache.anchor, cache.resident, 1)
    require(torch.equal(blank.resident, sums.resident), f"resident, {values}, d = {d}")
    cache.verify(originals=True)


def fields(cache: TieredCache) -> dict[str, Flip]:
    """Contiguous parts of everything that steps read of sequence 0."""
    pages, heads, blocks = cache.pages.pages(0), cache.kv_heads, cache.blocks(0)

    def page(tensor: torch.Tensor) -> Flip:
        return lambda c, rng: tensor[rng.choice(pages), rng.randrange(tensor.shape[1])]

    found: dict[str, Flip] = {name: page(tensor) for name, tensor in cache.pool.tensors().items() if tensor.numel()}
    return found | {
        "page table": lambda c, rng: c.pages.table[0, rng.randrange(blocks) :][:1],
        "length": lambda c, rng: c.lengths[:1],
        "anchor": lambda c, rng: c.anchor[0, rng.randrange(heads)],
        "first block": lambda c, rng: c.resident.keys[0, rng.randrange(heads), 0],
        "tail": lambda c, rng: c.resident.values[0, rng.randrange(heads), TAIL, : c.tokens[0] % c.block],
        "original keys": lambda c, rng: c.originals.keys[0, rng.randrange(heads), rng.randrange(blocks)],
        "original values": lambda c, rng: c.originals.values[0, rng.randrange(heads), rng.randrange(blocks)],
    }


def flips(policy: Policy, values: str, dtype: torch.dtype, count: int) -> str:
    """Flip bits under a captured graph that verifies, each put back; return a line."""
    d, group = 128, 4
    tokens = [2000, 500] if GPU else [150, 70]
    cache = filled(tokens, 2, d, values, dtype)
    q = torch.randn(2, 2 * group, d, device=DEVICE).to(dtype)
    made = plan(cache, 2 * group, policy, verify="step")
    step = made.step()
    quiet(made, q, step)
    replay = capture(made, q, step)
    replay()
    step.check()
    good, rng = step.output.clone(), random.Random(1)
    exact = [attention(cache, q, 0, h, group) for h in range(2 * group)]
    reported, within = 0, 0
    for name, place in fields(cache).items():
        for _ in range(count):
            part = place(cache, rng)
            kept, octets = part.clone(), part.view(-1).view(torch.uint8)
            octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
            replay()
            require(torch.equal(step.output[1], good[1]), f"{name}: another sequence changes")
            if bool((step.certificate.status[0] == Status.CHECKSUM).all()):
                require(step.output[0].isnan().all() and step.certificate.bound[0].isinf().all(), f"{name}: an output")
                reported += 1
                way_back(cache, step, exact, name)
                require(name in ONLY_COPIES or torch.equal(octets, kept.view(-1).view(torch.uint8)), f"{name}: repair")
            else:
                require((step.certificate.status[0] == Status.OK).all(), f"{name}: status")
                require(sound(step, exact), f"{name}: beyond its bound, unnoticed")
                require(name.startswith("original"), f"{name}: not noticed")
                within += 1
            part.copy_(kept)
            replay()
            step.check()
            require(torch.equal(step.output, good), f"{name}: not put back")
    of = len(fields(cache)) * count
    return f"{policy.name:7s} {values:9s} {of:6d} flips  {reported:6d} reported  {within:6d} within"


ONLY_COPIES = ("tail", "original keys", "original values")
"""Fields that nothing can be restored from."""


def way_back(cache: TieredCache, step: Step, exact: list[float64.Exact], name: str) -> None:
    """Resolve and repair, or typed errors where there is nothing to restore from."""
    for call in (step.resolve, cache.repair):
        try:
            call()
        except CorruptionError:
            require(name in ONLY_COPIES, f"{name}: not resolved, or not repaired")
    if name not in ONLY_COPIES:
        require(sound(step, exact) and (step.certificate.rung[0] == 4).all(), f"{name}: rung 4")


def attention(cache: TieredCache, q: torch.Tensor, s: int, h: int, group: int) -> float64.Exact:
    """Float64 attention of the originals."""
    kv, n = h // group, cache.tokens[s]
    full = cache.blocks(s) * cache.block
    sides = []
    for store, held in (
        (cache.originals.keys, cache.resident.keys),
        (cache.originals.values, cache.resident.values),
    ):
        blocks = store[s, kv, : cache.blocks(s)].flatten(0, 1).to(q.device)
        sides.append(torch.cat([blocks, held[s, kv, TAIL, : n - full]]))
    return float64.attention(q[s, h : h + 1], *sides, q.shape[-1] ** -0.5)


def sound(step: Step, exact: list[float64.Exact]) -> bool:
    """Whether every output of sequence 0 is within its bound."""
    errors = torch.stack(
        [(step.output[0, h].double() - e.output[0]).norm() - e.error_ub[0] for h, e in enumerate(exact)]
    )
    return bool((errors * (1.0 - 2.0**-40) <= step.certificate.bound[0].double()).all())


def times(lengths: list[int]) -> None:
    """Time steps with and without checksums, the comparison by itself, and `TieredCache.verify`."""
    say("tokens  values  naive us  verifying us   more us  compare us  GB/s  cache.verify ms  with originals ms")
    for tokens in lengths:
        for values in ("int4", "int8"):
            cache = filled([tokens], 8, 128, values, torch.float16)
            q = torch.randn(1, 32, 128, device=DEVICE, dtype=torch.float16)
            plain, made = (plan(cache, 32, Naive(), verify=v) for v in ("off", "step"))
            off, on = (timed(capture(p, q, p.step()), 30) for p in (plain, made))
            step = made.step()
            made.run(q, out=step)

            def compare(made: Plan = made, cache: TieredCache = cache, step: Step = step) -> None:
                if made.verifier is not None:
                    made.verifier.after(cache, made.coded, made.ws, made.parts.choice, False, step.result)

            alone = timed(captured(compare), 30)
            eager = []
            for originals in (False, True):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                cache.verify(originals)
                start.record()
                cache.verify(originals)
                end.record()
                torch.cuda.synchronize()
                eager.append(start.elapsed_time(end))
            say(
                f"{tokens:6d}  {values:6s}  {off:8.1f}  {on:12.1f}  {on - off:8.1f}  {alone:10.1f}  "
                f"{cache.pool.nbytes / alone / 1e3:4.0f}  {eager[0]:15.2f}  {eager[1]:17.2f}"
            )
            del cache, plain, made
            torch.cuda.empty_cache()


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 131072])
    parser.add_argument("--flips", type=int, default=25 if GPU else 2, help="of every field, per policy")
    args = parser.parse_args()
    torch.manual_seed(1)
    for values, dtype, d in (
        ("int4", torch.float16, 128),
        ("int8", torch.bfloat16, 64),
        ("int4-g32", torch.bfloat16, 80),
        ("int8-g64", torch.float16, 192),
    ):
        bits_of_twins(values, dtype, d)
    say("ok   checksums of kernels are those of twins, bit for bit")
    cases: list[tuple[Policy, str, torch.dtype]] = [
        (Naive(), "int4", torch.float16),
        (Budget(0.05), "int4-g32", torch.bfloat16),
        (Budget(0.0), "int8", torch.float16),
    ]
    for policy, values, dtype in cases:
        say("ok   " + flips(policy, values, dtype, args.flips))
    if GPU:
        times(args.tokens)


if __name__ == "__main__":
    main()
