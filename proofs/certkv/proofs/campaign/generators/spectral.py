"""Adversaries against the spectral certificate: its operator norms attained, its heaviest token, its log codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certkv.proofs.campaign.generators.base import Data, Rng, given, normal, normal_queries, temperature, unit
from certkv.proofs.campaign.setting import Setting
from certkv.reference.numbers.types import FloatArray

EIGHTHS = 8.0
"""Residuals are eighths of a step: what float16 holds beside 255."""

CENTRES = {255: (200.0, 60.0), 15: (12.0, 4.0)}
"""Even codes for channels of either sign, per largest code, so that half a step rounds back to them."""


def blocks_of_any_size(rng: Rng, s: Setting) -> Setting:
    """Float16 originals, quantized keys, blocks with room for two extreme tokens, and now and then a tail."""
    block = int(rng.choice([4, 8, 16, 32, 64, 128] if s.tokens > 40 else [4, 8, 16]))
    return replace(
        s,
        dtype="float16",
        query_dtype="float32",
        keys=str(rng.choice(["int8", "int8-paper"])),
        block=block,
        tokens=max(s.tokens - s.tokens % block, block) + int(rng.integers(0, 2)),
        head_dim=max(s.head_dim - s.head_dim % 4, 4),
        scale=None if s.scale is None or abs(s.scale) < 1e-3 else s.scale,
        causal=False,
    )


def lossy_per_channel(rng: Rng, s: Setting) -> Setting:
    """As `blocks_of_any_size`, with values quantized per channel and block."""
    return replace(blocks_of_any_size(rng, s), values=str(rng.choice(["int4", "int8"])))


def on_grid(s: Setting, residual: FloatArray, top: int) -> FloatArray:
    """Tokens whose residuals are known: even codes plus ``residual``, on a grid of step exactly 1, [n, d].

    The first two tokens of a block hold a 0 and the largest code on each channel, which fixes step and minimum.

    Parameters
    ----------
    s : Setting
    residual : float64 [n, d]
        Multiples of 1/8, at most 1/2.
    top : int
        Largest code, 255 or 15.
    """
    high, low = CENTRES[top]
    x = np.where(np.arange(s.head_dim) % 2 == 0, high, low) + residual
    coded = s.tokens - s.tokens % s.block
    first_half = np.arange(s.head_dim) < s.head_dim // 2
    x[0 : coded : s.block], x[1 : coded : s.block] = np.where(first_half, top, 0.0), np.where(first_half, 0.0, top)
    return x


def extremes(s: Setting) -> FloatArray:
    """1 for the two tokens of each block that fix its grid and for the tail, which have no residual; [n]."""
    at = np.arange(s.tokens)
    return np.asarray((at % s.block < 2) | (at >= s.tokens - s.tokens % s.block), np.float64)


def per_head(s: Setting, x: FloatArray) -> FloatArray:
    """Repeat tokens [n, d] for every KV head."""
    return np.repeat(x[:, None], s.kv_heads, axis=1)


def rank_one(rng: Rng, s: Setting) -> Data:
    """Key residuals ``c_t u``, so the operator norm is ``||c|| ||u||``, the query along u, and values ``R c_t``.

    Errors of a block are then ``Delta c_t``, weights are equal, and ``sum a' delta_t V_t`` is the product of norms.
    Tokens with c_t = 0 have no error at all. Score errors go from the linear regime to far beyond `COUPLED_FROM`, and
    differ between the query heads of a KV head.
    """
    u = np.where(np.arange(s.head_dim) % 2 == 0, 1.0, -1.0)
    sign = np.where((np.arange(s.tokens) // 2 + np.arange(s.tokens)) % 2 == 0, 1.0, -1.0)
    amount = rng.integers(0, 5, s.tokens) if rng.random() < 0.7 else 4 * (rng.random(s.tokens) < 0.2)
    c = np.where(extremes(s) > 0, 0.0, sign * amount / EIGHTHS)
    size = 2.0 ** float(rng.integers(-6, 4))
    k = per_head(s, size * on_grid(s, c[:, None] * u, 255))
    v = np.zeros(k.shape)
    v[:, :, int(rng.integers(s.head_dim))] = (c * 16.0 * 2.0 ** float(rng.integers(-4, 6)))[:, None]
    delta = 10.0 ** rng.uniform(-5, 2, (s.steps, s.q_heads, 1))
    return Data(k, v, given(delta / (0.5 * s.head_dim * size * s.effective_scale) * u), out_dtype="float64")


def aligned_values(rng: Rng, s: Setting) -> Data:
    """Value residuals in a few orthogonal groups, equal within a group; equal weights; keys stored exactly.

    With r groups the operator norm of the normalised residuals is ``sqrt(B / r)`` and it is attained.
    """
    top = 15 if s.values == "int4" else 255
    groups = int(rng.choice([g for g in (1, 2, 4) if s.head_dim % g == 0]))
    mine = (np.arange(s.tokens) % groups)[:, None] == (np.arange(s.head_dim) % groups)[None, :]
    residual = 0.5 * mine * (1.0 - extremes(s))[:, None]
    if rng.random() < 0.3:
        residual *= rng.integers(0, 5, (s.tokens, 1)) / 4.0
    v = per_head(s, 2.0 ** float(rng.integers(-6, 4)) * on_grid(s, residual, top))
    k = np.broadcast_to(rng.integers(-3, 4, (1, s.kv_heads, s.head_dim)).astype(np.float64), v.shape)
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)), out_dtype="float64")


def peaked_blocks(rng: Rng, s: Setting) -> Data:
    """One token of each block has nearly all of its mass; its key is off by what we choose, its value too, together.

    The last channel of the keys is exact and lifts the peaks. Values are +R and -R, or equal but for half a step each
    way, so that coded values lie on the output while the originals do not: the heaviest token's distance is then its
    residual. Without a tail the peaks err in turns; a tail of any mass stays where it is when they all err upwards.
    """
    n, d = s.tokens, s.head_dim
    coded = n - n % s.block
    u = np.where(np.arange(d) % 2 == 0, 1.0, -1.0)
    peaks = np.zeros(n, np.bool_)
    for _ in range(int(rng.choice([1, 1, 1, 2]))):  # ties among the heaviest
        peaks[np.arange(0, coded, s.block) + rng.integers(2, s.block, coded // s.block)] = True
    order = np.cumsum(peaks) % 2 == 0
    sign = np.where(order | (n > coded), 1.0, -1.0) if rng.random() < 0.7 else rng.choice([-1.0, 1.0], size=n)
    residual = 0.5 * np.where(extremes(s) > 0, 0.0, sign)[:, None] * u
    size = 2.0 ** float(rng.integers(-6, 4))
    keys = on_grid(s, residual, 255)
    keys[:, -1] = np.where(peaks, 255.0, 0.0)
    keys[coded:, -1] = float(rng.integers(245, 290))
    v = np.zeros((n, s.kv_heads, d))
    if rng.random() < 0.5:
        v[:, :, 0] = np.where(extremes(s) > 0, 0.0, sign * 7.5)[:, None]
    else:
        v[:] = per_head(s, on_grid(s, residual, 15 if s.values == "int4" else 255))
    delta = 10.0 ** rng.uniform(-4, 1.5, (s.steps, s.q_heads, 1))
    q = delta / (0.5 * (d - 1) * size * s.effective_scale) * u
    q[..., -1] = 10.0 ** rng.uniform(0, 2.5, (s.steps, s.q_heads)) / (255.0 * size * s.effective_scale)
    return Data(size * per_head(s, keys), v, given(q), out_dtype="float64")


def log_range(rng: Rng, s: Setting) -> Data:
    """Value norms that span up to 2^44 within a block, zero tokens too; all mass on the tokens of the least norm.

    A token's bound is a code of 32 octaves below the block's largest: what lies below must be rounded up to its end.
    """
    octaves = rng.uniform(0.0, rng.choice([8.0, 31.0, 36.0, 44.0]), (s.tokens, s.kv_heads, 1))
    octaves[rng.random(octaves.shape) < 0.3] = 0.0
    v = 1000.0 * 2.0**-octaves * normal(rng, s) * (rng.random(octaves.shape) < 0.9)
    direction = unit(rng.standard_normal((s.kv_heads, s.head_dim)))
    k = 0.05 * normal(rng, s)
    small = np.argsort(-octaves[..., 0], axis=0)
    for kv_head in range(s.kv_heads):
        k[small[: max(s.tokens // 16, 1), kv_head], kv_head] += 8.0 * direction[kv_head]
    depth = 10.0 ** rng.uniform(0.5, 2.8, (s.steps, s.kv_heads, s.ratio, 1)) / (8.0 * s.effective_scale)
    q = (depth * direction[None, :, None, :]).reshape(s.steps, s.q_heads, s.head_dim)
    return Data(k, v, given(q * (1.0 + 1e-3 * normal_queries(rng, s))), out_dtype="float64")


def infinite_annotations(rng: Rng, s: Setting) -> Data:
    """Fill some blocks with the largest numbers, so that their norms exceed the annotations' range.

    Queries give the huge blocks no weight, next to none, or some: 0 times infinity must not pass for 0 unless it is.
    """
    at = rng.random((-(-s.tokens // s.block), 1, 1)) < 0.3
    huge = np.repeat(at, s.block, axis=0)[: s.tokens]
    k, v = normal(rng, s), normal(rng, s)
    big = s.largest * rng.choice([-1.0, 1.0, 0.5], size=v.shape)
    which = int(rng.integers(3))
    v = np.where(huge & (which != 1), big, v)
    k = np.where(huge & (which == 1), big * 2.0 ** -float(rng.integers(0, 100)), k)
    k[..., 0] = np.where(huge[..., 0], -8.0, 8.0)
    q = temperature(rng) * normal_queries(rng, s)
    q[..., 0] = rng.choice([0.0, 1.0, 5.0, 40.0, 60.0], size=q.shape[:2]) / s.effective_scale
    return Data(k, v, given(q))


def uneven_errors(rng: Rng, s: Setting) -> Data:
    """Blocks whose keys are stored exactly and values badly, beside blocks with the opposite, and every mixture.

    Budgets promote keys of some blocks and values of others, in the same head.
    """
    block = np.arange(s.tokens) // s.block
    kind = rng.integers(0, 4, int(block[-1]) + 1)[block][:, None, None]
    wide = np.where(rng.random((1, s.kv_heads, s.head_dim)) < 0.1, 30.0, 1.0)
    constant = normal(rng, s)[:1]
    k = np.where(kind & 1, constant + 0.3 * wide * normal(rng, s), constant)
    v = np.where(kind & 2, rng.lognormal(0, 1, (s.tokens, s.kv_heads, 1)) * normal(rng, s), rng.choice([-1.0, 1.0]))
    return Data(k, v, given(temperature(rng) * normal_queries(rng, s)))


def lossy(rng: Rng, s: Setting) -> Setting:
    """Nothing dense, queries that keep their size, and an ordinary scale."""
    return replace(
        s,
        keys=str(rng.choice(["int8", "int8-paper"])),
        values=str(rng.choice(["int4", "int4-g16", "int4-g32", "int8", "int8-g64"])),
        query_dtype="float32",
        scale=None if rng.random() < 0.7 else float(rng.uniform(0.05, 1.0)),
    )


def wide_exponents(rng: Rng, s: Setting) -> Setting:
    """As `lossy`, in bfloat16."""
    return replace(lossy(rng, s), dtype="bfloat16")


def per_token_errors(rng: Rng, s: Setting) -> Setting:
    """As `wide_exponents`, with value steps per token; often exact keys, whose errors would hide the smallest."""
    s = wide_exponents(rng, s)
    values, keys = str(rng.choice(["int4-g16", "int4-g32", "int8-g64"])), str(rng.choice(["dense", s.keys]))
    return replace(s, keys=keys, values=values, tokens=max(s.tokens, s.block))
