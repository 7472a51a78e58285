"""Appending one token at a time on the device leaves what the reference's cache holds; and the comparison can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from certkv.fast import append_one, append_one_host
from certkv.fast.anchor import first_block_mean
from certkv.fast.append_one import Held, Refusals, Work
from certkv.fast.errors import CertkvError
from certkv.fast.pages import PageTable
from certkv.fast.resident import TAIL

from .append_machine import AppendMachine
from .histories import run

Plant = Callable[[pytest.MonkeyPatch], None]


def test_both_caches_are_the_same_under_any_events() -> None:
    run(AppendMachine, 40, 14)


def changed(name: str, change: Callable[..., None]) -> Plant:
    """Let a part of `append_one` be followed by a mistake, which gets its arguments."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real = getattr(append_one, name)

        def wrong(*arguments: Any) -> None:
            real(*arguments)
            change(*arguments)

        patch.setattr(append_one, name, wrong)

    return plant


def the_next_page(*arguments: Any) -> None:
    """A block goes to the page after its own."""
    held, work = arguments[-2:]
    filled = work.page >= 0
    work.page[filled] = (work.page[filled] + 1) % len(held.pool.key_codes)


def anchor_of_every_block(*arguments: Any) -> None:
    """The anchor moves with every block that fills."""
    held, work = arguments[-2:]
    for s in (work.page >= 0).nonzero().flatten().tolist():
        held.anchor[s] = first_block_mean(held.resident.values[s, :, TAIL])


def tail_is_kept(patch: pytest.MonkeyPatch) -> None:
    """The largest norm of the old tail stands for the new one."""
    real = append_one.turn_twin

    def wrong(held: Held, work: Work) -> None:
        norms = held.resident.norms[:, :, TAIL].clone()
        real(held, work)
        held.resident.norms[:, :, TAIL] = norms

    patch.setattr(append_one, "turn_twin", wrong)


def not_present(held: Held, _: Work) -> None:
    held.originals.present.zero_()


def not_kept_behind(held: Held, work: Work) -> None:
    """Originals of the newest block are lost on their way."""
    for s in (work.page >= 0).nonzero().flatten().tolist():
        held.originals.keys[s, :, int(work.place[s]) // held.block] = 0.0


def never_encoded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(append_one, "encode_tails_twin", lambda *_: None)


def nothing_is_refused(patch: pytest.MonkeyPatch) -> None:
    real = append_one.admit_twin

    def wrong(k: torch.Tensor, v: torch.Tensor, *more: Any) -> None:
        real(torch.nan_to_num(k), torch.nan_to_num(v), *more)

    patch.setattr(append_one, "admit_twin", wrong)


def inactive_sequences_too(patch: pytest.MonkeyPatch) -> None:
    real = append_one.admit_twin

    def wrong(k: torch.Tensor, v: torch.Tensor, active: torch.Tensor, held: Held, work: Work) -> None:
        real(torch.nan_to_num(k), torch.nan_to_num(v), torch.ones_like(active), held, work)

    patch.setattr(append_one, "admit_twin", wrong)


def tokens_after_a_gap(patch: pytest.MonkeyPatch) -> None:
    """A refusal is forgotten by the next append."""
    real = append_one.admit_twin

    def wrong(k: Any, v: Any, active: Any, held: Held, work: Work) -> None:
        real(k, v, active, replace(held, refusals=Refusals.none(len(active), k.device)), work)

    patch.setattr(append_one, "admit_twin", wrong)


def one_token_too_many(patch: pytest.MonkeyPatch) -> None:
    real = append_one.admit_twin

    def wrong(k: Any, v: Any, active: Any, held: Held, work: Work) -> None:
        real(k, v, active, replace(held, capacity=held.capacity - 1), work)

    patch.setattr(append_one, "admit_twin", wrong)


def the_host_never_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(append_one_host.OneTokenAppends, "_catch_up", lambda _: None)


def pages_in_use_are_not_known(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageTable, "advance", lambda *_: None)


def reserved_pages_twice(patch: pytest.MonkeyPatch) -> None:
    """An eager append takes free pages where reserved ones wait."""
    patch.setattr(PageTable, "next", lambda self, blocks: self.upcoming(sum(blocks)))


def refusals_after_a_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Refusals, "forget", lambda *_: None)


@pytest.mark.parametrize(
    "plant",
    [
        changed("admit_twin", the_next_page),
        changed("admit_twin", anchor_of_every_block),
        changed("turn_twin", not_present),
        changed("turn_twin", not_kept_behind),
        tail_is_kept,
        never_encoded,
        nothing_is_refused,
        inactive_sequences_too,
        tokens_after_a_gap,
        one_token_too_many,
        the_host_never_asks,
        pages_in_use_are_not_known,
        reserved_pages_twice,
        refusals_after_a_reset,
    ],
)
def test_a_planted_mistake_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, CertkvError, IndexError, pytest.fail.Exception)):
        run(AppendMachine, 400, 14)
