"""The bundled model with certified attention in the loop: one certified cache per layer, every step judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.cli import llama
from certkv.cli.backends.reference import storage
from certkv.cli.measure import PolicyRun, Tick, judged
from certkv.reference import Cache, Policy, decode
from certkv.reference.numbers.types import AnyArray


@dataclass(frozen=True)
class Answer:
    """What the model said, and what every certificate was worth.

    Attributes
    ----------
    certified_text, dense_text : bytes
        Generated with certified attention, and with dense attention over the 16-bit originals.
    certified : PolicyRun
        Every head of every layer at every certified step; "query" counts the steps.
    steps, layers : int
    """

    certified_text: bytes
    dense_text: bytes
    certified: PolicyRun
    steps: int
    layers: int


class CertifiedAttention:
    """An ``attend`` for `certkv.cli.llama.decode`: quantized caches in place of the dense one.

    Parameters
    ----------
    model : Llama
    start : Prefill
        What every layer's attention has read so far.
    policy : Policy
    tick : callable
        Progress.
    """

    def __init__(self, model: llama.Llama, start: llama.Prefill, policy: Policy, tick: Tick) -> None:
        self.scale = model.config.scale
        self.dense = llama.DenseCache(model, start)  # keeps the originals, apart from the caches that are judged
        self.run = PolicyRun(policy)
        self.tick = tick
        self.caches = []
        self.steps = 0
        for layer in start.layers:
            _, kv_heads, head_dim = layer.k.shape
            formats = policy.formats
            cache = Cache(
                kv_heads=kv_heads,
                head_dim=head_dim,
                dtype=layer.k.dtype,
                keys=formats.keys,
                values=formats.values,
                block=formats.block,
            )
            cache.append(layer.k, layer.v)
            self.caches.append(cache)

    def __call__(self, layer: int, q: AnyArray, k: AnyArray, v: AnyArray) -> AnyArray:
        """Append one token to a layer and attend with q [q_heads, head_dim]; the output is certified as float32."""
        cache, dense = self.caches[layer], self.dense
        dense.k[layer] = np.concatenate([dense.k[layer], k[None]])
        dense.v[layer] = np.concatenate([dense.v[layer], v[None]])
        cache.append(k[None], v[None])
        step = decode(q, cache, self.run.policy, scale=self.scale, out_dtype="float32", index=self.steps)
        where = (self.run.policy.name, layer, self.steps)
        self.run.steps += judged(where, step, q, dense.k[layer], dense.v[layer], self.scale, cache.blocks)
        self.tick(f"layer {layer}", len(q))
        if layer == len(self.caches) - 1:
            self.steps += 1
        return step.output


def answer(model: llama.Llama, tokens: AnyArray, count: int, policy: Policy, tick: Tick) -> Answer:
    """Generate greedily, once with certified and once with dense attention.

    Parameters
    ----------
    model : Llama
    tokens : int64 [tokens]
        The prompt. All but its last token are read at once; from the last one on, attention is certified.
    count : int
        Tokens to generate.
    policy : Policy
    tick : callable
        Progress.

    Returns
    -------
    Answer
    """
    tick("reading the prompt", 0)
    start = llama.prefill(model, tokens[:-1])
    certified = CertifiedAttention(model, start, policy, tick)
    texts = []
    for attend in (certified, llama.DenseCache(model, start)):
        last = len(tokens) - 1
        logits = llama.decode(model, int(tokens[last]), last, attend)
        texts.append(llama.decode_text(np.array(list(llama.generate(model, logits, last + 1, attend, count)))))
    for layer, cache in enumerate(certified.caches):
        certified.run.storage.append(storage(layer, cache, policy))
    return Answer(texts[0], texts[1], certified.run, certified.steps, len(certified.caches))
