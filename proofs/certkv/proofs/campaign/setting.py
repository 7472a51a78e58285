"""What a case looks like besides its numbers: sizes, types, formats, scale, policies' surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.numbers.types import AnyArray, FloatArray

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
LARGEST = {"float16": 65504.0, "bfloat16": (2.0 - 2.0**-7) * 2.0**127, "float32": (2.0 - 2.0**-23) * 2.0**127}
BLOCKS = {1: 0.03, 2: 0.03, 3: 0.09, 8: 0.1, 16: 0.25, 32: 0.15, 64: 0.25, 100: 0.03, 128: 0.07}
"""Tokens per block, and how often."""

KEYS = sorted((*KEY_FORMATS, "oscar", "oscar+2+4"))
VALUES = sorted((*VALUE_FORMATS, "oscar"))


@dataclass(frozen=True)
class Size:
    """A class of cases that cost about the same.

    Attributes
    ----------
    name : str
    tokens : tuple of int
        Least and largest number of tokens N; drawn log-uniformly.
    head_dims, ratios, kv_heads : tuple of int
        What is drawn from; ``ratios`` are query heads per KV head.
    steps : int
        Decode steps (sets of queries) per case, each under several policies.
    enclosed : bool
        Judge every head-step by enclosures, not only the doubtful ones.
    """

    name: str
    tokens: tuple[int, int]
    head_dims: tuple[int, ...]
    ratios: tuple[int, ...]
    kv_heads: tuple[int, ...]
    steps: int
    enclosed: bool = False


@dataclass(frozen=True)
class Setting:
    """One case's surroundings.

    Attributes
    ----------
    tokens, head_dim, kv_heads, ratio : int
        N, d, KV heads, query heads per KV head.
    dtype, query_dtype : str
        Of the originals; of the queries.
    keys, values : str
        Formats.
    block : int
        Tokens per block.
    scratch_blocks : int
        Size of scratch.
    scale : float or None
    causal : bool
        Whether some steps are causal queries at earlier positions.
    steps : int
    """

    tokens: int
    head_dim: int
    kv_heads: int
    ratio: int
    dtype: str
    query_dtype: str
    keys: str
    values: str
    block: int
    scratch_blocks: int
    scale: float | None
    causal: bool
    steps: int

    @property
    def q_heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.ratio

    @property
    def effective_scale(self) -> float:
        """The float64 number that multiplies the dot products."""
        return float(1.0 / np.sqrt(self.head_dim)) if self.scale is None else self.scale

    @property
    def largest(self) -> float:
        """Largest finite number of the originals' type."""
        return LARGEST[self.dtype]


def draw_scale(rng: np.random.Generator) -> float | None:
    """Draw a softmax scale: mostly the default, else 0.01 to 10, now and then negative or extreme."""
    kind = rng.random()
    if kind < 0.6:
        return None
    if kind < 0.9:
        return float(10.0 ** rng.uniform(-2, 1))
    return float(rng.choice([-0.3, 2.0**-20, 2.0**40, -(2.0**-4)]))


def draw(rng: np.random.Generator, size: Size) -> Setting:
    """Draw a setting of a size."""
    low, high = size.tokens
    return Setting(
        tokens=int(np.floor(np.exp(rng.uniform(np.log(low), np.log(high + 1))))),
        head_dim=int(rng.choice(size.head_dims)),
        kv_heads=int(rng.choice(size.kv_heads)),
        ratio=int(rng.choice(size.ratios)),
        dtype=str(rng.choice(["float16", "bfloat16"])),
        query_dtype=str(rng.choice(["float16", "bfloat16", "float32"])),
        keys=str(rng.choice(KEYS, p=key_weights())),
        values=str(rng.choice(VALUES)),
        block=int(rng.choice(list(BLOCKS), p=list(BLOCKS.values()))),
        scratch_blocks=int(rng.choice([0, 0, 1, 5, 1000])),
        scale=draw_scale(rng),
        causal=bool(rng.random() < 0.4),
        steps=size.steps,
    )


def key_weights() -> list[float]:
    """Quantized keys more often than dense ones."""
    rest = 0.9 / (len(KEYS) - 1)
    return [0.1 if name == "dense" else rest for name in KEYS]


def to_dtype(x: FloatArray, name: str) -> AnyArray:
    """Convert to a 16- or 32-bit type, clipped to its finite range."""
    limit = LARGEST[name]
    return np.clip(np.nan_to_num(x, nan=0.0, posinf=limit, neginf=-limit), -limit, limit).astype(DTYPES[name])
