"""What the tests of every format draw from."""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import FloatType

from ...reference.formats.corners import random_patterns
from ..bridge import AnyArray

SHAPES = [(block, head_dim) for block in (16, 32, 64, 128) for head_dim in (8, 64, 80, 96, 128, 192, 256)]
INTERPRETED = [(16, 8), (64, 64), (32, 80), (16, 96), (64, 128), (32, 192), (128, 256), (1, 80), (33, 20)]
"""Block and head sizes for which kernels are run: every head size, every block size, one token, an odd block."""


def draw(seed: int, shape: tuple[int, ...], ft: FloatType) -> AnyArray:
    """Draw finite blocks [n, H, B, d] of one of several kinds: everyday, far offsets, ties, any bits, constants."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 6)
    if kind == 0:
        return random_patterns(rng, shape, ft)
    x: AnyArray = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 10)
    if kind == 1:
        x += rng.choice([-1000.0, 300.0, 17.0])
    if kind == 2:  # integers: many quotients on or near ties
        x = rng.integers(-300, 300, size=shape).astype(np.float64)
    if kind == 3:  # subnormals and their neighbours
        x = rng.integers(-(2**ft.precision), 2**ft.precision, size=shape) * ft.smallest_subnormal
    if kind == 4:  # some channels constant, some tokens too, an outlier
        x[..., : shape[-1] // 3] = 1.5
        x[..., 0, :] = -2.0
        x[..., -1, -1] = ft.max
    return np.asarray(x.clip(-ft.max, ft.max).astype(ft.dtype))
