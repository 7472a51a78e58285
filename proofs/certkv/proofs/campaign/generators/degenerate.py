"""Corners of the input space: equal tokens, ties, constants, two values, offsets, subnormals, the largest numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given, normal, normal_queries, temperature, unit
from certkv.proofs.campaign.setting import DTYPES, Setting
from certkv.reference.numbers.types import FloatArray


def equal_tokens(rng: Rng, s: Setting) -> Data:
    """One token, repeated; sometimes with one exception."""
    k = np.broadcast_to(normal(rng, s)[:1], (s.tokens, s.kv_heads, s.head_dim)).copy()
    v = np.broadcast_to(normal(rng, s)[:1], k.shape).copy()
    if rng.random() < 0.5:
        at = int(rng.integers(s.tokens))
        k[at], v[at] = k[at] * rng.uniform(-2, 2), -v[at]
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def ties(rng: Rng, s: Setting) -> Data:
    """Small integers: many scores are equal, many values too."""
    shape = (s.tokens, s.kv_heads, s.head_dim)
    k, v = rng.integers(-1, 2, shape).astype(np.float64), rng.integers(-2, 3, shape).astype(np.float64)
    q = rng.integers(-2, 3, (s.steps, s.q_heads, s.head_dim)).astype(np.float64)
    return Data(k, v, given(q))


def constant_channels(rng: Rng, s: Setting) -> Data:
    """Most channels are constant, some nearly so: steps vanish or are tiny beside the offset."""
    spread = rng.choice([0.0, 0.0, 1e-3, 1.0], size=(2, s.kv_heads, s.head_dim))
    level = 10.0 * rng.standard_normal((2, s.kv_heads, s.head_dim))
    return Data(
        level[0] + spread[0] * normal(rng, s),
        level[1] + spread[1] * normal(rng, s),
        given(temperature(rng) * normal_queries(rng, s)),
    )


def one_token_takes_all(rng: Rng, s: Setting) -> Data:
    """One token whose weight is 1 to working accuracy, or nearly."""
    direction = unit(rng.standard_normal((s.kv_heads, s.head_dim)))
    k, v = 0.1 * normal(rng, s), normal(rng, s)
    at = int(rng.integers(s.tokens))
    k[at] = 30.0 * direction
    reach = rng.uniform(1.0, 60.0) / (30.0 * abs(s.effective_scale)) * np.sign(s.effective_scale)
    return Data(k, v, given(reach * np.repeat(direction, s.ratio, axis=0) + 1e-3 * normal_queries(rng, s)))


def two_valued(rng: Rng, s: Setting) -> Data:
    """Every element is one of two numbers, so quantization is exact up to its step's rounding."""
    shape = (s.tokens, s.kv_heads, s.head_dim)
    k, v = (rng.standard_normal(2)[rng.integers(0, 2, shape)] for _ in range(2))
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def far_offset(rng: Rng, s: Setting) -> Data:
    """Put the offset at a thousand times the range: scores and outputs are differences of large numbers."""
    offset = 1000.0 * rng.choice([-1.0, 1.0], size=(2, s.kv_heads, s.head_dim))
    k, v = offset[0] + normal(rng, s), offset[1] + normal(rng, s)
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def smallest(s: Setting) -> float:
    """Smallest positive number of the originals' type."""
    return 2.0**-24 if s.dtype == "float16" else 2.0**-133


def subnormals(rng: Rng, s: Setting) -> Data:
    """Subnormal keys and values, with queries that are ordinary, or large enough to make the scores matter."""
    shape = (s.tokens, s.kv_heads, s.head_dim)
    k = smallest(s) * rng.integers(-127, 128, shape).astype(np.float64)
    v = smallest(s) * rng.integers(-(2 ** int(rng.integers(0, 8))), 128, shape).astype(np.float64)
    large = 60_000.0 if s.query_dtype == "float16" else 1.0 / (smallest(s) * 100.0)
    q = normal_queries(rng, s) * (large if rng.random() < 0.5 else 1.0)
    return Data(k, v, given(q))


def huge(rng: Rng, s: Setting) -> Data:
    """Take the largest numbers of the type, of either sign."""
    size = s.largest * 2.0 ** -float(rng.integers(0, 6))
    k, v = size * np.clip(normal(rng, s), -1, 1), size * np.clip(normal(rng, s), -1, 1)
    k, v = np.where(rng.random(k.shape) < 0.2, np.sign(k) * s.largest, k), np.clip(v, -s.largest, s.largest)
    reach = temperature(rng) / (size * abs(s.effective_scale) * np.sqrt(s.head_dim))
    q = normal_queries(rng, s) * (reach if rng.random() < 0.7 else s.largest)
    return Data(k, v, given(q))


def magnitudes(rng: Rng, shape: tuple[int, ...], s: Setting) -> FloatArray:
    """Numbers whose exponents are uniform over the whole range of the type."""
    low, high = np.log2(smallest(s)), np.log2(s.largest)
    return rng.choice([-1.0, 1.0], size=shape) * 2.0 ** rng.uniform(low, high, shape)


def mixed_magnitudes(rng: Rng, s: Setting) -> Data:
    """Huge beside tiny, per token, per channel or per element."""
    n, h, d = s.tokens, s.kv_heads, s.head_dim
    shapes = ((n, h, 1), (1, h, d), (n, h, d))
    k = magnitudes(rng, shapes[int(rng.integers(3))], s) * np.sign(normal(rng, s))
    v = magnitudes(rng, shapes[int(rng.integers(3))], s) * np.sign(normal(rng, s))
    reach = temperature(rng) / (np.abs(k).max() * abs(s.effective_scale))
    q = normal_queries(rng, s) * (reach if rng.random() < 0.7 else 1.0)
    return Data(k, v, given(q))


def random_bits(rng: Rng, s: Setting) -> Data:
    """Every finite bit pattern equally likely, in keys, values and queries."""

    def patterns(shape: tuple[int, ...]) -> FloatArray:
        bits = rng.integers(0, 2**16, shape, dtype=np.uint16)
        with np.errstate(invalid="ignore"):  # converting a signalling NaN
            x = np.asarray(bits.view(DTYPES[s.dtype])).astype(np.float64)
        return np.where(np.isfinite(x), x, 1.0)

    shape = (s.tokens, s.kv_heads, s.head_dim)
    q = patterns((s.steps, s.q_heads, s.head_dim))
    k = patterns(shape)
    reach = 1.0 / (np.abs(k).max() * abs(s.effective_scale) * np.abs(q).max())
    return Data(k, patterns(shape), given(q * (reach * temperature(rng) if rng.random() < 0.5 else 1.0)))


def underflow_edge(rng: Rng, s: Setting) -> Data:
    """Weights near e^-300, e^-700, e^-745 or anywhere above, beside a heavy token whose value is 0 or small.

    The light tokens' values are the largest numbers, the smallest ones (products with the weights then underflow in
    float64 itself), or of any size.
    """
    k = np.zeros((s.tokens, s.kv_heads, s.head_dim))
    near = rng.choice([300.0, 700.0, 745.0], size=k.shape[:2]) + rng.uniform(-3, 3, k.shape[:2])
    k[..., 0] = -(near if rng.random() < 0.5 else rng.uniform(600, 700, k.shape[:2]))
    signs = rng.choice([-1.0, 1.0, 0.5], size=k.shape)
    size = (s.largest, smallest(s) * float(rng.integers(1, 100)), magnitudes(rng, (1, 1, 1), s))
    v = np.asarray(signs * size[int(rng.integers(3))])
    at = int(rng.integers(s.tokens))
    k[at], v[at] = 0.0, rng.choice([0.0, 0.0, smallest(s), 1e-6])
    q = np.zeros((s.steps, s.q_heads, s.head_dim))
    q[..., 0] = 1.0 / s.effective_scale
    return Data(k, v, given(q))


def underflowing_products(rng: Rng, s: Setting) -> Data:
    """Heavy tokens of value 0, and light ones whose weight times value is about half the smallest float64.

    Weights are near e^-652 and values near 2^-133, so every product rounds to 0 or to 2^-1074, all the same way.
    """
    k, v = np.zeros((2, s.tokens, s.kv_heads, s.head_dim))
    heavy = s.block if s.tokens > s.block else 1  # whole blocks are constant, so that keys are stored exactly
    k[heavy:, :, 0] = -652.0
    v[heavy:] = smallest(s) * float(rng.choice([1.0, 1.0, 3.0]))
    depth = rng.uniform(650.0, 655.0, (s.steps, s.q_heads))
    q = np.zeros((s.steps, s.q_heads, s.head_dim))
    q[..., 0] = depth / 652.0 / s.effective_scale
    return Data(k, v, given(q))


def brute(rng: Rng, s: Setting) -> Data:
    """Tiny caches of small random numbers, many at a time: what an exhaustive search would meet."""
    shape = (s.tokens, s.kv_heads, s.head_dim)
    grid = float(rng.choice([1.0, 3.0, 100.0]))
    k = rng.integers(-3, 4, shape).astype(np.float64) * grid / 7.0
    v = rng.integers(-1, 2, shape).astype(np.float64) * grid
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def tiny(rng: Rng, s: Setting) -> Setting:
    """Few tokens of few channels in small blocks."""
    return replace(
        s,
        tokens=int(rng.integers(1, 9)),
        head_dim=int(rng.integers(1, 5)),
        kv_heads=8,
        block=int(rng.integers(1, 5)),
        ratio=min(s.ratio, 16),
    )
