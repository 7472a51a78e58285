"""An adversary that learns: hill climbing over queries, for a fixed cache, on the error/bound they attain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Queries, Rng, normal
from certkv.proofs.campaign.generators.residuals import aim, between_equal_scores, one_against_the_rest
from certkv.proofs.campaign.setting import Setting
from certkv.reference import Cache

ROUNDS = 12


def small_dimension(rng: Rng, s: Setting) -> Setting:
    """Lossy keys, few channels and tokens, many heads: where a search of this size can get somewhere."""
    block = int(rng.integers(3, 9))
    return replace(
        s,
        keys=str(rng.choice(["int8", "int8-paper"])),
        query_dtype="float32",
        head_dim=int(rng.integers(1, 9)),
        block=block,
        tokens=block * int(rng.integers(1, 4)) + int(rng.integers(0, 2)),
        ratio=32,
        kv_heads=2,
        scale=None,
        causal=False,
    )


def climb(rng: Rng, s: Setting, cache: Cache) -> Queries:
    """Keep the best query of each KV head; propose changes of its size and direction; start from the aimed ones."""
    starts = aim(one_against_the_rest if rng.random() < 0.5 else between_equal_scores)(rng, s, cache)
    candidates = next(starts).reshape(s.kv_heads, s.ratio, s.head_dim)
    width = 0.5
    for _ in range(ROUNDS):
        attained = (yield candidates.reshape(s.q_heads, s.head_dim)).reshape(s.kv_heads, s.ratio)
        best = candidates[np.arange(s.kv_heads), attained.argmax(axis=-1)][:, None, :]
        size = np.linalg.norm(best, axis=-1, keepdims=True) / np.sqrt(s.head_dim)
        change = rng.standard_normal(candidates.shape) * size * width
        stretch = np.exp(width * rng.standard_normal((s.kv_heads, s.ratio, 1)))
        candidates = best * stretch + change
        candidates[:, :1] = best
        width *= 0.8


def hill_climb(rng: Rng, s: Setting) -> Data:
    """Values in two groups, keys normal; the search is over queries."""
    v = rng.choice([-1.0, 1.0], size=(s.tokens, s.kv_heads, 1)) * np.ones(s.head_dim)
    if rng.random() < 0.5:
        v = normal(rng, s)
    return Data(normal(rng, s), v, climb, out_dtype="float64")
