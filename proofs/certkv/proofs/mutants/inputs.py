"""Inputs on which the bound is nearly attained, so that a small defect is a violation."""

from __future__ import annotations

import numpy as np

from certkv.proofs.mutants.scene import Scene
from certkv.reference.numbers.types import AnyArray, FloatArray

HEAD_DIM = 16
STEP = 2.0**-6
"""Step of the key grid: keys from 0 to ``255 * STEP`` are coded with exactly this step in every 8-bit format."""


def tilted(
    delta: float,
    *,
    sign: int = 1,
    light_blocks: int = 1,
    block: int = 64,
    keys: str = "int8",
    scale: float = 1.0,
    heavy_value: float = 1.0,
    light_value: float | None = None,
    light_shift: float = 0.0,
    light_first: bool = False,
) -> Scene:
    """Return one block whose key residuals all point along the query, beside blocks that are coded exactly.

    Keys of the tilted block lie half a step from the grid in every channel, on the side that makes its exact score
    ``sign * delta`` higher than its coded one; two of its tokens span the range and have residual 0. Every other
    block repeats one key, which is exact. The bound's key term is attained up to ``O(delta)`` and ``2 / block``.

    Parameters
    ----------
    delta : float
        Score error of the tilted tokens, which equals its bound.
    sign : {1, -1}
    light_blocks : int
        Number of exact blocks.
    heavy_value, light_value : float
        First channel of the values of the tilted block, and of the others; by default the output is about 0.
    light_shift : float
        Score of the other blocks relative to the tilted one.
    light_first : bool
        Whether the exact blocks come first.
    """
    size = 2.0 * delta / (HEAD_DIM * STEP * abs(scale))
    signs = np.resize([1.0, -1.0], HEAD_DIM)
    off_grid = np.where(sign * np.copysign(1.0, scale) * signs > 0, 126.5, 127.5) * STEP  # ties go to even codes
    heavy = np.tile(off_grid, (block, 1))
    heavy[0], heavy[1] = 0.0, 255 * STEP
    exact = off_grid.copy()
    exact[0] += light_shift / (scale * size)
    light = np.tile(exact, (block * light_blocks, 1))
    if light_value is None:
        light_value = -heavy_value / light_blocks
    heavy_values, light_values = np.zeros(heavy.shape), np.zeros(light.shape)
    heavy_values[:, 0], light_values[:, 0] = heavy_value, light_value
    order = slice(None, None, -1) if light_first else slice(None)
    k = np.concatenate([heavy, light][order])
    v = np.concatenate([heavy_values, light_values][order])
    return Scene((size * signs).astype(np.float32)[None], half(k), half(v), block, keys=keys, scale=scale)


def alike(value: FloatArray | AnyArray, values: str, block: int = 4, blocks: int = 2) -> Scene:
    """Return tokens that share one key and one value: the error is exactly the residual of that value."""
    v = np.tile(np.asarray(value, np.float64), (block * blocks, 1))
    return Scene(np.ones((1, v.shape[1]), np.float32), half(np.ones(v.shape)), half(v), block, "dense", values)


def half(x: FloatArray) -> AnyArray:
    """[tokens, d] float64 to float16 [tokens, 1, d]."""
    return np.asarray(x, np.float64).astype(np.float16)[:, None]


def ties(groups: int, levels: int, group: int, step: float) -> FloatArray:
    """Return a value whose channels lie half a step from the grid, but for the two in each group that span it."""
    one = np.full(group, (levels // 2 + 0.5) * step)
    one[0], one[1] = 0.0, levels * step
    return np.tile(one, groups)


def gaussian(
    seed: int,
    *,
    tokens: int = 72,
    q_heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    block: int = 16,
    keys: str = "int8",
    values: str = "int4-g32",
    sharpness: float = 1.0,
    scratch_blocks: int = 0,
) -> Scene:
    """Draw normal keys and values, and queries of the given sharpness, from the seed."""
    rng = np.random.default_rng(seed)
    k, v = rng.normal(size=(2, tokens, kv_heads, head_dim)).astype(np.float16)
    q = (sharpness * rng.normal(size=(q_heads, head_dim))).astype(np.float32)
    scratch = scratch_blocks * block * head_dim * 2
    return Scene(q, k, v, block, keys, values, float(head_dim) ** -0.5, scratch)
