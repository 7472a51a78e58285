"""Keys, values and queries to try: layers of the bundled model, and Gaussian tokens some of which are long or short."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

SINKS = ("short-0.05", "short-0.3")
"""Sizes that are tried as sinks, too: short tokens that draw half of the weight."""

AWAY = 0.5
"""How far the other tokens of a layer with sinks are moved, over ``sqrt(d)``, which is about their norm."""

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


def sinks(size: float, tokens: int = TOKENS) -> Source:
    """Draw a layer in which short tokens are sinks, as in trained models: near 0, while all others score below.

    All but the odd tokens are moved backwards along one direction per head; queries look along it just so far that odd
    tokens have half of the weight.
    """
    source = imbalanced(size, 0, tokens)
    rng = np.random.default_rng(20606)
    k, q = source.k.astype(np.float64), source.q.astype(np.float64)
    along = rng.standard_normal((KV_HEADS, HEAD_DIM))
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    odd = np.arange(tokens) % GROUP == 0
    distance = AWAY * math.sqrt(HEAD_DIM)
    k[~odd] -= distance * along
    looked = np.repeat(along, QUERIES // KV_HEADS, axis=0)
    q[0] -= (q[0] * looked).sum(axis=-1, keepdims=True) * looked
    # others score 0 with a spread of 1, so e^(1/2) on average; a score of -fall takes them to the weight of the sinks
    fall = math.log((GROUP - 1) * math.exp(0.5))
    q[0] += looked * (fall * math.sqrt(HEAD_DIM) / distance)
    return Source(
        "imbalance", "", q.astype(np.float32), (None,), k.astype(np.float16), source.v, HEAD_DIM**-0.5, source.calm
    )


def imbalances(small: bool) -> Iterator[tuple[str, Source]]:
    """Yield layers of each size of odd tokens, with and without outlier channels."""
    for name, size in SIZES.items():
        for suffix, channels in OUTLIERS.items():
            if not small or (name, suffix) in (("level", ""), ("long-10", "")):
                yield name + suffix, imbalanced(size, channels, 256 if small else TOKENS)
    for name in () if small else SINKS:
        yield name + "+sinks", sinks(SIZES[name])


def heads(kinds: Sequence[str], small: bool) -> Iterator[Source]:
    """Yield synthetic heads: RoPE'd keys with outlier channels, a bias, and log-normal token norms."""
    for kind in kinds[: 1 if small else None]:
        head = synthetic(kind, 512 if small else 4_096, 0, 8)
        yield Source("head", kind, head.q[None], (None,), head.k, head.v, 1.0 / math.sqrt(HEAD_DIM))
