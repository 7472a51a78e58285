"""Adversaries against the arithmetic term: nothing is quantized, all error is float64 rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given, normal
from certkv.proofs.campaign.setting import Setting


def dense(rng: Rng, s: Setting) -> Setting:
    """Dense formats and an ordinary scale."""
    scale = None if rng.random() < 0.5 else float(rng.uniform(0.3, 3.0))
    return replace(s, keys="dense", values="dense", query_dtype="float32", scale=scale)


def few_channels(rng: Rng, s: Setting) -> Setting:
    """As `dense`, float16, with so few channels and tokens that the score's rounding is most of the bound."""
    return replace(
        dense(rng, s),
        dtype="float16",
        head_dim=int(rng.integers(2, 5)),
        tokens=int(rng.integers(2, 33)),
        scale=float(rng.uniform(0.3, 3.0)),  # no power of two: the product must round
        causal=False,
    )


def rounded_scores(rng: Rng, s: Setting) -> Data:
    """Scores of a million that differ by about one, and values +R and -R by the sign of each score's own rounding.

    Keys are (a, 2048 - a, 0, ...) and the query is (x, x (1 + 2^-20), 0, ...): dot products are exact and differ, so
    each score meets one rounding, of the product with the scale, by up to u|s|. The sign is found in rationals that
    extended precision holds.
    """
    k, v = np.zeros((2, s.tokens, s.kv_heads, s.head_dim))
    k[..., 0] = rng.integers(900, 1148, (s.tokens, s.kv_heads))
    k[..., 1] = 2048.0 - k[..., 0]
    q = np.zeros((s.steps, s.kv_heads, s.ratio, s.head_dim))
    x = 2.0 ** rng.integers(6, 12, (s.kv_heads, 1)) * rng.integers(2**10, 2**11, (s.kv_heads, 1)) / 2.0**10
    q[..., 0], q[..., 1] = x, x * (1.0 + 2.0**-20)
    q[..., 2:] = 0.0
    dots = q[0, :, 0, 0] * k[..., 0] + q[0, :, 0, 1] * k[..., 1]
    exact = np.longdouble(s.effective_scale) * dots.astype(np.longdouble)
    error = np.asarray((s.effective_scale * dots).astype(np.longdouble) - exact, dtype=np.float64)
    v[:] = np.where(error > np.median(error, axis=0), 1.0, -1.0)[..., None]
    sizes = 2.0 ** -rng.integers(0, 6, (s.steps, s.kv_heads, s.ratio, 1)).astype(np.float64)  # they round alike
    return Data(k, v, given((sizes * q).reshape(s.steps, s.q_heads, s.head_dim)), out_dtype="float64")


def cancelling_values(rng: Rng, s: Setting) -> Data:
    """Values of both signs that cancel in the output, and weights that differ by many orders of magnitude."""
    v = np.where(np.arange(s.tokens)[:, None, None] % 2 == 0, 1.0, -1.0) * (1000.0 + normal(rng, s))
    q = 10.0 ** rng.uniform(-3, 2, (s.steps, s.q_heads, 1)) * rng.standard_normal((s.steps, s.q_heads, s.head_dim))
    return Data(normal(rng, s), v, given(q))
