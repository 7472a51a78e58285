"""What an audit asks of a backend: hold a layer's keys and values under some formats, and take steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from certkv.cli.capture import Capture, Layer
from certkv.reference import Policy, Step
from certkv.reference.cache import Place
from certkv.reference.formats import key_format, least_block
from certkv.reference.policies import FormatDefaults


@dataclass(frozen=True)
class Formats:
    """What the user asked for; None leaves it to the policy."""

    keys: str | None = None
    values: str | None = None
    block: int | None = None
    residual: int | None = None
    planes: Place | None = None

    def over(self, own: FormatDefaults) -> CacheSettings:
        """Fill in defaults; a block that was not asked for is at least as long as the groups of the keys."""
        keys = self.keys or own.keys
        block = max(own.block, least_block(key_format(keys))) if self.block is None else self.block
        residual = block if self.residual is None else self.residual
        return CacheSettings(keys, self.values or own.values, block, residual, self.planes or "host")


@dataclass(frozen=True)
class CacheSettings:
    """What a cache is made with.

    Attributes
    ----------
    keys, values : str
        Names of the formats.
    block : int
        Tokens per block.
    residual : int
        Tokens that are coded at once; fewer wait as originals.
    planes : {"host", "device"}
        Where refinement planes lie, of formats that have some.
    """

    keys: str
    values: str
    block: int
    residual: int
    planes: Place


@dataclass(frozen=True)
class Storage:
    """What one layer's cache was, read back from the cache that ran. Bytes are per KV head.

    Attributes
    ----------
    layer : int
    keys, values : str
        Names of the formats.
    block : int
        Tokens per block.
    residual : int
        Tokens that are coded at once.
    planes : {"host", "device"} or None
        Where refinement planes lie; None of formats that have none.
    blocks, tail : int
        Coded blocks, and tokens that remain original.
    coded_bytes_per_token : float
        Codes and metadata of a coded token.
    device_bytes : int
        Codes, metadata, annotations, tail, (where it is kept) the first block's originals, and planes that lie there.
    plane_bytes : int
        Refinement planes, wherever they lie.
    dense_bytes : int
        All tokens as 16-bit keys and values.
    """

    layer: int
    keys: str
    values: str
    block: int
    residual: int
    planes: Place | None
    blocks: int
    tail: int
    coded_bytes_per_token: float
    device_bytes: int
    plane_bytes: int
    dense_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self.blocks * self.block + self.tail


class Taken(NamedTuple):
    """A step that was taken: which policy, by its place among those asked for, which query, and what came out."""

    policy: int
    query: int
    step: Step


class Held(Protocol):
    """One layer's keys and values, encoded."""

    def blocks(self, tokens: int) -> int:
        """Return how many blocks of so many tokens are coded; the others are the tail."""

    def steps(self, policies: Sequence[Policy]) -> Iterator[Taken]:
        """Take every query of the layer under every policy, in whatever order.

        Raises
        ------
        InputError
            A query cannot be run; the message names the tensor.
        """

    def storage(self, policy: Policy) -> Storage:
        """Read back what the cache was, once all steps were taken."""


class Backend(Protocol):
    """What computes the steps."""

    @property
    def name(self) -> str:
        """As in ``--backend``."""

    @property
    def note(self) -> str | None:
        """What a reader of its results must know; None where there is nothing."""

    @property
    def versions(self) -> dict[str, str]:
        """What computes, beside certkv, Python and NumPy: packages and device, by name."""

    def formats(self, policy: Policy, asked: Formats) -> CacheSettings:
        """Return what a policy's cache is made with."""

    def check(self, capture: Capture, asked: Formats) -> None:
        """Refuse what this backend does not take, before anything runs.

        Raises
        ------
        InputError
        """

    def hold(self, layer: Layer, formats: CacheSettings) -> Held:
        """Make a cache of a layer's keys and values."""
