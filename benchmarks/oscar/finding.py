"""What each switch of the quantizer is worth: squared errors of keys, and how far the output is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from benchmarks.oscar.sources import GROUP, Source

from certkv.reference.exact import float64
from certkv.reference.formats import Format, OscarKeys, bytes_per_token, key_format, rotation, value_format
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray

BLOCK = 64
DENSE = "dense"
SHORT, LONG = 0.5, 2.0
"""A token is short, or long, if its norm is below, or above, this share of the median of its group, over all heads."""


@dataclass(frozen=True)
class Finding:
    """One source under one pair of formats. Squared errors are means over elements, over the mean square of all keys.

    Attributes
    ----------
    source, name : str
    tokens, head_dim, kv_heads : int
    keys, values : str
    bytes : float
        Of codes, steps, minima and norms, per token and KV head, keys and values; 16-bit originals where "dense".
    short, long : int
        Tokens whose norm is far below, or above, the median of their group.
    mse, mse_short, mse_long, mse_others : float
        Of the keys; NaN where there is no such token.
    output_error : float
        Distance from the exact output over the mean norm of the values, root mean square over heads.
    output_error_calm : float
        The same with calm queries (`Source.calm`).
    score_measured, score_metadata : float
        Bounds of a block's largest score error over the largest there is, geometric means over blocks and queries of
        the last step: ``||q|| max ||e_t||``, which certificates use, and half a step in every channel, which is less
        than what steps and norms alone prove; NaN for other formats.
    """

    source: str
    name: str
    tokens: int
    head_dim: int
    kv_heads: int
    keys: str
    values: str
    bytes: float
    short: int
    long: int
    mse: float
    mse_short: float
    mse_long: float
    mse_others: float
    output_error: float
    output_error_calm: float
    score_measured: float
    score_metadata: float


def classes(k: FloatArray) -> dict[str, BoolArray]:
    """Short, long and other tokens, bool [tokens]; only whole groups are looked at."""
    norm = np.sqrt(np.square(k).sum(axis=(1, 2))).reshape(-1, GROUP)
    median = np.median(norm, axis=-1, keepdims=True)
    short, long = (norm < SHORT * median).ravel(), (norm > LONG * median).ravel()
    return {"short": short, "long": long, "others": ~(short | long)}


def stored(x: AnyArray, fmt: Format) -> FloatArray:
    """Encode whole blocks, [tokens, kv_heads, d], and decode them."""
    kv_heads, head_dim = x.shape[1:]
    blocks = x.reshape(-1, BLOCK, kv_heads, head_dim).transpose(0, 2, 1, 3)
    decoded = fmt.decode(fmt.encode(np.ascontiguousarray(blocks)))
    return np.asarray(decoded.transpose(0, 2, 1, 3).reshape(x.shape))


def find(source: Source, name: str, keys: str, values: str) -> Finding:
    """Encode a layer, and attend with every query without promotion; there is no tail."""
    tokens = len(source.k) // BLOCK * BLOCK
    k, v = source.k[:tokens], source.v[:tokens]
    kv_heads, head_dim = k.shape[1:]
    formats = key_format(keys), value_format(values)
    decoded = stored(k, formats[0]), stored(v, formats[1])
    exact = k.astype(np.float64)
    square = np.square(decoded[0] - exact) / np.mean(np.square(exact))
    kinds = classes(exact)
    mse = {kind: float(square[which].mean()) if which.any() else float("nan") for kind, which in kinds.items()}
    measured, metadata = score_bounds(source.q[-1], k, formats[0])
    sizes = (bytes_per_token(fmt, BLOCK, head_dim, kv_heads) for fmt in formats)
    return Finding(
        source=source.kind,
        name=name,
        tokens=tokens,
        head_dim=head_dim,
        kv_heads=kv_heads,
        keys=keys,
        values=values,
        bytes=float(sum(sizes)),
        short=int(kinds["short"].sum()),
        long=int(kinds["long"].sum()),
        mse=float(square.mean()),
        mse_short=mse["short"],
        mse_long=mse["long"],
        mse_others=mse["others"],
        output_error=output_error(source, decoded, source.q),
        output_error_calm=output_error(source, decoded, source.q / source.q.dtype.type(source.calm)),
        score_measured=measured,
        score_metadata=metadata,
    )


def score_bounds(q: AnyArray, k: AnyArray, fmt: Format) -> tuple[float, float]:
    """Bounds of the largest score error of every block over that error: measured, and from half of every step."""
    if not isinstance(fmt, OscarKeys):
        return float("nan"), float("nan")
    size = len(q) // k.shape[1]
    blocks = np.ascontiguousarray(k.reshape(-1, BLOCK, *k.shape[1:]).transpose(2, 0, 1, 3))  # [kv_heads, blocks, B, d]
    encoded = fmt.encode(blocks.swapaxes(0, 1))
    off = (fmt.decode(encoded) - blocks.swapaxes(0, 1)).swapaxes(0, 1)
    step = encoded.step.astype(np.float64).swapaxes(0, 1)  # [kv_heads, blocks, groups, d]
    norm = np.ones(off.shape[:-1]) if fmt.scope is None or encoded.norm is None else encoded.norm.swapaxes(0, 1)
    queries = q.reshape(k.shape[1], size, -1).astype(np.float64)
    true = np.abs(np.einsum("hgd,hbtd->hgbt", queries, off)).max(axis=-1)
    longest = np.linalg.norm(off, axis=-1).max(axis=-1)
    measured = np.linalg.norm(queries, axis=-1)[..., None] * longest[:, None]
    inside = rotation.rotate(queries) if fmt.rotated else queries
    halves = np.repeat(np.einsum("hgd,hbkd->hgbk", np.abs(inside), step / 2), fmt.group, axis=-1)[..., :BLOCK]
    metadata = (halves * norm[:, None]).max(axis=-1)
    return float(np.exp(np.mean(np.log(measured / true)))), float(np.exp(np.mean(np.log(metadata / true))))


def output_error(source: Source, decoded: tuple[FloatArray, FloatArray], queries: AnyArray) -> float:
    """Root mean square of the outputs' distances from the exact ones, over the mean norm of the values."""
    (k, v), (tokens, kv_heads, _) = decoded, decoded[0].shape
    size = source.q.shape[1] // kv_heads
    squares: list[float] = []
    for q, position in zip(queries, source.positions, strict=True):
        # queries that stand in the cut end see all that is coded
        seen = tokens if position is None else min(position + 1, tokens)
        coded = seen // BLOCK * BLOCK
        for j in range(kv_heads):
            mine = slice(j * size, (j + 1) * size)
            of_head = source.k[:seen, j].astype(np.float64), source.v[:seen, j].astype(np.float64)
            keys, values = (np.concatenate([x[:coded, j], y[coded:]]) for x, y in zip((k, v), of_head, strict=True))
            found = float64.attention(q[mine], keys, values, source.scale)
            truth = float64.attention(q[mine], of_head[0], of_head[1], source.scale)
            squares += np.square(found.output - truth.output).sum(axis=-1).tolist()
    norms = np.linalg.norm(source.v[:tokens].astype(np.float64), axis=-1)
    return float(np.sqrt(np.mean(squares)) / norms.mean())
