"""One layer of one sequence: coded blocks, annotations, the tail, and the originals behind them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from certkv.reference.annotations import (
    KeyAnnotations,
    ValueAnnotations,
    annotate_keys,
    annotate_values,
    finer_keys,
    finer_values,
    level_bytes_per_block,
)
from certkv.reference.cache.checks import require_dtype, require_finite, require_plain, require_shape, whole_number
from certkv.reference.cache.host import HostTier, Side
from certkv.reference.cache.planes import Place, PlaneStore
from certkv.reference.cache.scratch import Scratch
from certkv.reference.cache.view import View
from certkv.reference.errors import CertkvError, InputError, SettingError
from certkv.reference.formats import (
    Encoded,
    Format,
    concatenate,
    key_format,
    least_block,
    levels_of,
    plane_bytes,
    value_format,
)
from certkv.reference.numbers.dtypes import BFLOAT16, FLOAT16, float_type
from certkv.reference.numbers.types import AnyArray, FloatArray

T = TypeVar("T")

SIDES: tuple[Side, Side] = ("keys", "values")


class Cache:
    """A quantized KV cache with its originals, for one layer and one sequence.

    Tokens enter the tail as originals. As soon as a block is full - or as many as the residual window holds - it is
    encoded, once, its annotations are measured against what was stored, and its originals move to the host tier.

    Parameters
    ----------
    kv_heads, head_dim : int
    dtype : "float16", "bfloat16" or the NumPy dtype
        Of the originals.
    keys, values : str
        Names of the formats.
    block : int or None
        Tokens per block; None for the default of the key format.
    residual : int or None
        Tokens that are encoded at once, a whole number of blocks: fewer wait in the tail as originals; None for one
        block.
    scratch_bytes : int
        Size of the pool of recently fetched originals.
    planes : {"device", "host"}
        Where the refinement planes of formats of several levels lie.

    Raises
    ------
    SettingError
        An unknown format or place, a size below 1, or a block shorter than the groups of the key format.
    DTypeError
        A dtype that is not 16 bits wide.
    """

    def __init__(
        self,
        *,
        kv_heads: int,
        head_dim: int,
        dtype: object = "float16",
        keys: str = "int8",
        values: str = "int4-g32",
        block: int | None = None,
        scratch_bytes: int = 0,
        residual: int | None = None,
        planes: Place = "host",
    ) -> None:
        self._formats: dict[Side, Format] = {"keys": key_format(keys), "values": value_format(values)}
        default = self._formats["keys"].default_block
        self.block = default if block is None else whole_number("block", block)
        self.kv_heads = whole_number("kv_heads", kv_heads)
        self.head_dim = whole_number("head_dim", head_dim)
        for name, size in (("kv_heads", self.kv_heads), ("head_dim", self.head_dim), ("block", self.block)):
            if size < 1:
                raise SettingError(f"{name} is {size}; give at least 1")
        if self.block < (least := least_block(self._formats["keys"])):
            raise SettingError(
                f"block is {self.block}, but keys {keys!r} have groups of {least} tokens; give block={least} or more, "
                "or a format of smaller groups"
            )
        self.residual = self.block if residual is None else whole_number("residual", residual)
        if self.residual < 1 or self.residual % self.block:
            raise SettingError(f"residual is {self.residual}; give a positive multiple of the block, {self.block}")
        self._scratch_bytes = whole_number("scratch_bytes", scratch_bytes)
        if self._scratch_bytes < 0:
            raise SettingError(f"scratch_bytes is {scratch_bytes}; give at least 0")
        self.planes = PlaneStore(planes)
        self.dtype = float_type(dtype).dtype
        if self.dtype not in (FLOAT16.dtype, BFLOAT16.dtype):
            raise SettingError(f"dtype is {self.dtype.name}; originals are float16 or bfloat16")
        self.reset()

    def reset(self) -> None:
        """Forget every token, the anchor included."""
        self.host = HostTier(self.kv_heads, self.block, self.head_dim, self.dtype)
        self.scratch = Scratch(self.host, self._scratch_bytes)
        self.planes = PlaneStore(self.planes.place)
        self._encoded: dict[Side, Encoded | None] = {"keys": None, "values": None}
        self._key_annotations: tuple[KeyAnnotations, ...] | None = None
        self._value_annotations: tuple[ValueAnnotations, ...] | None = None
        self._anchor: FloatArray | None = None
        empty = np.empty((0, self.kv_heads, self.head_dim), self.dtype)
        self._tail: dict[Side, AnyArray] = {"keys": empty, "values": empty.copy()}
        self.blocks = 0

    @property
    def tokens(self) -> int:
        """Tokens held: full blocks and tail."""
        return self.blocks * self.block + len(self._tail["keys"])

    def append(self, k: AnyArray, v: AnyArray) -> None:
        """Add tokens; every block that fills is encoded at once. On an error the cache is as it was.

        Parameters
        ----------
        k, v : float16 or bfloat16 [tokens, kv_heads, head_dim]
            Post-RoPE keys, and values.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError
        """
        for name, array in (("k", k), ("v", v)):
            require_plain(name, array)
            require_shape(name, array, ("tokens", self.kv_heads, self.head_dim))
            require_dtype(name, array, (self.dtype,))
            require_finite(name, array)
        require_shape("v", v, k.shape)
        tail = {
            "keys": np.concatenate([self._tail["keys"], k]),
            "values": np.concatenate([self._tail["values"], v]),
        }
        full = self.full_blocks(len(tail["keys"]))
        if full:
            self._encode(self._as_blocks(tail["keys"], full), self._as_blocks(tail["values"], full))
        for side in SIDES:
            self._tail[side] = tail[side][full * self.block :]

    def __copy__(self) -> Cache:
        """Refuse: both copies would append to one host tier, and read each other's originals."""
        raise SettingError("a shallow copy would share the host tier; use copy.deepcopy(cache)")

    def view(self, kv_head: int, position: int | None = None) -> View:
        """Return one KV head as a query sees it.

        Parameters
        ----------
        kv_head : int
        position : int or None
            Position of a causal query, which sees the tokens up to and including its own, in the state the cache
            had then; None to see every token.

        Raises
        ------
        InputError
            A position that is not in the cache, or an empty cache.
        """
        if not 0 <= whole_number("kv_head", kv_head) < self.kv_heads:
            raise InputError(f"kv_head {kv_head} is not there; the cache has KV heads 0 to {self.kv_heads - 1}")
        if self.tokens == 0:
            raise InputError("the cache is empty; append keys and values before decoding")
        tokens = self.tokens if position is None else whole_number("position", position) + 1
        if not 1 <= tokens <= self.tokens:
            raise InputError(f"position {position} is outside the cache, which holds positions 0 to {self.tokens - 1}")
        return View(self, kv_head, self.full_blocks(tokens), tokens)

    def full_blocks(self, tokens: int) -> int:
        """Return how many of so many tokens' blocks are coded; the others are the tail."""
        return tokens // self.residual * (self.residual // self.block)

    def format(self, side: Side) -> Format:
        """Return the format of one side."""
        return self._formats[side]

    def levels(self, side: Side) -> int:
        """Return the number of coded levels: 1, and one for each refinement plane."""
        return levels_of(self._formats[side])

    @property
    def level_count(self) -> int:
        """Levels above the base plane that a block of either side may have at most: refined ones and the original."""
        return max(self.levels(side) for side in SIDES)

    @property
    def finer_device_bytes(self) -> int:
        """Bytes that levels above the base plane take on the device: their annotations, and planes that lie there."""
        keys, values = level_bytes_per_block(self.block)
        notes = (self.levels("keys") - 1) * keys + (self.levels("values") - 1) * values
        planes = self.planes.bytes if self.planes.place == "device" else 0
        return notes * self.blocks * self.kv_heads + planes

    @property
    def moved_bytes(self) -> int:
        """Bytes really moved from host memory since the last reset."""
        return self.scratch.moved_bytes + self.planes.moved_bytes

    def plane_bytes(self, side: Side) -> tuple[int, ...]:
        """Return the bytes of each refinement plane of one block and KV head."""
        return plane_bytes(self._formats[side], self.block, self.head_dim)

    def encoded(self, side: Side) -> Encoded:
        """Codes and metadata of all full blocks at their base plane, leading axes [blocks, kv_heads]."""
        return self._held(self._encoded[side])

    def key_annotations(self, level: int = 0) -> KeyAnnotations:
        """Annotations of the keys of all full blocks at a coded level, arrays [blocks, kv_heads]."""
        return self._held(self._key_annotations)[level]

    def value_annotations(self, level: int = 0) -> ValueAnnotations:
        """Annotations of the values of all full blocks at a coded level, arrays [blocks, kv_heads]."""
        return self._held(self._value_annotations)[level]

    def anchor(self) -> FloatArray:
        """Return the mean value of the first full block, float64 [kv_heads, head_dim], fixed from then on."""
        return self._held(self._anchor)

    def tail(self, side: Side) -> AnyArray:
        """Return the tokens that do not fill a block, [tail, kv_heads, head_dim]; not to be written to."""
        tail = self._tail[side].view()
        tail.flags.writeable = False
        return tail

    @staticmethod
    def _held(part: T | None) -> T:
        if part is None:
            raise InputError("no block is full yet, so nothing is coded; append more tokens")
        return part

    def _as_blocks(self, tokens: AnyArray, full: int) -> AnyArray:
        """[tokens, kv_heads, d] -> [full, kv_heads, block, d]."""
        blocks = tokens[: full * self.block].reshape(full, self.block, self.kv_heads, self.head_dim)
        return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))

    def _encode(self, k: AnyArray, v: AnyArray) -> None:
        """Encode, measure and store full blocks, [full, kv_heads, block, d]."""
        anchor = self._anchor
        if anchor is None:
            # any vector is a valid anchor; it is kept in FP32, and that stored vector is what is measured against
            mean = v[0].astype(np.float64).mean(axis=1)
            anchor = mean.astype(np.float32).astype(np.float64)
        keys, values = self._formats["keys"].encode(k), self._formats["values"].encode(v)
        base_keys = annotate_keys(k, keys.at(0), self._formats["keys"])
        base_values = annotate_values(v, values.at(0), self._formats["values"], anchor)
        key_annotations = base_keys, *finer_keys(k, keys, self._formats["keys"])
        value_annotations = base_values, *finer_values(base_values, v, values, self._formats["values"])
        planes = self.planes.joined({"keys": keys.planes, "values": values.planes})
        keys, values = keys.at(0), values.at(0)
        if self.blocks:
            keys = concatenate([self.encoded("keys"), keys])
            values = concatenate([self.encoded("values"), values])
            key_annotations = tuple(
                KeyAnnotations.concatenate([self.key_annotations(level), new])
                for level, new in enumerate(key_annotations)
            )
            value_annotations = tuple(
                ValueAnnotations.concatenate([self.value_annotations(level), new])
                for level, new in enumerate(value_annotations)
            )
        if self.host.blocks != self.blocks:
            raise CertkvError(f"the host tier holds {self.host.blocks} blocks beside {self.blocks} coded ones; reset()")
        self.host.append(k, v)
        # nothing below can fail, so that an append happens whole or not at all
        self._encoded, self.planes = {"keys": keys, "values": values}, planes
        self._key_annotations, self._value_annotations = key_annotations, value_annotations
        self._anchor = anchor
        self.blocks += len(k)
