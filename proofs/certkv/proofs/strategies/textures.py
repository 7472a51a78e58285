"""What tokens look like: the corners that break attention, quantizers and bounds, by name.

A texture turns a seed and a shape into numbers. Hypothesis chooses and shrinks the name, the shape and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, FloatArray

Shape = tuple[int, int, int]
Texture = Callable[[np.random.Generator, Shape, FloatType], FloatArray]
"""From random numbers, a shape [tokens, heads, head_dim] and the type of the originals to float64 numbers."""


def zeros(_rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """All zero: every score ties, every step vanishes."""
    return np.zeros(shape)


def ties(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Small integers: many equal scores, many equal extremes."""
    return rng.integers(-2, 3, shape).astype(np.float64)


def normal(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Gaussian."""
    return rng.standard_normal(shape)


def equal(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """One token, repeated."""
    return np.broadcast_to(rng.standard_normal((1, *shape[1:])), shape).copy()


def equal_but_one(rng: np.random.Generator, shape: Shape, ft: FloatType) -> FloatArray:
    """One token, repeated, with one exception."""
    x = equal(rng, shape, ft)
    x[int(rng.integers(shape[0]))] *= -3.0
    return x


def two_valued(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Every element is one of two numbers: both ends of every range, nothing between."""
    return rng.standard_normal(2)[rng.integers(0, 2, shape)]


def constant_channels(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Channels that are constant, or nearly, beside ordinary ones."""
    spread = rng.choice([0.0, 0.0, 1e-3, 1.0], size=shape[1:])
    return 5.0 * rng.standard_normal(shape[1:]) + spread * rng.standard_normal(shape)


def far_offset(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Put the offset at a thousand times the range."""
    return 1000.0 * rng.choice([-1.0, 1.0], size=shape[1:]) + rng.standard_normal(shape)


def sink(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Let the first token point far in one direction, which draws mass, or be almost nothing."""
    x = rng.standard_normal(shape)
    x[0] = rng.choice([10.0, 1e-4]) * np.sign(x[0])
    return x


def needle(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Hide one token twenty times the size of the others."""
    x = rng.standard_normal(shape)
    x[int(rng.integers(shape[0]))] *= 20.0
    return x


def half_steps(rng: np.random.Generator, shape: Shape, _ft: FloatType) -> FloatArray:
    """Put elements half a step of an 8-bit grid away from it, between two that span the grid."""
    x = (rng.integers(120, 135, shape).astype(np.float64) + 0.5) * 2.0**-6
    x[0 :: max(shape[0] // 2, 2)] = 0.0
    x[1 :: max(shape[0] // 2, 2)] = 255.0 * 2.0**-6
    return x


def subnormals(rng: np.random.Generator, shape: Shape, ft: FloatType) -> FloatArray:
    """Multiples of the smallest positive number."""
    return ft.smallest_subnormal * rng.integers(-100, 101, shape).astype(np.float64)


def largest(rng: np.random.Generator, shape: Shape, ft: FloatType) -> FloatArray:
    """Take the largest numbers of the type (65504, or 3.4e38 for bfloat16) of either sign, beside small ones."""
    return np.where(rng.random(shape) < 0.5, rng.choice([-1.0, 1.0], size=shape) * ft.max, rng.standard_normal(shape))


def magnitudes(rng: np.random.Generator, shape: Shape, ft: FloatType) -> FloatArray:
    """Exponents over the whole range of the type."""
    exponents = rng.uniform(np.log2(ft.smallest_subnormal), np.log2(ft.max), shape)
    return rng.choice([-1.0, 1.0], size=shape) * 2.0**exponents


TEXTURES: Mapping[str, Texture] = MappingProxyType(
    {
        texture.__name__: texture
        for texture in (
            zeros,
            ties,
            normal,
            equal,
            equal_but_one,
            two_valued,
            constant_channels,
            far_offset,
            sink,
            needle,
            half_steps,
            subnormals,
            largest,
            magnitudes,
        )
    }
)


def rounded(x: FloatArray, ft: FloatType) -> AnyArray:
    """Convert to a type, clipped to its finite range."""
    return np.asarray(np.clip(x, -ft.max, ft.max).astype(ft.dtype))
