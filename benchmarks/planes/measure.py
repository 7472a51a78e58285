"""One system on one source: what a budget fetches, at which levels it ends, and whether every bound is true."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.tightness.captures import BUNDLED, capture
from benchmarks.tightness.heads import KINDS, synthetic

from certkv.reference import Budget, Cache, Certificate, decode
from certkv.reference.annotations import device_bytes_per_token
from certkv.reference.cache import Place
from certkv.reference.exact.judge import judge
from certkv.reference.formats import bytes_per_token, key_format, value_format
from certkv.reference.numbers.types import AnyArray

TOLERANCES = (0.02, 0.05, 0.1)
"""Shares of the mass-weighted mean value norm."""

BLOCK = 64


@dataclass(frozen=True)
class System:
    """Formats of keys and values, and where planes lie."""

    name: str
    keys: str
    values: str
    place: Place = "host"


SYSTEMS = (
    System("int8/int4", "int8", "int4-g32"),
    System("int8/int4 planes", "int8+4", "int4-g32+4"),
    System("int8/int8", "int8", "int8-g64"),
    System("int8/int8 planes", "int8+4", "int8-g64+4"),
    System("int4/int4 planes", "int4+4", "int4-g32+4"),
    System("int4/int4 planes on the device", "int4+4", "int4-g32+4", "device"),
    System("oscar", "oscar", "oscar"),
    System("oscar planes", "oscar+2+4", "oscar+2+4"),
    System("oscar planes on the device", "oscar+2+4", "oscar+2+4", "device"),
)


@dataclass(frozen=True, eq=False)
class Source:
    """Originals of one layer and queries on it.

    Attributes
    ----------
    source : {"synthetic", "capture"}
    head : str
        Type of the synthetic head, or name of the capture.
    k, v : [tokens, kv_heads, d]
    queries : list of ([q_heads, d], int or None)
        With the position each stands at; None to see everything.
    scale : float
    """

    source: str
    head: str
    k: AnyArray
    v: AnyArray
    queries: list[tuple[AnyArray, int | None]]
    scale: float


LENGTHS: dict[str, tuple[tuple[int, int], ...]] = {
    "small": ((512, 2),),
    "usual": ((4_096, 8),),
    "long": ((4_096, 8), (32_768, 4)),
}
"""Tokens and queries of synthetic heads, by the size of a run."""

CAPTURES = {"small": (), "usual": (BUNDLED,), "long": (BUNDLED, "turtle-8k")}
"""Captures of the bundled model; it is run for the second."""


def sources(size: str) -> Iterator[Source]:
    """Yield what a run of this size measures."""
    for tokens, count in LENGTHS[size]:
        for kind in KINDS[: 1 if size == "small" else None]:
            head = synthetic(kind, tokens, 0, count)
            yield Source("synthetic", kind, head.k, head.v, [(head.q, None)], 1.0 / math.sqrt(head.k.shape[2]))
    for name in CAPTURES[size]:
        for layer in capture(name):
            queries: list[tuple[AnyArray, int | None]] = [(q, layer.visible(i) - 1) for i, q in enumerate(layer.q)]
            yield Source("capture", name, layer.k, layer.v, queries, layer.scale)


@dataclass(frozen=True)
class Measured:
    """One query head at one step.

    Attributes
    ----------
    fetched, planes : float
        Bytes read from host memory, and bytes of planes wherever they lie, over the 16-bit bytes that were seen.
    keys, values : tuple of float
        Shares of the coded blocks used at each level above the base plane, originals last.
    exact : bool
        The whole head came from originals (rung 3).
    violated : bool
        The true error is above the bound.
    """

    fetched: float
    planes: float
    keys: tuple[float, ...]
    values: tuple[float, ...]
    exact: bool
    violated: bool


def run(source: Source, system: System, tolerances: Sequence[float] = TOLERANCES) -> dict[float, list[Measured]]:
    """Measure a system at every tolerance, all query heads of all queries."""
    _, kv_heads, head_dim = source.k.shape
    cache = Cache(
        kv_heads=kv_heads, head_dim=head_dim, dtype=source.k.dtype, keys=system.keys, values=system.values,
        block=BLOCK, planes=system.place,
    )  # fmt: skip
    cache.append(source.k, source.v)
    found: dict[float, list[Measured]] = {t: [] for t in tolerances}
    for q, position in source.queries:
        seen = len(source.k) if position is None else position + 1
        for t in tolerances:
            step = decode(q, cache, Budget(t), scale=source.scale, position=position)
            violated = _violations(step.output, step.certificate, source, q, seen)
            found[t] += _heads(step.certificate, violated, seen, head_dim)
    return found


def _violations(output: AnyArray, done: Certificate, source: Source, q: AnyArray, seen: int) -> list[bool]:
    size = len(q) // source.k.shape[1]
    bad: list[bool] = []
    for j in range(source.k.shape[1]):
        mine = slice(j * size, (j + 1) * size)
        k, v = source.k[:seen, j], source.v[:seen, j]
        verdicts = judge(output[mine], done.bound[mine], q[mine], k, v, source.scale)
        bad += [verdict.violated for verdict in verdicts]
    return bad


def _heads(done: Certificate, violated: list[bool], seen: int, head_dim: int) -> Iterator[Measured]:
    dense, blocks = seen * 4 * head_dim, max(seen // BLOCK, 1)
    shares = done.levels / blocks
    for head, bad in enumerate(violated):
        yield Measured(
            fetched=float(done.host_bytes[head] / dense),
            planes=float(done.plane_bytes[head] / dense),
            keys=tuple(shares[head, 0].tolist()),
            values=tuple(shares[head, 1].tolist()),
            exact=bool(done.rung[head] >= 3),
            violated=bad,
        )


def always_read(system: System, head_dim: int) -> tuple[float, float]:
    """Return the shares of 16-bit bytes that a pass reads before anything is fetched, and that the device holds."""
    keys, values = key_format(system.keys), value_format(system.values)
    base = bytes_per_token(keys, BLOCK, head_dim) + bytes_per_token(values, BLOCK, head_dim)
    held = device_bytes_per_token(keys, values, BLOCK, head_dim, planes=system.place)
    return float(base / (4 * head_dim)), float(held / (4 * head_dim))


def mean(some: Sequence[float]) -> float:
    """Arithmetic mean."""
    return float(np.mean(some))
