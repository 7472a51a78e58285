"""Whole decode steps: originals, queries, formats, policy, position and cache life, all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from certkv.proofs.mutants.scene import Scene
from certkv.proofs.strategies.policies import policies
from certkv.proofs.strategies.textures import TEXTURES, rounded
from certkv.reference import Budget, Cache, Naive, Policy, Step
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.numbers import BFLOAT16, FLOAT16, FLOAT32, FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray

HEAD_DIMS = (1, 2, 3, 4, 5, 8, 17, 33)
"""Odd ones, and ones that end in a shorter group of every value format."""

BLOCKS = (1, 2, 3, 4, 8, 64)
KEYS = (*KEY_FORMATS, "int8+4", "int4+4", "oscar", "oscar-head", "oscar-paper", "oscar+2+4")
VALUES = (*VALUE_FORMATS, "int4-g32+4", "oscar", "oscar+2+4")
OUT_DTYPES = ("float64", "float32", "float16", "bfloat16")
SCALES = (1.0, -0.7, 0.01, 30.0, 2.0**-20, 2.0**40, 2.0**-128, 2.0**128)
QUERIES = ("normal", "along_a_key", "zeros", "ties", "tiny", "huge")


@dataclass(frozen=True, eq=False)
class HeadStep:
    """One decode step and everything that it depends on.

    Attributes
    ----------
    scene : Scene
        Originals, queries, formats, block, scale, scratch.
    policy : Policy
    position : int or None
        Of a causal query.
    out_dtype : str
    pieces : tuple of int
        Sizes in which the tokens are appended; they add up to their number, and may be 0.
    index : int
        Number of the step.
    """

    scene: Scene
    policy: Policy
    position: int | None
    out_dtype: str
    pieces: tuple[int, ...]
    index: int

    @property
    def visible(self) -> int:
        """Tokens that the queries see."""
        return len(self.scene.k) if self.position is None else self.position + 1

    def cache(self) -> Cache:
        """Return a fresh cache, filled in pieces."""
        cache, first = self.scene.empty_cache(), 0
        for size in self.pieces:
            cache.append(self.scene.k[first : first + size], self.scene.v[first : first + size])
            first += size
        return cache

    def decode(self, cache: Cache | None = None) -> Step:
        """Take the step, on a fresh cache unless one is given."""
        return self.scene.decode(
            self.policy, cache or self.cache(), position=self.position, out_dtype=self.out_dtype, index=self.index
        )


def originals(tokens: int, heads: int, head_dim: int, ft: FloatType) -> st.SearchStrategy[AnyArray]:
    """Keys or values of any texture, float16 or bfloat16 [tokens, heads, head_dim]."""

    def made(name: str, seed: int, size: float) -> AnyArray:
        return rounded(size * TEXTURES[name](np.random.default_rng(seed), (tokens, heads, head_dim), ft), ft)

    sizes = st.sampled_from((1.0, 1.0, 1.0, 1e-3, 30.0))
    return st.builds(made, st.sampled_from(tuple(TEXTURES)), st.integers(0, 2**16), sizes)


def _query(kind: str, rng: np.random.Generator, heads: int, keys: FloatArray, reach: float) -> FloatArray:
    """Make queries [heads, d] of a kind. ``reach`` is 1 over the largest key norm and the scale: a score of about 1."""
    d = keys.shape[-1]
    if kind == "zeros":
        return np.zeros((heads, d))
    if kind == "ties":
        return rng.integers(-1, 2, (heads, d)).astype(np.float64)
    if kind == "along_a_key":  # one token takes all, or nearly
        of_head = np.repeat(np.arange(keys.shape[1]), heads // keys.shape[1])
        chosen = keys[rng.integers(len(keys), size=heads), of_head]
        largest = np.abs(chosen).max(axis=-1, keepdims=True, initial=0.0)
        direction = chosen / np.where(largest > 0.0, largest, 1.0)
        return np.asarray(10.0 ** rng.uniform(-1, 3, (heads, 1)) * reach * direction)
    size = {"normal": reach * 10.0 ** rng.uniform(-1, 1.5), "tiny": 2.0**-120, "huge": 2.0**100}[kind]
    return np.asarray(size * rng.standard_normal((heads, d)))


@st.composite
def scenes(draw: st.DrawFn, max_tokens: int = 14) -> Scene:
    """Originals and queries with their settings: every format, type, block size and odd head size.

    Parameters
    ----------
    max_tokens : int
        At least 1.
    """
    ft = draw(st.sampled_from((FLOAT16, BFLOAT16)))
    tokens, kv_heads = draw(st.integers(1, max_tokens)), draw(st.sampled_from((1, 1, 2)))
    head_dim, ratio = draw(st.sampled_from(HEAD_DIMS)), draw(st.integers(1, 3))
    k, v = draw(originals(tokens, kv_heads, head_dim, ft)), draw(originals(tokens, kv_heads, head_dim, ft))
    scale = draw(st.one_of(st.just(float(head_dim) ** -0.5), st.sampled_from(SCALES)))
    query_type = draw(st.sampled_from((FLOAT32, FLOAT16, BFLOAT16)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    keys = k.astype(np.float64)
    reach = 1.0 / (abs(scale) * max(float(np.abs(keys).max()), 2.0**-140))
    q = _query(draw(st.sampled_from(QUERIES)), rng, kv_heads * ratio, keys, reach)
    block = draw(st.sampled_from(BLOCKS))
    return Scene(
        q=rounded(q, query_type),
        k=k,
        v=v,
        block=block,
        keys=draw(st.sampled_from(KEYS)),
        values=draw(st.sampled_from(VALUES)),
        scale=scale,
        scratch_bytes=draw(st.sampled_from((0, 1, 3, 1000))) * block * head_dim * 2,
    )


@st.composite
def head_steps(draw: st.DrawFn, max_tokens: int = 14, policy: st.SearchStrategy[Policy] | None = None) -> HeadStep:
    """End-to-end decode steps, biased to corners.

    Parameters
    ----------
    max_tokens : int
        Largest number of tokens; small, so that every head can be judged by an enclosure.
    policy : strategy, optional
        What policies to draw; every one by default.

    Returns
    -------
    strategy of HeadStep

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(head_steps())
    ... def test_bounds_are_finite(case):
    ...     assert not np.isnan(case.decode().certificate.bound).any()
    """
    scene = draw(scenes(max_tokens))
    tokens = len(scene.k)
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=3)))
    edges = [0, *cuts, tokens]
    return HeadStep(
        scene=scene,
        policy=draw(policies() if policy is None else policy),
        position=draw(st.one_of(st.none(), st.integers(0, tokens - 1))),
        out_dtype=draw(st.sampled_from(OUT_DTYPES)),
        pieces=tuple(b - a for a, b in pairwise(edges)),
        index=draw(st.integers(0, 3)),
    )


SHARES = (0.9, 0.5, 0.1, 0.999, 1.0, 1e-3)
"""Of the unrefined pass's bound, that a critical tolerance allows."""


@st.composite
def critical_steps(draw: st.DrawFn, max_tokens: int = 14) -> HeadStep:
    """Make steps whose budget is a share of what the coded pass would promise for one of their heads.

    Tolerances drawn blindly are met at once or never; these make the ladder climb one or two rungs and stop.
    """
    case = draw(head_steps(max_tokens, st.just(Naive())))
    # small blocks, so that there is something to promote besides the pinned one
    case = replace(case, scene=replace(case.scene, block=draw(st.sampled_from((1, 2, 3)))))
    bounds = case.decode().certificate.bound
    head = draw(st.integers(0, len(bounds) - 1))
    limit = draw(st.sampled_from(SHARES)) * float(np.nan_to_num(bounds[head], posinf=1e30))
    return replace(case, policy=Budget(limit, "absolute", draw(st.integers(0, 3))))
