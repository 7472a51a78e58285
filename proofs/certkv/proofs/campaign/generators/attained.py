"""Adversaries that attain the bound: keys whose residuals are exactly half a step, signs of our choice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given
from certkv.proofs.campaign.setting import Setting
from certkv.reference.numbers.types import FloatArray


def exact_grid(rng: Rng, s: Setting) -> Setting:
    """Make the grid below representable: float16, and room in a block for the two extreme tokens."""
    block = int(rng.choice([4, 16, 64, 512] if s.tokens > 40 else [4, 16]))
    scale = None if s.scale is None or abs(s.scale) < 1e-3 else s.scale
    return replace(
        s,
        dtype="float16",
        query_dtype="float32",
        keys=str(rng.choice(["int8", "int8-paper"])),
        values=str(rng.choice(["dense", "dense", "int4", "int4-g32"])),
        block=block,
        tokens=max(s.tokens - s.tokens % block, block),
        head_dim=s.head_dim - s.head_dim % 4 if s.head_dim >= 4 else 4,
        scale=scale,
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """Half-step keys.

    Attributes
    ----------
    k : float64 [n, d]
    group : float64 [n]
        +1 or -1: the sign of the token's residual along ``u``.
    u : float64 [d]
        Signs; the residual of token t is ``group_t * u / 2`` on every channel.
    """

    k: FloatArray
    group: FloatArray
    u: FloatArray


def grid(n: int, d: int, block: int) -> Grid:
    """Keys ``m + group u / 2`` with even m, on a grid of step exactly 1.

    The first two tokens of a block hold a 0 and a 255 on each channel, which fixes step and minimum. Ties round to
    even, so both groups are stored as m: their coded scores are equal whatever the query. The two extreme tokens
    score 0 along u and the others 70 d.
    """
    u = np.where(np.arange(d) % 2 == 0, 1.0, -1.0)
    group = np.where((np.arange(n) // 2 + np.arange(n)) % 2 == 0, 1.0, -1.0)
    k = np.where(u > 0, 200.0, 60.0) + 0.5 * group[:, None] * u
    best, worst = np.where(u > 0, 255.0, 0.0), np.where(u > 0, 0.0, 255.0)
    first_half = np.arange(d) < d // 2
    k[0::block], k[1::block] = np.where(first_half, best, worst), np.where(first_half, worst, best)
    return Grid(k, group, u)


def two_groups(rng: Rng, s: Setting, group: FloatArray) -> FloatArray:
    """Values +R and -R on one channel, by group; R / 7.5 is a power of two, so most formats store them exactly."""
    v = np.zeros((s.tokens, s.kv_heads, s.head_dim))
    v[:, :, int(rng.integers(s.head_dim))] = (group * 7.5 * 2.0 ** float(rng.integers(-4, 8)))[:, None]
    return v


def half_steps(rng: Rng, s: Setting) -> Data:
    """Score errors of +Delta and -Delta on two groups of equal coded mass, values +R and -R.

    error/bound is ``tanh(Delta) / (e^Delta (e^Delta - 1))``, which goes to 1 as Delta goes to 0 (less the share of the
    two extreme tokens per block, which is why some blocks are large); beyond Delta = 0.44 the hull takes over, and
    error/hull is tanh(Delta), which goes to 1 again.
    """
    keys = grid(s.tokens, s.head_dim, s.block)
    size = 2.0 ** float(rng.integers(-6, 4))
    k = np.repeat(size * keys.k[:, None], s.kv_heads, axis=1)
    delta = 10.0 ** rng.uniform(-6, 3, (s.steps, s.q_heads, 1))
    q = delta / (0.5 * s.head_dim * size * s.effective_scale) * keys.u
    return Data(k, two_groups(rng, s, keys.group), given(q), out_dtype="float64")


def mass_flip(rng: Rng, s: Setting) -> Data:
    """As `half_steps`, but one exactly stored channel gives all coded mass to the group that exact scores reject.

    The output is -R and the exact one +R: the error is 2R, which is what the hull says.
    """
    keys = grid(s.tokens, s.head_dim, s.block)
    size = 2.0 ** float(rng.integers(-6, 4))
    keys.k[:, -1] = np.where(keys.group > 0, 0.0, 255.0)
    k = np.repeat(size * keys.k[:, None], s.kv_heads, axis=1)
    delta = 10.0 ** rng.uniform(0, 4, (s.steps, s.q_heads, 1))
    q = delta / (0.5 * (s.head_dim - 1) * size * s.effective_scale) * keys.u
    q[..., -1] = rng.uniform(0, 40, (s.steps, s.q_heads)) / (255.0 * size * s.effective_scale)
    return Data(k, two_groups(rng, s, keys.group), given(q), out_dtype="float64")
