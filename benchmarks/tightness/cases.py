"""Which heads are measured, and how: every case is one cache with some queries on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.tightness.captures import BUNDLED, NAMES, capture
from benchmarks.tightness.heads import HEAD_DIM, KINDS, synthetic
from benchmarks.tightness.measure import SETUPS, HeadStep, Query, Setup, head_steps
from benchmarks.tightness.worst import OneHead, encode, worst_case

from certkv.cli.capture import Layer
from certkv.reference.cache import Cache
from certkv.reference.numbers.types import AnyArray

KEYS = "int8"
VALUES = ("int4-g32", "int8-g64")
BLOCKS = (16, 32, 64, 128)
SEEDS = {4_096: 3, 8_192: 2, 32_768: 1}
"""Seeds per number of tokens."""

LONG = 32_768
"""From this length on the default block stands for all sizes."""

DEFAULT_BLOCK = 64

QUERIES = 8
MOVED_QUERIES = 4
"""Of a synthetic head: each of them needs originals, and so a cache, of its own."""


@dataclass(frozen=True)
class Group:
    """What one row of the table is about; its cases differ in seed or layer.

    Attributes
    ----------
    source : {"synthetic", "capture", "moved"}
        "moved": a synthetic head or capture with its originals where they hurt most, see `worst`.
    head : str
        Type of the synthetic head, or name of the capture.
    tokens, head_dim : int
    values : str
        Value format; keys are ``KEYS``.
    block : int
    """

    source: str
    head: str
    tokens: int
    head_dim: int
    values: str
    block: int


@dataclass(frozen=True, eq=False)
class Case:
    """A synthetic head with this seed, or (where ``layer`` is given) one layer of a capture."""

    group: Group
    seed: int = 0
    layer: Layer | None = None


def cases(small: bool = False) -> Iterator[Case]:
    """Yield all cases; the model is run for the captures. ``small``: a few of a second each, the bundled capture."""
    seeds, blocks, names = ({512: 1}, (64,), NAMES[:1]) if small else (SEEDS, BLOCKS, NAMES)
    for tokens, count in seeds.items():
        for kind in KINDS:
            for block in blocks if tokens < LONG else (DEFAULT_BLOCK,):
                for values in VALUES:
                    group = Group("synthetic", kind, tokens, HEAD_DIM, values, block)
                    yield from (Case(group, seed) for seed in range(count))
    for name in names:
        layers = capture(name)[:1] if small else capture(name)
        for layer in layers:
            for block in blocks:
                for values in VALUES:
                    yield Case(Group("capture", name, layer.tokens, layer.k.shape[2], values, block), layer=layer)
    tokens = min(seeds)
    for values in VALUES:
        for kind in KINDS[: 1 if small else None]:
            yield Case(Group("moved", kind, tokens, HEAD_DIM, values, DEFAULT_BLOCK))
        for layer in () if small else capture(BUNDLED):
            group = Group("moved", BUNDLED, layer.tokens, layer.k.shape[2], values, DEFAULT_BLOCK)
            yield Case(group, layer=layer)


def run(case: Case) -> list[tuple[Setup, HeadStep]]:
    """Measure a case."""
    group, layer = case.group, case.layer
    if layer is None:
        head = synthetic(group.head, group.tokens, case.seed, QUERIES)
        k, v, scale = head.k, head.v, 1.0 / math.sqrt(group.head_dim)
        queries = [Query(head.q, None)]  # the queries of a synthetic head are query heads of one KV head
    else:
        k, v, scale = layer.k, layer.v, layer.scale
        queries = [Query(layer.q[i], layer.visible(i) - 1) for i in range(layer.queries)]
    if group.source == "moved":
        last = queries[-1].q
        heads = [OneHead(q, k[:, i], v[:, i], scale) for q, i in _query_heads(last, k.shape[1])]
        return [step for head in heads[: MOVED_QUERIES if layer is None else None] for step in _run_moved(head, group)]
    cache = Cache(
        kv_heads=k.shape[1], head_dim=group.head_dim, dtype=k.dtype, keys=KEYS, values=group.values, block=group.block
    )
    cache.append(k, v)
    return list(head_steps(cache, k, v, queries, scale))


def _run_moved(head: OneHead, group: Group) -> list[tuple[Setup, HeadStep]]:
    """Move the originals of one head and measure it, nothing promoted."""
    worst = worst_case(head, group.values, group.block)
    cache = encode(worst, group.values, group.block)
    return list(
        head_steps(cache, worst.k[:, None], worst.v[:, None], [Query(head.q[None], None)], head.scale, SETUPS[:1])
    )


def _query_heads(q: AnyArray, kv_heads: int) -> Iterator[tuple[AnyArray, int]]:
    """Yield every query head of a step [q_heads, d] and its KV head."""
    for head, row in enumerate(q):
        yield row, head // (len(q) // kv_heads)
