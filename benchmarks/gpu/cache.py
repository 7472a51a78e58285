"""The cache on a GPU: first that it holds, bit for bit, what the same cache holds on a CPU; then what appending costs.

``python benchmarks/gpu/cache.py`` needs ``fast`` on the path, and nothing but torch, Triton and NumPy. It exits with 1
where a check fails, before anything is timed. ``--device cpu --tokens 4096`` tries it without a GPU.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from typing import Any

import torch

from certkv.fast.cache import TieredCache
from certkv.fast.errors import NonFiniteError

EXACT = ("key_codes", "key_step", "key_minimum", "value_codes", "value_step", "value_minimum")
FORMATS = ("int8", "int4", "int8-g64", "int4-g32")


class FailedError(Exception):
    """A check does not hold."""


def require(condition: bool, what: str) -> None:
    """Raise `FailedError` unless the condition holds."""
    if not condition:
        raise FailedError(what)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal bit for bit."""
    return torch.equal(ours.cpu().contiguous().view(torch.uint8), theirs.cpu().contiguous().view(torch.uint8))


def held(cache: TieredCache) -> dict[str, torch.Tensor]:
    """Everything that two caches must agree on bit for bit."""
    return {name: getattr(cache.pool, name) for name in EXACT} | {
        "page table": cache.pages.table,
        "lengths": cache.lengths,
        "anchor": cache.anchor,
        "resident keys": cache.resident.keys,
        "resident values": cache.resident.values,
        "resident norms": cache.resident.norms,
        "original keys": cache.originals.keys,
        "original values": cache.originals.values,
        "present": cache.originals.present,
    }


def compare(one: TieredCache, other: TieredCache, where: str) -> None:
    """Check that two caches hold the same; annotations to one step of their storage."""
    for name, tensor in held(one).items():
        require(same(tensor, held(other)[name]), f"{name} differ: {where}")
    for name in ("key_notes", "value_notes"):
        a, b = (getattr(cache.pool, name).cpu().double() for cache in (one, other))
        require(torch.equal(a.isnan(), b.isnan()), f"{name} of free pages differ: {where}")
        a, b = a.nan_to_num(0.0), b.nan_to_num(0.0)
        # bfloat16 neighbours are at most 2**-7 apart
        require(bool(((a - b).abs() <= 2.0**-7 * torch.maximum(a, b)).all()), f"{name} differ: {where}")
    for name in ("residual_codes", "anchored_codes"):
        a, b = (getattr(cache.pool, name).cpu().int() for cache in (one, other))
        require(int((a - b).abs().max()) <= 1, f"{name} differ: {where}")


def history(device: str, seed: int) -> None:
    """Random appends and resets on both devices."""
    rng, made = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, heads, block = rng.randint(1, 3), rng.choice([1, 2, 8]), rng.choice([16, 64])
    dim, dtype = rng.choice([64, 80, 96, 128, 192, 256]), rng.choice([torch.float16, torch.bfloat16])
    settings: dict[str, Any] = {
        "values": rng.choice(FORMATS),
        "block": block,
        "originals": rng.choice(["host", "device"]),
    }
    capacity = 6 * block + 5
    ours = TieredCache(batch, heads, dim, capacity, dtype, device=device, **settings)
    theirs = TieredCache(batch, heads, dim, capacity, dtype, **settings)
    where = f"seed {seed}, batch {batch}, {heads} heads of {dim}, {dtype}, {settings}"
    if ours.device.type == "cuda" and settings["originals"] == "host":
        require(ours.originals.keys.is_pinned() and ours.originals.values.is_pinned(), f"not pinned: {where}")
    for _ in range(8):
        added = [rng.randint(0, min(3 * block, capacity - have)) for have in ours.tokens]
        k, v = torch.randn(2, batch, max(added), heads, dim, generator=made).to(dtype)
        for cache in (ours, theirs):
            cache.append(k.to(cache.device), v.to(cache.device), added)
        if rng.random() < 0.3:
            s = rng.randrange(batch)
            ours.reset(s)
            theirs.reset(s)
        compare(ours, theirs, where)


def refused(device: str) -> None:
    """Check that a NaN is refused with its place, and that memory that runs out leaves the cache as it was."""
    cache, twin = (TieredCache(1, 8, 128, 16384, torch.float16, device=device) for _ in range(2))
    k, v = torch.randn(2, 1, 100, 8, 128, device=device).half()
    for one in (cache, twin):
        one.append(k, v)
    bad = v.clone()
    bad[0, 77, 3, 9] = float("nan")
    try:
        cache.append(k, bad)
    except NonFiniteError as error:
        require(error.position == (0, 77, 3, 9), f"wrong place: {error}")
    else:
        raise FailedError("a NaN was accepted")
    compare(cache, twin, "after a refusal")
    if cache.device.type != "cuda":
        return
    k, v = torch.randn(2, 1, 16000, 8, 128, device=device).half()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cache.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (4 << 20)) / total)
    try:
        cache.append(k, v)
    except torch.OutOfMemoryError:
        pass
    else:
        raise FailedError("the append was meant to run out of memory")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    compare(cache, twin, "after running out of memory")
    for one in (cache, twin):
        one.append(k, v)
    compare(cache, twin, "after appending what had not fitted")


def timed(device: str, call: Any) -> float:
    """Milliseconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def costs(device: str, tokens: int, batch: int) -> str:
    """Return a line: filling a cache at once, then token by token over two blocks."""
    cache = TieredCache(batch, 8, 128, tokens + 256, torch.float16, device=device)
    k, v = torch.randn(2, batch, tokens, 8, 128, device=device, dtype=torch.float16)
    timed(device, lambda: cache.append(k, v))
    for s in range(batch):
        cache.reset(s)
    prefill = timed(device, lambda: cache.append(k, v))
    steps = [timed(device, lambda: cache.append(k[:, :1], v[:, :1])) for _ in range(128)]
    plain, filling = statistics.median(steps), max(steps[i] for i in (63, 127))
    return f"{batch:5} {tokens:8} {prefill:11.2f} {plain:11.3f} {filling:11.3f}"


def main() -> int:
    """Check, then time; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--histories", type=int, default=40)
    options = parser.parse_args()
    try:
        for seed in range(options.histories):
            history(options.device, seed)
        refused(options.device)
    except FailedError as failed:
        print(f"FAILED: {failed}")
        return 1
    print(f"{options.histories} histories and the refusals agree with the cache on a CPU")
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    cache = TieredCache(1, 8, 128, max(options.tokens), torch.float16, device=options.device)
    k, v = torch.zeros(2, 1, max(options.tokens), 8, 128, device=options.device, dtype=torch.float16)
    cache.append(k, v)
    print(f"{cache.memory()}\n(the input, {k.nbytes + v.nbytes:,} bytes, is part of the peak)")
    del cache, k, v
    print("batch   tokens  prefill ms  +1 token ms  +1 full ms")
    for tokens in options.tokens:
        print(costs(options.device, tokens, 1))
    print(costs(options.device, min(options.tokens), 8))
    return 0


if __name__ == "__main__":
    sys.exit(main())
