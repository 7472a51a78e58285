"""What a generator is: data for a cache, and queries that may know the filled cache."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import numpy as np

from certkv.proofs.campaign.setting import Setting
from certkv.reference import Cache
from certkv.reference.numbers.types import FloatArray

Rng = np.random.Generator
Queries = Generator[FloatArray, FloatArray, None]
"""Yields queries [q_heads, d]; is sent the error/bound that they attained under ``Naive``, [q_heads]."""

Strategy = Callable[[Rng, Setting, Cache], Queries]


@dataclass(frozen=True, eq=False)
class Data:
    """Tokens, and queries for them.

    Attributes
    ----------
    k, v : float64 [tokens, kv_heads, d]
        Rounded to the setting's type before use.
    queries : Strategy
    out_dtype : str or None
        Fixed type of the output, or None to draw it.
    """

    k: FloatArray
    v: FloatArray
    queries: Strategy
    out_dtype: str | None = None


def unchanged(_rng: Rng, setting: Setting) -> Setting:
    """Return the setting as drawn."""
    return setting


@dataclass(frozen=True)
class GeneratorOfCases:
    """A named source of cases.

    Attributes
    ----------
    name : str
    make : callable
        From random numbers and a setting to data.
    cases : mapping
        Number of cases of each size in a full campaign.
    adjust : callable
        Changes a drawn setting, for what the generator needs.
    """

    name: str
    make: Callable[[Rng, Setting], Data]
    cases: Mapping[str, int] = field(default_factory=dict)
    adjust: Callable[[Rng, Setting], Setting] = unchanged


def given(q: FloatArray) -> Strategy:
    """Return queries that are known beforehand, [steps, q_heads, d]."""

    def queries(_rng: Rng, _setting: Setting, _cache: Cache) -> Queries:
        for one in q:  # noqa: UP028 (`yield from` an array could not be sent anything)
            yield one

    return queries


def normal(rng: Rng, s: Setting) -> FloatArray:
    """Gaussian tokens, [tokens, kv_heads, d]."""
    return rng.standard_normal((s.tokens, s.kv_heads, s.head_dim))


def normal_queries(rng: Rng, s: Setting) -> FloatArray:
    """Gaussian queries, [steps, q_heads, d]."""
    return rng.standard_normal((s.steps, s.q_heads, s.head_dim))


def unit(x: FloatArray) -> FloatArray:
    """Scale vectors to norm 1 (a zero vector stays zero)."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1.0))


def temperature(rng: Rng) -> float:
    """Size of queries: from nearly uniform weights to one token taking all."""
    return float(10.0 ** rng.uniform(-1.5, 1.5))
