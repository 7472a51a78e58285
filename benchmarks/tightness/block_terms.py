"""Theorem ``block_bound`` by itself: what the certificate would be without operator norms and token annotations.

The library always takes the smaller of this and ``spectral``, block by block; here the same pass is certified again
from its public parts, with the block terms alone.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.bounds import arithmetic
from certkv.reference.bounds.block_bound import block_bound
from certkv.reference.cache import Cache
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps.attend import attend
from certkv.reference.steps.distances import radii, used_norms
from certkv.reference.steps.group import Group, Levels


def block_terms_bound(q: AnyArray, cache: Cache, scale: float, position: int | None, pinned: int) -> FloatArray:
    """Bound each head's error where nothing is promoted but the first ``pinned`` blocks.

    Parameters
    ----------
    q : [q_heads, d]
    cache : Cache
    scale : float
    position : int or None
    pinned : int
        0 or 1.

    Returns
    -------
    float64 [q_heads]
    """
    size = len(q) // cache.kv_heads
    bounds = []
    for kv_head in range(cache.kv_heads):
        heads = np.arange(kv_head * size, (kv_head + 1) * size)
        view = cache.view(kv_head, position)
        group = Group(q[heads].astype(np.float64), heads, scale, view, min(pinned, view.blocks))
        bounds.append(_group_bound(group))
    return np.concatenate(bounds)


def _group_bound(group: Group) -> FloatArray:
    rows = np.arange(len(group.q))
    levels = Levels.coded(len(rows), group.view.blocks, group.pinned)
    seen = attend(group, levels, rows)
    tokens = group.view.tokens
    heavy, light = arithmetic.mass_ub(seen.mass, tokens), arithmetic.mass_lb(seen.mass, tokens)
    keys_used, values_used = used_norms(group, levels)
    none = np.zeros((len(rows), 1))  # the tail is original
    notes = group.value_notes
    residual = np.zeros(group.view.blocks) if notes is None else notes.residual_norm_ub.astype(np.float64)
    mean_norm = (heavy * values_used).sum(axis=-1) * outward(values_used.shape[-1] + 2)
    return block_bound(
        mass_ub=heavy,
        mass_lb=light,
        key_delta_ub=np.concatenate([np.where(levels.keys, 0.0, group.delta_ub), none], axis=-1),
        rounding_delta_ub=arithmetic.log_weight_error_ub(
            group.scale, norm_ub(group.q)[:, None], keys_used, seen.spread, group.q.shape[-1]
        ),
        radius_ub=radii(group, seen.output),
        value_error_ub=np.concatenate([np.where(levels.values, 0.0, residual), none], axis=-1),
        accumulation_ub=arithmetic.accumulation_ub(tokens, mean_norm, values_used.max(axis=-1)),
    ).bound
