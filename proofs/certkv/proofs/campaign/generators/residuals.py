"""Adversaries against the key term: queries along key residuals, values arranged so that the shifted mass hurts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Queries, Rng, given, normal, unit
from certkv.proofs.campaign.generators.known import Coded, encode_keys, read_keys
from certkv.proofs.campaign.setting import Setting
from certkv.reference import Cache
from certkv.reference.numbers.types import FloatArray

Direction = Callable[[Rng, FloatArray, FloatArray], FloatArray]
"""From decoded keys and residuals of one KV head, [n, d] each, to a direction [d]."""


def log_error(rng: Rng) -> float:
    """Size of the score error to aim for: small enough for the linear regime, up to beyond all reason."""
    return float(10.0 ** rng.uniform(-6, 1.5))


def quantized_keys(rng: Rng, s: Setting) -> Setting:
    """Make sure that there is something to attack: quantized keys, a full block, queries that keep their direction."""
    keys = str(rng.choice(["int8", "int8-paper"]))
    scale = None if s.scale is None or abs(s.scale) < 1e-3 else s.scale
    return replace(
        s, keys=keys, block=max(s.block, 3), tokens=max(s.tokens, 3, s.block), query_dtype="float32", scale=scale
    )


def few_tokens(rng: Rng, s: Setting) -> Setting:
    """As `quantized_keys`, with one or two blocks of a few tokens, so that queries can be orthogonal to all keys."""
    block = int(rng.integers(3, 7))
    s = quantized_keys(rng, s)
    return replace(s, block=block, tokens=block * int(rng.integers(1, 3)) + int(rng.integers(0, 2)))


def aim(direction: Direction) -> Callable[[Rng, Setting, Cache], Queries]:
    """Aim queries along a direction found per KV head and step; sizes reach a wanted score error per head."""

    def queries(rng: Rng, s: Setting, cache: Cache) -> Queries:
        keys = read_keys(cache)
        for _ in range(s.steps):
            q = np.empty((s.kv_heads, s.ratio, s.head_dim))
            for kv_head in range(s.kv_heads):
                residual = keys.residual[:, kv_head]
                along = unit(direction(rng, keys.decoded[:, kv_head], residual))
                reach = float(np.abs(residual @ along).max(initial=0.0)) * abs(s.effective_scale)
                sizes = [log_error(rng) / reach if reach > 0 else 1.0 for _ in range(s.ratio)]
                q[kv_head] = np.array(sizes)[:, None] * along
            yield q.reshape(s.q_heads, s.head_dim)

    return queries


def one_against_the_rest(rng: Rng, _decoded: FloatArray, residual: FloatArray) -> FloatArray:
    """Residual of one token minus the mean of the others."""
    at = int(rng.integers(len(residual)))
    return np.asarray(residual[at] - residual.mean(axis=0))


def residual_aligned(rng: Rng, s: Setting) -> Data:
    """Query aligned with the residual of one token against those of the others."""
    return Data(normal(rng, s), normal(rng, s), aim(one_against_the_rest))


def between_equal_scores(rng: Rng, decoded: FloatArray, residual: FloatArray) -> FloatArray:
    """Difference of two residuals, made orthogonal to the difference of the decoded keys: equal coded scores."""
    i, j = rng.choice(len(residual), 2, replace=False)
    apart = unit(decoded[i] - decoded[j])
    difference = residual[i] - residual[j]
    return np.asarray(difference - (difference @ apart) * apart)


def residual_difference(rng: Rng, s: Setting) -> Data:
    """Query along the residual difference of two tokens whose coded scores are equal; large values in two groups."""
    v = rng.choice([-1.0, 1.0], size=(s.tokens, s.kv_heads, 1)) * np.ones(s.head_dim) * rng.lognormal(0, 2)
    return Data(normal(rng, s), v, aim(between_equal_scores))


def orthogonal_to_all(rng: Rng, decoded: FloatArray, residual: FloatArray) -> FloatArray:
    """Least-norm query that gives every token the same coded score and errors of random sign and equal size."""
    signs = rng.choice([-1.0, 1.0], size=len(residual))
    system = np.concatenate([decoded, residual])
    return np.asarray(np.linalg.lstsq(system, np.concatenate([np.zeros(len(decoded)), signs]), rcond=None)[0])


def orthogonal(rng: Rng, s: Setting) -> Data:
    """Few tokens in many dimensions: coded attention is uniform, exact attention is whatever the residuals say."""
    v = rng.choice([-1.0, 1.0], size=(s.tokens, s.kv_heads, 1)) * np.ones(s.head_dim)
    return Data(normal(rng, s), v, aim(orthogonal_to_all))


def sign_groups(rng: Rng, s: Setting) -> Data:
    """Values +R where the query's score error is positive, -R where it is negative: the worst values for that query."""
    k = normal(rng, s)
    keys: Coded = encode_keys(k, s)
    q = unit(rng.standard_normal((s.kv_heads, s.head_dim)))
    errors = np.einsum("nhd,hd->nh", keys.residual, q)
    v = np.zeros((s.tokens, s.kv_heads, s.head_dim))
    v[: len(errors)] = np.sign(errors)[..., None] * unit(rng.choice([-1.0, 0.0, 1.0], size=s.head_dim)) * 8.0
    reach = np.abs(errors).max(axis=0, initial=0.0) * abs(s.effective_scale)
    sizes = 10.0 ** rng.uniform(-6, 1, (s.steps, s.kv_heads, s.ratio))
    q_heads = sizes[..., None] * (q / np.where(reach > 0, reach, 1.0)[:, None])[None, :, None, :]
    return Data(k, v, given(q_heads.reshape(s.steps, s.q_heads, s.head_dim)))
