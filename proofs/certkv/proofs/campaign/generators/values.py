"""Adversaries against the value term: weights concentrated on tokens whose value residuals add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given, normal, unit
from certkv.proofs.campaign.generators.known import encode_values
from certkv.proofs.campaign.setting import Setting


def lossy_values(rng: Rng, s: Setting) -> Setting:
    """Quantized values, at least one full block, and queries that keep their size."""
    values = str(rng.choice(["int4", "int4-g16", "int4-g32", "int8", "int8-g64"]))
    scale = None if s.scale is None or not 1e-3 < abs(s.scale) < 1e3 else s.scale
    return replace(s, values=values, query_dtype="float32", scale=scale, tokens=max(s.tokens, s.block))


def value_residuals(rng: Rng, s: Setting) -> Data:
    """All weight on the one, two or four tokens whose value residuals are largest along a direction.

    Keys are one vector or its negative, so (but for the rounding of a step) they are stored exactly, and the error is
    the sum of the chosen residuals. With one token it is that token's residual, which is what the bound says if no
    other in its block has a larger one.
    """
    v = normal(rng, s) * rng.lognormal(0, 1, (s.tokens, s.kv_heads, 1))
    residual = encode_values(v, s).residual
    k = np.empty_like(v)
    base = unit(rng.standard_normal((s.kv_heads, s.head_dim))) * 8.0
    count = int(rng.choice([1, 1, 2, 4]))
    for kv_head in range(s.kv_heads):
        mine = residual[:, kv_head]
        along = unit(rng.standard_normal(s.head_dim))
        worth = np.linalg.norm(mine, axis=-1) if count == 1 else mine @ along
        chosen = np.argsort(-worth)[:count]
        k[:, kv_head] = -base[kv_head]
        k[chosen, kv_head] = base[kv_head]
    size = 10.0 ** rng.uniform(-2, 1.5, (s.steps, s.kv_heads, s.ratio, 1)) / (8.0 * s.effective_scale)
    q = size * base[None, :, None, :] / 8.0
    return Data(k, v, given(q.reshape(s.steps, s.q_heads, s.head_dim)))


def one_token_blocks(rng: Rng, s: Setting) -> Data:
    """One token, or blocks of one token: nothing averages out, and the annotations are about that very token."""
    sizes = 10.0 ** rng.uniform(-3, 1, (s.steps, s.q_heads, 1))
    return Data(normal(rng, s), normal(rng, s), given(sizes * rng.standard_normal((s.steps, s.q_heads, s.head_dim))))


def single(rng: Rng, s: Setting) -> Setting:
    """Blocks of one token, few of them, quantized values."""
    return replace(lossy_values(rng, s), block=1, tokens=int(rng.choice([1, 1, 2, 3])))
