"""The bundled model in NumPy: a Llama forward pass whose attention sees exactly what a KV cache would store.

Where rounding happens. All arithmetic is float32 (`load` can be told float64) on the float16 weights, which convert
exactly. Queries and keys after RoPE, and values as they leave their projection, are rounded once to float16, to
nearest even; attention reads those rounded numbers, in the prefill as in every decode step. A capture is therefore
not an approximation of what the model attended to, but the thing itself. `round_qkv=False` switches that rounding off
for comparison with other implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from certkv.cli import passkey
from certkv.cli.weights import Config, ModelError, read_model

Array = NDArray[Any]
Attend = Callable[[int, Array, Array, Array], Array]

__all__ = [
    "BUNDLED_CAPTURE",
    "BUNDLED_MODEL",
    "START",
    "Array",
    "Attend",
    "Config",
    "DenseCache",
    "LayerCapture",
    "Llama",
    "ModelError",
    "Prefill",
    "TokensError",
    "causal_attention",
    "decode",
    "decode_text",
    "encode",
    "generate",
    "load",
    "prefill",
    "recall_passkey",
    "rotary",
    "rotate",
]

BUNDLED_MODEL = Path(__file__).parent / "data" / "model"
BUNDLED_CAPTURE = Path(__file__).parent / "data" / "capture.safetensors"
START = 0  # the token every sequence begins with; also the separator of documents in the training text


class TokensError(ValueError):
    """Tokens that the model cannot take: none, too many, or outside its vocabulary."""


class LayerCapture(NamedTuple):
    """What one layer's attention read, all float16 (the compute type if rounding is off).

    Attributes
    ----------
    q
        `[tokens, q_heads, d]`, after RoPE, before the scale.
    k, v
        `[tokens, kv_heads, d]`, k after RoPE. Query head h reads KV head h // (q_heads // kv_heads).
    """

    q: Array
    k: Array
    v: Array


class Prefill(NamedTuple):
    """Result of `prefill`: `logits [tokens, vocab]` in the compute type, and one `LayerCapture` per layer."""

    logits: Array
    layers: list[LayerCapture]


@dataclass(frozen=True)
class Llama:
    """A loaded model: its configuration, its weights in the compute type, and whether q, k, v are rounded."""

    config: Config
    weights: dict[str, Array]
    dtype: np.dtype[Any]
    round_qkv: bool

    def layer(self, index: int, name: str) -> Array:
        """Return a weight of layer `index`."""
        return self.weights[f"model.layers.{index}.{name}.weight"]

    def stored(self, x: Array) -> Array:
        """Round to float16, to nearest even, as the cache stores it."""
        return x.astype(np.float16) if self.round_qkv else x


def load(path: Path | str = BUNDLED_MODEL, *, dtype: Any = np.float32, round_qkv: bool = True) -> Llama:
    """Load a model folder: `config.json` and `model.safetensors`, Hugging Face names, tied embeddings.

    Parameters
    ----------
    path
        The folder; the bundled model's by default.
    dtype
        Type of all arithmetic, float32 or float64.
    round_qkv
        Round q, k and v to float16 (see the module's text).

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the architecture, a shape, a type or a number is not what it must be.
    """
    kind = np.dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ModelError(f"compute type {kind} is not supported; use float32 or float64")
    config, tensors = read_model(Path(path))
    return Llama(config, {name: tensor.astype(kind) for name, tensor in tensors.items()}, kind, round_qkv)


def encode(text: bytes | str) -> NDArray[np.int64]:
    """Turn text into tokens: the start token, then one token per byte (UTF-8)."""
    data = text.encode() if isinstance(text, str) else text
    return np.concatenate([[START], np.frombuffer(data, np.uint8)]).astype(np.int64)


def decode_text(tokens: Array) -> bytes:
    """Turn tokens back into bytes, start tokens left out."""
    return bytes(int(token) for token in tokens if token != START)


def rotary(config: Config, positions: Array, dtype: Any) -> tuple[Array, Array]:
    """Return cos and sin `[positions, d]` for the rotate-half convention, computed in float64 and then rounded."""
    frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    angle = np.asarray(positions, np.float64)[:, None] * frequency
    angle = np.concatenate([angle, angle], axis=-1)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Apply RoPE to `x [tokens, heads, d]` with tables `[tokens, d]`."""
    first, second = np.split(x, 2, axis=-1)
    turned: Array = x * cos[:, None] + np.concatenate([-second, first], axis=-1) * sin[:, None]
    return turned


def causal_attention(q: Array, k: Array, v: Array, scale: float, dtype: Any, chunk: int = 256) -> Array:
    """Dense causal attention, `chunk` queries at a time, so that memory stays linear in the tokens.

    Parameters
    ----------
    q
        `[queries, q_heads, d]`; the queries are the last ones of the sequence.
    k, v
        `[tokens, kv_heads, d]`.
    scale
        Factor on the scores.
    dtype
        Type of the arithmetic and of the result.
    chunk
        Queries per pass; changes memory and rounding order inside the matrix product, not the meaning.

    Returns
    -------
    ndarray
        `[queries, q_heads, d]`.
    """
    queries, q_heads, d = q.shape
    tokens, kv_heads, _ = k.shape
    group = q_heads // kv_heads
    output = np.empty((queries, q_heads, d), dtype)
    for kv_head in range(kv_heads):
        keys, values = (np.ascontiguousarray(x[:, kv_head], dtype) for x in (k, v))
        heads = slice(kv_head * group, (kv_head + 1) * group)
        for start in range(0, queries, chunk):
            stop = min(start + chunk, queries)
            seen = tokens - queries + stop
            rows = np.ascontiguousarray(q[start:stop, heads], dtype) * np.dtype(dtype).type(scale)
            scores = (rows.reshape(-1, d) @ keys[:seen].T).reshape(stop - start, group, seen)
            # Within the chunk's own tokens the future is masked; everything before them is past for all its rows.
            own = stop - start
            future = np.triu(np.ones((own, own), bool), 1)
            scores[:, :, seen - own :][np.broadcast_to(future[:, None], (own, group, own))] = -np.inf
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            total = scores.sum(axis=-1, keepdims=True)
            mixed = (scores.reshape(-1, seen) @ values[:seen]).reshape(stop - start, group, d)
            output[start:stop, heads] = mixed / total
    return output


def prefill(model: Llama, tokens: Array, *, chunk: int = 256) -> Prefill:
    """Run the model over a whole sequence.

    Parameters
    ----------
    model
        From `load`.
    tokens
        `[tokens]` integers from `encode`.
    chunk
        Queries per attention pass; scores take `4 * chunk * tokens * q_heads / kv_heads` bytes in float32.

    Returns
    -------
    Prefill
        Logits of every position and what every layer's attention read.

    Raises
    ------
    TokensError
        If the tokens are empty, too many for the model's context, or outside its vocabulary.
    """
    config = model.config
    ids = _checked(config, tokens)
    cos, sin = rotary(config, np.arange(len(ids)), model.dtype)
    captures = []

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        captures.append(LayerCapture(q, k, v))
        return causal_attention(q, k, v, config.scale, model.dtype, chunk)

    return Prefill(_forward(model, ids, cos, sin, attend), captures)


def decode(model: Llama, token: int, position: int, attend: Attend) -> Array:
    """Run one token, with the attention of every layer left to the caller.

    Parameters
    ----------
    model
        From `load`.
    token
        The newest token.
    position
        Its place in the sequence, counted from 0 (the start token's).
    attend
        Called once per layer, in order, as `attend(layer, q [q_heads, d], k [kv_heads, d], v [kv_heads, d])`, all
        float16 (see the module's text). It must add k and v to its cache and return the attention of q over the whole
        cache, the new token included, `[q_heads, d]`, with scale `model.config.scale`.

    Returns
    -------
    ndarray
        Logits `[vocab]` in the compute type.

    Raises
    ------
    TokensError
        If token or position is out of range.
    ValueError
        If `attend` returns another shape.
    """
    config = model.config
    ids = _checked(config, np.asarray([token]))
    if not 0 <= position < config.max_position_embeddings:
        raise TokensError(f"position {position} is outside the context of {config.max_position_embeddings} tokens")
    cos, sin = rotary(config, np.asarray([position]), model.dtype)

    def attend_one(layer: int, q: Array, k: Array, v: Array) -> Array:
        output = np.asarray(attend(layer, q[0], k[0], v[0]), model.dtype)
        if output.shape != q[0].shape:
            raise ValueError(f"attend returned shape {list(output.shape)} for layer {layer}, not {list(q[0].shape)}")
        return output[None]

    logits: Array = _forward(model, ids, cos, sin, attend_one)[0]
    return logits


class DenseCache:
    """The plain cache: all keys and values in float16, dense attention. An `attend` for `decode`."""

    def __init__(self, model: Llama, start: Prefill | None = None) -> None:
        self.model = model
        empty = np.empty((0, model.config.num_key_value_heads, model.config.head_dim), np.float16)
        layers = range(model.config.num_hidden_layers)
        self.k = [start.layers[layer].k if start else empty for layer in layers]
        self.v = [start.layers[layer].v if start else empty for layer in layers]

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        """Append k and v `[kv_heads, d]` to a layer and attend with q `[q_heads, d]`."""
        self.k[layer] = np.concatenate([self.k[layer], k[None]])
        self.v[layer] = np.concatenate([self.v[layer], v[None]])
        model = self.model
        attended: Array = causal_attention(q[None], self.k[layer], self.v[layer], model.config.scale, model.dtype)[0]
        return attended


def generate(model: Llama, logits: Array, position: int, attend: Attend, count: int) -> Iterator[int]:
    """Yield `count` tokens greedily.

    Parameters
    ----------
    model
        From `load`.
    logits
        `[vocab]`, of the last token that the cache behind `attend` holds.
    position
        Place of the first generated token in the sequence.
    attend
        As for `decode`.
    count
        Tokens to yield; the last one is not fed back.
    """
    for step in range(count):
        token = int(np.argmax(logits))
        yield token
        if step + 1 < count:
            logits = decode(model, token, position + step, attend)


def recall_passkey(model: Llama, prompt: passkey.Prompt) -> bytes:
    """Answer a passkey prompt with dense attention: the generated bytes, as many as the key has digits."""
    tokens = encode(prompt.text)
    start = prefill(model, tokens)
    answer = generate(model, start.logits[-1], len(tokens), DenseCache(model, start), passkey.DIGITS)
    return bytes(answer)


def _forward(model: Llama, ids: Array, cos: Array, sin: Array, attend: Attend) -> Array:
    """Run all layers over `ids [tokens]`; `attend` gets `[tokens, heads, d]` and returns `[tokens, q_heads, d]`."""
    config = model.config
    count = len(ids)
    x = model.weights["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):

        def project(name: str, heads: int, inputs: Array, layer: int = layer) -> Array:
            return (inputs @ model.layer(layer, f"self_attn.{name}").T).reshape(count, heads, config.head_dim)

        normed = _norm(x, model.layer(layer, "input_layernorm"), config.rms_norm_eps)
        q = model.stored(rotate(project("q_proj", config.num_attention_heads, normed), cos, sin))
        k = model.stored(rotate(project("k_proj", config.num_key_value_heads, normed), cos, sin))
        v = model.stored(project("v_proj", config.num_key_value_heads, normed))
        attended = attend(layer, q, k, v).reshape(count, -1)
        x = x + attended @ model.layer(layer, "self_attn.o_proj").T
        normed = _norm(x, model.layer(layer, "post_attention_layernorm"), config.rms_norm_eps)
        gate = normed @ model.layer(layer, "mlp.gate_proj").T
        # SiLU through tanh: x * sigmoid(x) without an exp that could overflow.
        gate *= model.dtype.type(0.5) * (np.tanh(model.dtype.type(0.5) * gate) + model.dtype.type(1))
        x = x + (gate * (normed @ model.layer(layer, "mlp.up_proj").T)) @ model.layer(layer, "mlp.down_proj").T
    logits: Array = (
        _norm(x, model.weights["model.norm.weight"], config.rms_norm_eps) @ model.weights["model.embed_tokens.weight"].T
    )
    return logits


def _norm(x: Array, gain: Array, epsilon: float) -> Array:
    """RMSNorm over the last axis of `x [tokens, hidden]`."""
    mean = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Array = x / np.sqrt(mean + x.dtype.type(epsilon)) * gain
    return normed


def _checked(config: Config, tokens: Array) -> NDArray[np.int64]:
    """Return tokens as int64, or raise TokensError."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise TokensError(f"tokens are a non-empty row of integers, got shape {list(ids.shape)} of {ids.dtype}")
    if len(ids) > config.max_position_embeddings:
        raise TokensError(f"{len(ids)} tokens exceed the model's context of {config.max_position_embeddings}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise TokensError(f"tokens must lie in 0..{config.vocab_size - 1}, got {int(ids.min())}..{int(ids.max())}")
    return ids.astype(np.int64)
