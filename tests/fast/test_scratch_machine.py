"""Scratch changes what is moved and nothing else, under any events; and each way to get it wrong is noticed."""

from __future__ import annotations

import pytest
import torch

from certkv.fast import scratch
from certkv.fast.cache import TieredCache
from certkv.fast.host import Originals
from certkv.fast.plan import plan
from certkv.fast.policies import Budget
from certkv.fast.scratch import NOWHERE, Scratch

from .scratch_machine import ScratchMachine, require_same, run

EVENTS = 15


def test_nothing_but_what_is_moved_changes() -> None:
    run(ScratchMachine, 40, EVENTS)


def keeps_it_all(self: Scratch, sequence: int) -> None:
    """Reset that forgets scratch."""


def keeps_the_table(self: Scratch, sequence: int) -> None:
    """Reset that empties slots and leaves the table."""
    kept = self.table.clone()
    clear(self, sequence)
    self.table.copy_(kept)


def next_slot(self: Scratch, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, side: int) -> torch.Tensor:
    """Look up the slot beside the right one."""
    slot = self.table[b, h, block, side].to(torch.int64) if self.slots else torch.full(b.shape, NOWHERE)
    return torch.where(slot == NOWHERE, NOWHERE, (slot + 1) % max(self.slots, 1))


def other_side(self: Scratch, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, side: int) -> torch.Tensor:
    """Look up keys for values."""
    return self.table[b, h, block, 1 - side].to(torch.int64) if self.slots else torch.full(b.shape, NOWHERE)


def keeps_entries(made: Scratch, slots: torch.Tensor) -> None:
    """Evict without a change of the table."""
    made.holder[slots] = NOWHERE


def shifted(originals: Originals, made: Scratch, moved: torch.Tensor) -> None:
    """Fill the slot beside the one that was reserved, and enter the right one."""
    fill(originals, made, moved)
    made.pool.copy_(made.pool.roll(1, 0))


def enters_nothing_moved(originals: Originals, made: Scratch, moved: torch.Tensor) -> None:
    """Enter what was never copied."""
    kept = made.pool.clone()
    fill(originals, made, moved)
    made.pool.copy_(kept)


fill, clear = scratch.fill, Scratch.clear
PLANTED = [
    (Scratch, "clear", keeps_it_all),
    (Scratch, "clear", keeps_the_table),
    (Scratch, "slot", next_slot),
    (Scratch, "slot", other_side),
    (scratch, "evict", keeps_entries),
    (scratch, "fill", shifted),
    (scratch, "fill", enters_nothing_moved),
]


IDS = [mutant.__name__ for *_, mutant in PLANTED]


@pytest.mark.parametrize(("where", "name", "mutant"), PLANTED, ids=IDS)
def test_the_machine_notices(monkeypatch: pytest.MonkeyPatch, where: object, name: str, mutant: object) -> None:
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        run(ScratchMachine, 100, EVENTS)


def outputs() -> None:
    """Compare what steps return, without a look into scratch: cold, warm, with evictions, and after a reset."""
    made = torch.Generator().manual_seed(1)
    caches = [
        TieredCache(2, 1, 16, 64, torch.float16, values="int4", block=4, scratch_bytes=slots * 128)
        for slots in (0, 5, 200)
    ]
    for tokens in ((60, 40), (60, 0)):
        k, v = torch.randn(2, 2, 60, 1, 16, generator=made).half()
        for cache in caches:
            cache.append(k, v, tokens)
        for _ in range(3):
            q = (2 * torch.randn(2, 2, 16, generator=made)).half()
            steps = [(p := plan(cache, 2, Budget(0.03))).run(q, out=p.step()) for cache in caches]
            for step in steps[1:]:
                require_same(step, steps[0])
        for cache in caches:
            cache.reset(0)


def test_outputs_are_the_same() -> None:
    outputs()


@pytest.mark.parametrize(("where", "name", "mutant"), PLANTED, ids=IDS)
def test_outputs_alone_show_it(monkeypatch: pytest.MonkeyPatch, where: object, name: str, mutant: object) -> None:
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        outputs()
