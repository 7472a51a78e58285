"""Memory that runs out, and copies that come late: whole or not at all, and an error that says so."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from certkv.fast import cache as module
from certkv.fast import dense
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.checksum import Checksums
from certkv.fast.errors import CorruptionError, OutOfMemoryError
from certkv.fast.host import Originals
from certkv.fast.plan import plan
from certkv.fast.policies import Budget, Naive
from certkv.fast.resident import Resident

from .scene import GROUP, KV_HEADS, bits, drawn, filled, flip, query

HEADS = KV_HEADS * GROUP


def state(cache: TieredCache) -> list[torch.Tensor]:
    """Everything that steps read."""
    sums, held = cache.checksums, cache.resident
    kept = (
        *cache.pool.tensors().values(),
        *(cache.pages.table, cache.lengths, cache.anchor, held.keys, held.values, held.norms),
        *(cache.originals.keys, cache.originals.values, cache.originals.present),
        *(sums.blocks, sums.originals, sums.resident, sums.lengths),
    )
    return [bits(tensor) for tensor in kept]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (module, "encode_keys"),
        (module, "encode_values"),
        (Checksums, "write_originals"),
        (Checksums, "write_blocks"),
        (Originals, "write"),
        (Resident, "norms_after"),
        (Resident, "grow"),
        (TieredCache, "_settle"),
    ],
)
@pytest.mark.parametrize("late", [False, True])  # before it has done anything, or after all of it
def test_an_append_that_runs_out_of_memory_leaves_the_cache_as_it_was(
    owner: Any, name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checksums too, so that the next append is not taken for damage; and it then holds what it should."""
    cache, untouched = filled(), filled()
    k, v = drawn(3, 12, seed=3)
    before = state(cache)
    real = getattr(owner, name)

    def fails(*arguments: Any) -> Any:
        if late:
            real(*arguments)
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            cache.append(k, v, lengths=[12, 2, 11])
    assert all(map(torch.equal, state(cache), before))
    cache.verify(originals=True)
    for one in (cache, untouched):
        one.append(k, v, lengths=[12, 2, 11])
    assert all(map(torch.equal, state(cache), state(untouched)))
    cache.verify(originals=True)


def test_steps_that_run_out_of_memory_can_be_planned_and_resolved_later(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, q = filled(), query()
    before = state(cache)

    def fails(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(import_module("certkv.fast.plan"), "plan_workspace", fails)
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            plan(cache, HEADS, Naive())
    flip(cache.pool.key_codes[cache.pages.pages(0)[1], 0], 3)
    made = plan(cache, HEADS, Naive(), verify="step")
    step = made.run(q, out=made.step())
    with monkeypatch.context() as patch:
        patch.setattr(dense, "staging", fails)
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            step.resolve()
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    step.resolve()
    step.check()
    cache.repair()
    assert all(map(torch.equal, state(cache), before))


@pytest.mark.parametrize(
    "changed",
    [{"capacity": 10**12}, {"capacity": 10**17}, {"batch": 10**9}, {"pages": 10**12}, {"batch": 10**12, "pages": 1}],
    ids=str,
)
def test_a_cache_that_does_not_fit_is_a_typed_error(changed: dict[str, Any]) -> None:
    """Torch says it in several ways: no such memory, or no such number of bytes."""
    settings: dict[str, Any] = {"batch": 1, "kv_heads": 8, "head_dim": 128, "capacity": 1000, "dtype": torch.float16}
    with pytest.raises(OutOfMemoryError, match=r"the cache does not fit into memory .*give fewer tokens") as caught:
        TieredCache(**settings | changed)
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, torch.OutOfMemoryError)


def test_what_is_no_lack_of_memory_is_not_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("something else")

    cache = filled()
    monkeypatch.setattr(import_module("certkv.fast.plan"), "plan_workspace", fails)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        plan(cache, HEADS, Naive())


class Queue:
    """A stream that runs late: copies to the host happen when somebody waits."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.events: list[str] = []

    def write(self, originals: Originals, *arguments: Any) -> None:
        kept: list[Any] = [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]
        self.waiting.append(lambda: REAL_WRITE(originals, *kept))
        self.events.append("write")

    def mark(self, originals: Originals, *arguments: Any) -> None:
        self.events.append("mark")
        REAL_MARK(originals, *arguments)

    def settle(self, _: TieredCache) -> None:
        for copy in self.waiting:
            copy()
        self.waiting.clear()
        self.events.append("wait")

    def erase(self, originals: Originals, *arguments: Any) -> None:
        self.events.append("erase")
        REAL_ERASE(originals, *arguments)


REAL_WRITE, REAL_MARK, REAL_ERASE = Originals.write, Originals.mark, Originals.erase


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue()
    monkeypatch.setattr(Originals, "write", lambda *a: made.write(*a))
    monkeypatch.setattr(Originals, "mark", lambda *a: made.mark(*a))
    monkeypatch.setattr(Originals, "erase", lambda *a: made.erase(*a))
    monkeypatch.setattr(TieredCache, "_settle", lambda cache: made.settle(cache))
    return made


def test_originals_count_as_present_only_after_their_copies_are_done(queue: Queue) -> None:
    cache = filled()
    first = queue.events.index("mark")
    assert queue.events[:first].count("wait") == 1
    assert "write" not in queue.events[queue.events.index("wait") :]
    cache.verify(originals=True)
    planned = plan(cache, HEADS, Budget(0.0), verify="step")
    planned.run(query(), out=planned.step()).check()


def test_a_copy_that_nobody_waits_for_is_noticed(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the missing wait would do: originals marked as present that are not there yet have no checksum to show."""
    with monkeypatch.context() as patch:
        patch.setattr(TieredCache, "_settle", lambda _: None)
        cache = filled()
    with pytest.raises(CorruptionError, match="original keys"):
        cache.verify(originals=True)
    planned = plan(cache, HEADS, Budget(0.0), verify="step")
    step = planned.run(query(), out=planned.step())
    assert (step.certificate.status[:2] == Status.CHECKSUM).all()
    queue.settle(cache)
    cache.verify(originals=True)
    planned.run(query(), out=step).check()


def test_host_memory_is_not_erased_while_steps_may_read_it(queue: Queue) -> None:
    cache = filled()
    queue.events.clear()
    cache.reset(0)
    assert queue.events == ["wait", "erase"]
