"""Compile what appends and steps of `Budget` need into Triton's cache, every part in a process of its own.

A ladder that reads several planes takes half a minute to compile, so parts are compiled side by side; what follows
finds them in the cache, which all processes share. Every part is run once, by itself: an append of a few blocks; attend
on a tail; the first tier on what no pass has written, which opens every head; the ladder where no head is open. The
ladder is another one for planes on the device. Without a GPU there is nothing to compile.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import torch

from certkv.fast import Budget, TieredCache, plan
from certkv.fast.errors import CertkvError

PARTS = ("ladder", "attend", "first_tier", "append")
"""Longest first."""


@dataclass(frozen=True)
class Setting:
    """What decides which kernels are compiled: sizes of a cache, and query heads of one KV head."""

    keys: str
    values: str
    dtype: torch.dtype
    kv_heads: int
    group: int
    head_dim: int
    block: int
    capacity: int
    batch: int = 1
    planes: Literal["host", "device"] = "host"


def nothing(*_: object) -> None:
    """Stand for a part that another process compiles."""


def compile_part(of: Setting, part: str) -> float:
    """Compile one part on this process's GPU; return the seconds it took, 0 for formats that steps do not read."""
    begun, made, device = time.monotonic(), torch.Generator().manual_seed(1), torch.device("cuda")
    try:
        formats: dict[str, Any] = {"keys": of.keys, "values": of.values, "block": of.block, "planes": of.planes}
        cache = TieredCache(of.batch, of.kv_heads, of.head_dim, of.capacity, of.dtype, **formats, device=device)
        planned = plan(cache, of.kv_heads * of.group, Budget(0.05))
    except CertkvError:
        return 0.0
    count = 3 * of.block + 1 if part == "append" else 1
    if part == "append_one":
        cache.reserve()
    k, v = torch.randn(2, of.batch, count, of.kv_heads, of.head_dim, generator=made).to(of.dtype).to(device)
    cache.append(k, v)
    torch.cuda.synchronize()
    if not part.startswith("append"):
        others = {name: nothing for name in ("attend", "first_tier", "ladder") if name != part}
        planned.passes = planned.passes._replace(**others)
        q = torch.zeros(of.batch, of.kv_heads * of.group, of.head_dim, dtype=of.dtype, device=device)
        planned.run(q, out=planned.step())
        torch.cuda.synchronize()
    return time.monotonic() - begun


def begin(settings: Iterable[Setting], parts: Sequence[str] = PARTS) -> dict[Future[float], tuple[Setting, str]]:
    """Begin to compile; what each future compiles, the longest first. Of appends inside a graph only where asked."""
    asked = [(of, part) for part in parts for of in dict.fromkeys(settings)]
    if not torch.cuda.is_available() or not asked:
        return {}
    pool = ProcessPoolExecutor(len(asked), mp_context=get_context("spawn"))
    found = {pool.submit(compile_part, *one): one for one in asked}
    pool.shutdown(wait=False)
    return found
