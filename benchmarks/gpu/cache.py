"""The cache on a GPU: first that it holds, bit for bit, what the same cache holds on a CPU; then what appending costs.

Also that a decode loop whose appends and steps are one captured graph leaves what eager appends leave, over block
boundaries, and that its steps are the same bits.

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
from certkv.fast.certificate import Status
from certkv.fast.errors import CapacityError, NonFiniteError
from certkv.fast.plan import plan
from certkv.fast.policies import Budget, Policy

EXACT = ("key_codes", "key_step", "key_minimum", "value_codes", "value_step", "value_minimum")
SETTINGS: tuple[tuple[int, int, int, torch.dtype, str, str], ...] = (
    (8, 64, 128, torch.float16, "int4-g32", "host"),
    (2, 16, 64, torch.bfloat16, "int8", "device"),
)
"""KV heads, block, head size, type, value format, place. Compiling their kernels takes most of the time."""


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
    """Random appends and resets on both devices, some of them token by token on the device alone."""
    rng, made = random.Random(seed), torch.Generator().manual_seed(seed)
    heads, block, dim, dtype, values, place = SETTINGS[seed % len(SETTINGS)]
    batch = rng.randint(1, 3)
    settings: dict[str, Any] = {"values": values, "block": block, "originals": place}
    capacity = 6 * block + 5
    ours = TieredCache(batch, heads, dim, capacity, dtype, device=device, **settings)
    theirs = TieredCache(batch, heads, dim, capacity, dtype, **settings)
    where = f"seed {seed}, batch {batch}, {heads} heads of {dim}, {dtype}, {settings}"
    if ours.device.type == "cuda" and settings["originals"] == "host":
        require(ours.originals.keys.is_pinned() and ours.originals.values.is_pinned(), f"not pinned: {where}")
    for _ in range(5):
        added = [rng.randint(0, min(3 * block, capacity - have)) for have in ours.tokens]
        k, v = torch.randn(2, batch, max(added), heads, dim, generator=made).to(dtype)
        for cache in (ours, theirs):
            cache.append(k.to(cache.device), v.to(cache.device), added)
        if rng.random() < 0.3:
            s = rng.randrange(batch)
            ours.reset(s)
            theirs.reset(s)
        if rng.random() < 0.5:
            count = min(block + 1, *(capacity - have for have in ours.tokens))
            k, v = torch.randn(2, batch, count, heads, dim, generator=made).to(dtype)
            for cache in (ours, theirs):
                cache.reserve()
            for t in range(count):
                ours.append_one(k[:, t].to(ours.device), v[:, t].to(ours.device))
            ours.sync()
            theirs.append(k, v)
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


NOTES = ("key_notes", "value_notes", "residual_codes", "anchored_codes")


def captured(device: str, policy: Policy, place: Any, tokens: int = 150) -> None:
    """Decode with one graph of append and step, over block boundaries, against eager appends and steps."""
    batch, (heads, dim) = 2, (8, 128) if device != "cpu" else (2, 16)
    capacity = tokens + 100
    ours, theirs = (
        TieredCache(batch, heads, dim, capacity, torch.float16, originals=place, device=device) for _ in "ab"
    )
    made = torch.Generator().manual_seed(3)
    k, v = torch.randn(2, batch, tokens + 40, heads, dim, generator=made).half().to(device)
    q = torch.randn(tokens, batch, 4 * heads, dim, generator=made).half().to(device)
    for cache in (ours, theirs):
        cache.append(k[:, :40], v[:, :40], lengths=[40, 13])
        cache.reserve()
    plans = [plan(cache, 4 * heads, policy) for cache in (ours, theirs)]
    step, other = (one.step() for one in plans)
    now_k, now_v, now_q = k[:, 40].clone(), v[:, 40].clone(), q[0].clone()
    active = torch.ones(batch, dtype=torch.uint8, device=device)
    where = f"{policy}, originals on the {place}"

    def once() -> None:
        ours.append_one(now_k, now_v, active)
        plans[0].run(now_q, out=step)

    replay = once
    if device != "cpu":
        plans[0].run(now_q, out=step)  # compiles; what append_one needs, reserve has compiled
        torch.cuda.synchronize()
        nobody = torch.zeros_like(active)
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours.append_one(now_k, now_v, nobody)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        allocated = torch.cuda.memory_stats()["allocation.all.allocated"] - before
        require(allocated == 0, f"an append allocated {allocated} times: {where}")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
        replay = graph.replay
    for t in range(tokens):
        now_k.copy_(k[:, 40 + t])
        now_v.copy_(v[:, 40 + t])
        now_q.copy_(q[t])
        replay()
        theirs.append(k[:, 40 + t : 41 + t], v[:, 40 + t : 41 + t])
        plans[1].run(now_q, out=other)
        for name in ("output", "lse"):
            require(same(getattr(step, name), getattr(other, name)), f"{name} differs at token {t}: {where}")
        for name, tensor in vars(step.certificate).items():
            require(same(tensor, getattr(other.certificate, name)), f"{name} differs at token {t}: {where}")
    step.check()
    require(ours.tokens == theirs.tokens == (40 + tokens, 13 + tokens), f"{ours.tokens} tokens: {where}")
    compare(ours, theirs, where)
    for name in NOTES:
        require(same(getattr(ours.pool, name), getattr(theirs.pool, name)), f"{name} differ by a bit: {where}")
    for name, tensor in vars(ours.checksums).items():
        require(same(tensor, getattr(theirs.checksums, name)), f"checksums of {name} differ: {where}")
    now_v[1, 1, 7] = float("inf")
    replay()
    replay()
    require(step.certificate.status[:, 0].tolist() == [Status.OK, Status.NONFINITE_VALUE], f"an infinity: {where}")
    require(bool(step.output[1].isnan().all() and step.output[0].isfinite().all()), f"output of it: {where}")
    raises(lambda: ours.append(k[:, :1], v[:, :1]), NonFiniteError, "v[1, 1, 7] is not finite", where)
    now_v[1, 1, 7] = 0.0
    ours.sync()
    require(ours.tokens == (42 + tokens, 13 + tokens), f"{ours.tokens} after an infinity: {where}")
    while ours.tokens[0] < capacity:
        replay()
    replay()
    raises(ours.sync, CapacityError, "sequence 0", where)
    ours.reset(0)
    for _ in range(64):
        replay()
    raises(ours.sync, CapacityError, "sequence 0", where)  # its pages were given back
    require(ours.tokens[0] == 63, f"{ours.tokens} without a page: {where}")


def raises(call: Any, kind: type[Exception], message: str, where: str) -> None:
    """Check what a call raises."""
    try:
        call()
    except kind as error:
        require(message in str(error), f"{error}: {where}")
        return
    raise FailedError(f"no {kind.__name__}: {where}")


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
    cache.reserve()
    now_k, now_v = k[:, 0].clone(), v[:, 0].clone()
    replay = lambda: cache.append_one(now_k, now_v)  # noqa: E731
    if device != "cpu":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            cache.append_one(now_k, now_v)
        replay = graph.replay
    steps = [1e3 * timed(device, replay) for _ in range(128)]
    alone, full = statistics.median(steps), max(steps[i] for i in (63, 127))
    return f"{batch:5} {tokens:8} {prefill:11.2f} {plain:11.3f} {filling:11.3f} {alone:12.1f} {full:12.1f}"


def main() -> int:
    """Check, then time; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--histories", type=int, default=6)
    options = parser.parse_args()
    try:
        begun = time.perf_counter()
        for seed in range(options.histories):
            history(options.device, seed)
        print(f"{options.histories} histories agree with the cache on a CPU ({time.perf_counter() - begun:.0f} s)")
        refused(options.device)
        print(f"refusals leave the cache as it was ({time.perf_counter() - begun:.0f} s)")
        captured(options.device, Budget(0.05), "host")
        captured(options.device, Budget(0.05), "device")
        print(f"captured appends and steps are the eager ones, bit for bit ({time.perf_counter() - begun:.0f} s)")
    except FailedError as failed:
        print(f"FAILED: {failed}")
        return 1
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    cache = TieredCache(1, 8, 128, max(options.tokens), torch.float16, device=options.device)
    k, v = torch.zeros(2, 1, max(options.tokens), 8, 128, device=options.device, dtype=torch.float16)
    cache.append(k, v)
    print(f"{cache.memory()}\n(the input, {k.nbytes + v.nbytes:,} bytes, is part of the peak)")
    del cache, k, v
    print("batch   tokens  prefill ms  +1 token ms  +1 full ms  captured us  its full us")
    for tokens in options.tokens:
        print(costs(options.device, tokens, 1))
    print(costs(options.device, min(options.tokens), 8))
    return 0


if __name__ == "__main__":
    sys.exit(main())
