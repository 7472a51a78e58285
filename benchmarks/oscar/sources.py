"""Keys, values and queries to try: layers of the bundled model, and Gaussian tokens some of which are long or short."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.tightness.captures import BUNDLED, capture
from benchmarks.tightness.heads import HEAD_DIM, synthetic

from certkv.reference.numbers.types import AnyArray

GROUP = 32
"""Tokens that share a step; the first of each is the odd one."""

KV_HEADS = 8
QUERIES = 32
TOKENS = 2_048
SIZES = {"level": 1.0, "short-0.3": 0.3, "short-0.05": 0.05, "long-3": 3.0, "long-10": 10.0, "long-30": 30.0}
"""Norm of one token in 32 over that of the others."""

OUTLIERS = {"": 0, "+channels": 4}
"""Channels 8 times as large as the others."""

PEAKED = ("mixed", "retrieval")


@dataclass(frozen=True, eq=False)
class Source:
    """One layer.

    Attributes
    ----------
    kind : {"capture", "imbalance", "head"}
    name : str
    q : [steps, q_heads, d]
    positions : tuple of int or None
        Of causal queries.
    k, v : [tokens, kv_heads, d]
    scale : float
    calm : float
        What queries are divided by in a second try: the norm of long tokens, which else draw all weight.
    """

    kind: str
    name: str
    q: AnyArray
    positions: tuple[int | None, ...]
    k: AnyArray
    v: AnyArray
    scale: float
    calm: float = 1.0


def captures(small: bool) -> Iterator[Source]:
    """Yield the layers of the bundled capture."""
    for layer in capture(BUNDLED)[: 1 if small else None]:
        positions = tuple(layer.visible(i) - 1 for i in range(layer.queries))
        yield Source("capture", f"layer-{layer.index}", layer.q, positions, layer.k, layer.v, layer.scale)


def imbalanced(size: float, channels: int, tokens: int = TOKENS) -> Source:
    """Draw a layer of eight KV heads in which one token in 32 is ``size`` times as long, in every head.

    Queries score ordinary tokens with a spread of 1, and calm ones the long tokens: their output is a mean over many.
    """
    rng = np.random.default_rng(20605)
    k, v = rng.standard_normal((2, tokens, KV_HEADS, HEAD_DIM))
    k[..., rng.choice(HEAD_DIM, channels, replace=False)] *= 8.0
    k[::GROUP] *= size
    ordinary = k[np.arange(tokens) % GROUP != 0]
    q = rng.standard_normal((1, QUERIES, HEAD_DIM))
    q /= np.sqrt(np.mean(np.square(ordinary))) * np.sqrt(np.mean(np.square(q)))
    k, v = k.astype(np.float16), v.astype(np.float16)
    return Source("imbalance", "", q.astype(np.float32), (None,), k, v, HEAD_DIM**-0.5, max(size, 1.0))


def imbalances(small: bool) -> Iterator[tuple[str, Source]]:
    """Yield layers of each size of odd tokens, with and without outlier channels."""
    for name, size in SIZES.items():
        for suffix, channels in OUTLIERS.items():
            if not small or (name, suffix) in (("level", ""), ("long-10", "")):
                yield name + suffix, imbalanced(size, channels, 256 if small else TOKENS)


def heads(small: bool) -> Iterator[Source]:
    """Yield synthetic heads that attend to few tokens and to some."""
    for kind in PEAKED[: 1 if small else None]:
        head = synthetic(kind, 512 if small else 4_096, 0, 8)
        yield Source("head", kind, head.q[None], (None,), head.k, head.v, 1.0 / math.sqrt(HEAD_DIM))
