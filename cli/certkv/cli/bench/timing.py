"""Clocks: medians of replayed CUDA graphs on a GPU, of plain calls on a CPU; and what memory can deliver."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

FLUSH_BYTES = 256 << 20
"""More than any L2 holds."""

READ_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
"""Summed to see how fast memory is read."""

Run = Callable[[], object]


def nothing() -> None:
    """Do nothing."""


class Clock(Protocol):
    """Times what is run over and over."""

    def ready(self, run: Run) -> Callable[[], None]:
        """Return what is timed in place of ``run``, after warming up."""

    def time(self, ready: Callable[[], None], before: Callable[[], None] = nothing) -> float:
        """Return the median in microseconds; ``before`` is called before every run, and not timed."""


class GraphClock:
    """Replays of a CUDA graph between two events, with nothing of it left in the L2.

    Parameters
    ----------
    device : torch.device
    replays : int
    """

    def __init__(self, device: torch.device, replays: int) -> None:
        self.replays = replays
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def ready(self, run: Run) -> Callable[[], None]:
        """Capture; the first run compiles."""
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def time(self, ready: Callable[[], None], before: Callable[[], None] = nothing) -> float:
        """Return the median of the replays."""
        for _ in range(5):
            ready()
        times: list[float] = []
        for _ in range(self.replays):
            before()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self.flush.zero_()
            start.record()
            ready()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
        return statistics.median(times)


class HostClock:
    """Plain calls, on a CPU.

    Parameters
    ----------
    replays : int
    """

    def __init__(self, replays: int) -> None:
        self.replays = replays

    def ready(self, run: Run) -> Callable[[], None]:
        """Run once."""
        run()

        def again() -> None:
            run()

        return again

    def time(self, ready: Callable[[], None], before: Callable[[], None] = nothing) -> float:
        """Return the median of the calls."""
        times: list[float] = []
        for _ in range(self.replays):
            before()
            start = time.perf_counter()
            ready()
            times.append((time.perf_counter() - start) * 1e6)
        return statistics.median(times)


def clock_for(device: torch.device, replays: int) -> Clock:
    """Return the clock of a device."""
    return GraphClock(device, replays) if device.type == "cuda" else HostClock(replays)


def read_rate(device: torch.device, clock: Clock) -> float:
    """Return bytes per microsecond of a large read-only sum: what a step that only read its bytes would reach."""
    count = READ_BYTES[device.type] // 4
    numbers = torch.ones(count, dtype=torch.float32, device=device)
    return 4.0 * count / clock.time(clock.ready(numbers.sum))


def dense_time(k: torch.Tensor, v: torch.Tensor, q: torch.Tensor, scale: float, clock: Clock) -> float:
    """Time torch's attention over a preallocated cache, the faster of its own choice of backend and flash attention.

    Parameters
    ----------
    k, v : T [batch, tokens, kv_heads, head_dim]
    q : T [batch, q_heads, head_dim]
    scale : float
    clock : Clock
    """
    keys, values = (x.transpose(1, 2).contiguous() for x in (k, v))
    one, gqa = q[:, :, None].contiguous(), q.shape[1] != k.shape[2]

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(one, keys, values, scale=scale, enable_gqa=gqa)

    times = [clock.time(clock.ready(attend))]
    if k.device.type == "cuda":
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            times.append(clock.time(clock.ready(attend)))
    return min(times)
