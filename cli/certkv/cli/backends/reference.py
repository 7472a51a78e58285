"""The reference as a backend: NumPy, float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from certkv.cli.backends.base import CacheSettings, Formats, Storage, Taken
from certkv.cli.capture import Capture, Layer
from certkv.reference import Budget, Cache, InputError, Policy, Step, decode
from certkv.reference.formats import bytes_per_token


class ReferenceBackend:
    """Takes every setting."""

    name = "reference"
    note = None

    @property
    def versions(self) -> dict[str, str]:
        """Nothing more."""
        return {}

    def formats(self, policy: Policy, asked: Formats) -> CacheSettings:
        """Return the user's formats, and the policy's own for what was not given."""
        return asked.over(policy.formats)

    def check(self, capture: Capture, asked: Formats) -> None:
        """Accept everything that could be read."""

    def hold(self, layer: Layer, formats: CacheSettings) -> ReferenceLayer:
        """Make a cache of a layer's keys and values."""
        return ReferenceLayer(layer, formats)


class ReferenceLayer:
    """One layer's cache. Steps do not write to it, so that policies share it, and a causal query looks back."""

    def __init__(self, layer: Layer, formats: CacheSettings) -> None:
        _, kv_heads, head_dim = layer.k.shape
        self.layer = layer
        self.cache = Cache(
            kv_heads=kv_heads,
            head_dim=head_dim,
            dtype=layer.k.dtype,
            keys=formats.keys,
            values=formats.values,
            block=formats.block,
            residual=formats.residual,
            planes=formats.planes,
        )
        self.cache.append(layer.k, layer.v)

    def blocks(self, tokens: int) -> int:
        """Return how many blocks of so many tokens are coded."""
        return self.cache.full_blocks(tokens)

    def steps(self, policies: Sequence[Policy]) -> Iterator[Taken]:
        """Take every query, policy by policy."""
        for index, policy in enumerate(policies):
            for query in range(self.layer.queries):
                yield Taken(index, query, take_step(self.layer, query, self.cache, policy))

    def storage(self, policy: Policy) -> Storage:
        """Read back what the cache was."""
        return storage(self.layer.index, self.cache, policy)


def take_step(layer: Layer, query: int, cache: Cache, policy: Policy) -> Step:
    """Run one query of a layer.

    Raises
    ------
    InputError
        It cannot be run; the message names the tensor.
    """
    position = None if layer.positions is None else int(layer.positions[query])
    try:
        return decode(layer.q[query], cache, policy, scale=layer.scale, position=position, index=query)
    except InputError as error:
        raise InputError(f"{layer.prefix}q[{query}], policy {policy.name}: {error}") from error


def storage(layer: int, cache: Cache, policy: Policy) -> Storage:
    """Read back from a cache what it was, and count its bytes."""
    keys, values = cache.format("keys"), cache.format("values")
    dense = 2 * cache.head_dim * cache.dtype.itemsize
    # what the heads of a layer hold in common is shared out, so that this may be a fraction
    coded = sum(bytes_per_token(fmt, cache.block, cache.head_dim, cache.kv_heads) for fmt in (keys, values))
    tail = cache.tokens - cache.blocks * cache.block
    annotations = 0
    if cache.blocks:
        for notes in (cache.key_annotations(), cache.value_annotations()):
            annotations += sum(array.nbytes for array in vars(notes).values()) // cache.kv_heads
    annotations += cache.finer_device_bytes // cache.kv_heads
    pinned = cache.block if isinstance(policy, Budget) and cache.blocks else 0
    return Storage(
        layer=layer,
        keys=keys.name,
        values=values.name,
        block=cache.block,
        residual=cache.residual,
        planes=cache.planes.place if cache.levels("keys") + cache.levels("values") > 2 else None,
        blocks=cache.blocks,
        tail=tail,
        coded_bytes_per_token=float(coded),
        device_bytes=math.ceil(coded * cache.block * cache.blocks) + annotations + (tail + pinned) * dense,
        plane_bytes=cache.planes.bytes // cache.kv_heads,
        dense_bytes=cache.tokens * dense,
    )
