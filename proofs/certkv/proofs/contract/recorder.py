"""Look at what the reference does during an event, without changing it: encodings, reads, and decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import patched
from certkv.reference import step as step_module
from certkv.reference.cache import Cache, HostTier, Scratch, Side
from certkv.reference.errors import HostMissingError
from certkv.reference.formats import Encoded, Format
from certkv.reference.ladder import Action, Observation
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps import budget, paper
from certkv.reference.steps.group import Group


class CountingFormat:
    """A format that remembers every block it has been asked to encode, by the bytes of its original."""

    def __init__(self, inner: Format) -> None:
        self._inner = inner
        self.encoded: list[bytes] = []

    def encode(self, x: AnyArray) -> Encoded:
        """Encode as the format does."""
        self.encoded += [block.tobytes() for block in x.reshape(-1, *x.shape[-2:])]
        return self._inner.encode(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass(frozen=True, eq=False)
class ReadEvent:
    """One read of originals.

    Attributes
    ----------
    through : {"fetch", "stream", "host"}
        Through scratch, past it, or from the host tier by a caller that is neither.
    side : {"keys", "values"}
    kv_head : int
    blocks : tuple of int
    result : array [n, block, head_dim] or HostMissingError
    host_blocks : tuple of int
        What the host tier was asked for meanwhile.
    """

    through: str
    side: Side
    kv_head: int
    blocks: tuple[int, ...]
    result: AnyArray | HostMissingError
    host_blocks: tuple[int, ...]


@dataclass(eq=False)
class GroupTrace:
    """What one group of heads went through: the ladder's observations and answers, round by round.

    Attributes
    ----------
    heads : tuple of int
        Global indices.
    rounds : list of list of (Observation, Action)
        For every decision, one pair per head that was still running.
    promotable : list of list of bool
        For every round, whether there was something left to promote for these heads, where that was asked.
    """

    heads: tuple[int, ...]
    rounds: list[list[tuple[Observation, Action]]] = field(default_factory=list)
    promotable: list[list[bool]] = field(default_factory=list)


@dataclass(eq=False)
class Record:
    """Everything seen in one step."""

    reads: list[ReadEvent] = field(default_factory=list)
    groups: list[GroupTrace] = field(default_factory=list)


def _expand(blocks: Any, stored: int) -> tuple[int, ...]:
    if isinstance(blocks, slice):
        return tuple(range(stored))[blocks]
    return tuple(int(b) for b in blocks)


@contextmanager
def recording(cache: Cache) -> Iterator[Record]:
    """Record the reads of one cache and the decisions of every group while the context lasts."""
    record = Record()
    inside: list[list[int]] = []  # of the fetch or stream that is under way: what it asked the host tier for
    fetch, stream, read = Scratch.fetch, Scratch.stream, HostTier.read
    run_policy, decide, choose, observe = step_module.run_policy, budget.decide, budget.choose, paper.observe

    def through(name: str, call: Callable[..., AnyArray]) -> Callable[..., AnyArray]:
        def wrapped(self: Scratch, side: Side, kv_head: int, blocks: Any) -> AnyArray:
            if self is not cache.scratch:
                return call(self, side, kv_head, blocks)
            asked: list[int] = []
            inside.append(asked)
            try:
                result: AnyArray | HostMissingError = call(self, side, kv_head, blocks)
            except HostMissingError as error:
                result = error
            finally:
                inside.pop()
            named = _expand(blocks, cache.blocks)
            record.reads.append(ReadEvent(name, side, kv_head, named, _kept(result), tuple(asked)))
            return _given(result)

        return wrapped

    def host(self: HostTier, side: Side, kv_head: int, blocks: Any) -> AnyArray:
        if self is not cache.host:
            return read(self, side, kv_head, blocks)
        named = _expand(blocks, cache.blocks)
        if inside:
            inside[-1].extend(named)
            return read(self, side, kv_head, blocks)
        try:
            result: AnyArray | HostMissingError = read(self, side, kv_head, blocks)
        except HostMissingError as error:
            result = error
        record.reads.append(ReadEvent("host", side, kv_head, named, _kept(result), named))
        return _given(result)

    def group_run(group: Group, *rest: Any) -> Any:
        record.groups.append(GroupTrace(tuple(int(h) for h in group.heads)))
        return run_policy(group, *rest)

    def decided(bound: FloatArray, limit: FloatArray, rounds_left: Any) -> Any:
        actions = decide(bound, limit, rounds_left)
        seen = [
            Observation(bound=float(b), tolerance=float(t), rounds_left=int(left))
            for b, t, left in zip(bound, limit, np.broadcast_to(rounds_left, bound.shape), strict=True)
        ]
        record.groups[-1].rounds.append(list(zip(seen, actions, strict=True)))
        return actions

    def chosen(*arguments: Any) -> Any:
        keys, values = choose(*arguments)
        record.groups[-1].promotable.append([bool(k.any() or v.any()) for k, v in zip(keys, values, strict=True)])
        return keys, values

    def observed(*arguments: Any) -> list[Observation]:
        observations = observe(*arguments)
        # what the step does with them is judged by its rungs
        record.groups[-1].rounds.append([(seen, vars(paper)["next_action"](seen)) for seen in observations])
        return observations

    changes = [
        (Scratch, "fetch", through("fetch", fetch)),
        (Scratch, "stream", through("stream", stream)),
        (HostTier, "read", host),
        (step_module, "run_policy", group_run),
        (budget, "decide", decided),
        (budget, "choose", chosen),
        (paper, "observe", observed),
    ]
    with patched(*changes):
        yield record


def _kept(result: AnyArray | HostMissingError) -> AnyArray | HostMissingError:
    return np.array(result) if isinstance(result, np.ndarray) else result


def _given(result: AnyArray | HostMissingError) -> AnyArray:
    if isinstance(result, HostMissingError):
        raise result
    return result
