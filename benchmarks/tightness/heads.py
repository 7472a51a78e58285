"""Synthetic attention heads of five types, after what trained models show; all draws come from one seed.

Keys are Gaussian around topics that change every 32 tokens, with log-normal token norms, a few outlier channels and a
bias along them, then RoPE; values are alike, without RoPE. What the head attends to is decided by the queries, and for
"sink" and "local" by a direction that is added to the keys:

- ``diffuse``: small queries, weight nearly everywhere;
- ``sink``: the same, but the first token, whose value is nearly zero, draws about half of the weight;
- ``mixed``: queries half along a topic;
- ``retrieval``: each query looks for one token in the middle;
- ``local``: scores fall with the distance from the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # so that heads can be drawn where NumPy is all there is
    from certkv.reference.numbers.types import AnyArray, FloatArray

KINDS = ("diffuse", "sink", "mixed", "retrieval", "local")
HEAD_DIM = 128
TOPICS, TOPIC_TOKENS = 16, 32
OUTLIERS = 6
SINKS = 4
REACH, STEEPEST = 64.0, 12.0
"""Tokens after which a local head's weight has fallen by about e, and the largest fall, in units of that."""


@dataclass(frozen=True, eq=False)
class Head:
    """One KV head with some queries, all of which see all tokens; float16.

    Attributes
    ----------
    q : [queries, d]
    k, v : [tokens, 1, d]
    """

    q: AnyArray
    k: AnyArray
    v: AnyArray


def rope(x: FloatArray, positions: FloatArray, base: float = 10_000.0) -> FloatArray:
    """Rotate ``x [n, d]`` (halves paired) to ``positions [n]``."""
    first, second = np.split(x, 2, axis=-1)
    half = first.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def synthetic(kind: str, tokens: int, seed: int, queries: int) -> Head:
    """Draw a head.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    tokens, seed, queries : int

    Returns
    -------
    Head

    Raises
    ------
    ValueError
        No such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of head; give one of {', '.join(KINDS)}")
    rng = np.random.default_rng([KINDS.index(kind), tokens, seed])
    d = HEAD_DIM
    topics = rng.normal(size=(TOPICS, d))
    topic = np.repeat(rng.integers(0, TOPICS, -(-tokens // TOPIC_TOKENS)), TOPIC_TOKENS)[:tokens]
    channel = np.ones(d)
    channel[rng.choice(d, OUTLIERS, replace=False)] = rng.uniform(4, 10, OUTLIERS)
    positions = np.arange(tokens, dtype=np.float64)

    plain = (rng.normal(size=(tokens, d)) + 0.7 * topics[topic]) * _log_normal(rng, tokens, 0.25)
    bias = 0.8 * rng.normal(size=d) * channel
    k = rope(plain * np.sqrt(channel) + bias, positions)
    mixture = rng.normal(size=(tokens, d)) + 0.6 * rng.normal(size=(TOPICS, d))[topic]
    v = mixture * _log_normal(rng, tokens, 0.3) * np.exp(0.4 * rng.normal(size=d))

    noise = rng.normal(size=(queries, d))
    at = np.full(queries, positions[-1])
    match kind:
        case "diffuse":
            q = 0.25 * noise
        case "sink":
            q = 0.3 * noise
        case "mixed":
            q = 0.6 * noise + 0.5 * topics[rng.integers(0, TOPICS, queries)]
        case "retrieval":
            wanted = rng.integers(tokens // 4, 3 * tokens // 4, queries)
            q, at = 1.2 * plain[wanted] + 0.3 * noise, positions[wanted]
        case _:
            q = 0.4 * noise + 0.2 * bias
    q = rope(q, at)

    # the key direction on which every query scores 1
    common = np.linalg.pinv(q) @ np.full(queries, np.sqrt(d))
    if kind == "sink":
        k[:SINKS] *= 0.1
        v[:SINKS] *= 0.05
        k[0] += (np.log(tokens) + 1.0) * common
    if kind == "local":
        k -= 0.8 * np.minimum(positions[::-1] / REACH, STEEPEST)[:, None] * common
    return Head(q.astype(np.float16), k[:, None].astype(np.float16), v[:, None].astype(np.float16))


def _log_normal(rng: np.random.Generator, tokens: int, sigma: float) -> FloatArray:
    return np.exp(sigma * rng.normal(size=tokens))[:, None]
