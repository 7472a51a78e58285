"""Data as models make it: Gaussian, RoPE with topics, outliers, norms, sinks, needles, local heads."""

from __future__ import annotations

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given, normal, normal_queries, temperature, unit
from certkv.proofs.campaign.setting import Setting
from certkv.reference.numbers.types import FloatArray


def gaussian(rng: Rng, s: Setting) -> Data:
    """Independent normal numbers."""
    return Data(normal(rng, s), normal(rng, s), given(temperature(rng) * normal_queries(rng, s)))


def rotate(x: FloatArray, positions: FloatArray) -> FloatArray:
    """Rotate channel pairs (c, c + d/2) by position times 10000^(-2c/d), as RoPE does; an odd channel stays.

    Parameters
    ----------
    x : float64 [n, heads, d]
    positions : float64 [n]
    """
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * 10_000.0 ** (-np.arange(half) / max(half, 1))
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle), x[..., 2 * half :]]
    return np.concatenate(turned, axis=-1)


def rope_topics(rng: Rng, s: Setting) -> Data:
    """Tokens come in runs that share a topic; keys are rotated by their position; queries ask for a topic."""
    topics = 2.0 * rng.standard_normal((8, s.kv_heads, s.head_dim))
    meanings = rng.standard_normal((8, s.kv_heads, s.head_dim))
    topic = np.repeat(rng.integers(8, size=s.tokens // 7 + 1), 7)[: s.tokens]
    k = rotate(topics[topic] + normal(rng, s), np.arange(s.tokens, dtype=np.float64))
    v = meanings[topic] + 0.3 * normal(rng, s)
    asked = np.repeat(topics[rng.integers(8, size=s.steps)], s.ratio, axis=1)
    q = rotate(asked + 0.5 * normal_queries(rng, s), np.full(s.steps, float(s.tokens)))
    return Data(k, v, given(q))


def outlier_channels(rng: Rng, s: Setting) -> Data:
    """Give a few channels a large mean and spread, in keys and in values."""
    wide = np.where(rng.random((2, s.kv_heads, s.head_dim)) < 0.05, 30.0, 1.0)
    mean = (wide - 1.0) * rng.standard_normal((2, s.kv_heads, s.head_dim))
    k, v = mean[0] + wide[0] * normal(rng, s) * 0.3, mean[1] + wide[1] * normal(rng, s) * 0.3
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s) / np.repeat(wide[0], s.ratio, axis=0)))


def lognormal_norms(rng: Rng, s: Setting) -> Data:
    """Token norms spread over orders of magnitude."""
    sizes = rng.lognormal(0.0, 1.5, (2, s.tokens, s.kv_heads, 1))
    k, v = normal(rng, s) * np.minimum(sizes[0], 50.0), normal(rng, s) * sizes[1]
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def sinks(rng: Rng, s: Setting) -> Data:
    """Let the first tokens draw most of the mass and have values of almost no norm."""
    direction = unit(rng.standard_normal((s.kv_heads, s.head_dim)))
    k, v = normal(rng, s), normal(rng, s)
    first = int(rng.integers(1, 5))
    k[:first] += rng.uniform(3, 15) * direction
    v[:first] *= 10.0 ** rng.uniform(-4, -1)
    q = rng.uniform(1, 4) * np.sqrt(s.head_dim) * np.repeat(direction, s.ratio, axis=0) / 3.0
    return Data(k, v, given(q + normal_queries(rng, s)))


def needles(rng: Rng, s: Setting) -> Data:
    """Hide a few tokens that match the query far better than the rest, with large values."""
    direction = unit(rng.standard_normal((s.kv_heads, s.head_dim)))
    k, v = normal(rng, s), normal(rng, s)
    at = rng.integers(s.tokens, size=int(rng.integers(1, 4)))
    k[at] = k[at] * 0.3 + 2.0 * np.sqrt(s.head_dim) * direction
    v[at] *= 22.0
    q = rng.uniform(0.5, 6.0) * np.repeat(direction, s.ratio, axis=0) + 0.5 * normal_queries(rng, s)
    return Data(k, v, given(q))


def local(rng: Rng, s: Setting) -> Data:
    """Keys drift slowly and queries resemble the newest ones; values drift along."""
    drift = np.cumsum(normal(rng, s), axis=0) * 0.3
    v = np.cumsum(normal(rng, s), axis=0) * 0.1
    last = np.repeat(drift[-1], s.ratio, axis=0)
    return Data(drift, v, given(temperature(rng) * (0.3 * last + 0.1 * normal_queries(rng, s))))
