"""The paged cache holds what the reference's holds, under any events; and the comparison can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from certkv.fast import append, cache, encode, resident
from certkv.fast.anchor import first_block_mean
from certkv.fast.cache import TieredCache
from certkv.fast.errors import NonFiniteError
from certkv.fast.host import Originals
from certkv.fast.numbers import row_norms
from certkv.fast.pages import PageTable
from certkv.fast.pool import Pool
from certkv.fast.resident import Resident

from .cache_machine import CacheMachine
from .histories import run

Plant = Callable[[pytest.MonkeyPatch], None]


def test_both_caches_are_the_same_under_any_events() -> None:
    run(CacheMachine, 40, 12)


def pages_of_another_block(patch: pytest.MonkeyPatch) -> None:
    real = PageTable.assign
    patch.setattr(PageTable, "assign", lambda self, s, pages: real(self, s, pages[::-1]))


def tail_one_place_too_far(patch: pytest.MonkeyPatch) -> None:
    def growing(self: append.Split) -> tuple[list[int], list[int], list[int]]:
        sequences, sources, places = real(self)
        return sequences, sources, [(place + 1) % self.block for place in places]

    real = append.Split.growing
    patch.setattr(append.Split, "growing", growing)


def tail_from_the_start_of_what_is_new(patch: pytest.MonkeyPatch) -> None:
    """What is left after a block has filled is taken from the wrong end."""

    def left(self: append.Split, sequence: int) -> slice:
        right = real(self, sequence)
        return slice(0, right.stop - right.start)

    real = append.Split.left
    patch.setattr(append.Split, "left", left)


def old_tail_forgotten(patch: pytest.MonkeyPatch) -> None:
    def assemble(new: torch.Tensor, tail: torch.Tensor, plan: append.Split, sequence: int) -> torch.Tensor:
        return real(new, torch.zeros_like(tail), plan, sequence)

    real = append.assemble
    patch.setattr(cache, "assemble", assemble)


def anchor_of_the_newest_block(patch: pytest.MonkeyPatch) -> None:
    """Every append that fills a block moves the anchor, under annotations that were measured against the old one."""

    def moved(self: TieredCache, k: Any, v: torch.Tensor, plan: append.Split, pages: list[int]) -> torch.Tensor:
        anchor = real(self, k, v, plan, pages)
        for s in plan.filling:
            anchor[s] = first_block_mean(append.assemble(v, self.resident.tails(s)[1], plan, s)[-1])
        return anchor

    real = TieredCache._encode
    patch.setattr(TieredCache, "_encode", moved)


def annotated_about_zero(patch: pytest.MonkeyPatch) -> None:
    def about_zero(values: Any, pages: Any, pool: Any, anchor: torch.Tensor, fmt: Any) -> None:
        real(values, pages, pool, torch.zeros_like(anchor), fmt)

    real = encode.encode_values
    patch.setattr(cache, "encode_values", about_zero)


def heads_swapped_on_the_host(patch: pytest.MonkeyPatch) -> None:
    def write(self: Originals, s: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        real(self, s, start, keys.flip(1), values.flip(1))

    real = Originals.write
    patch.setattr(Originals, "write", write)


def lost_but_marked_present(patch: pytest.MonkeyPatch) -> None:
    def lose(self: Originals, *where: int | None) -> None:
        kept = self.present.clone()
        real(self, *where)
        self.present.copy_(kept)

    real = Originals.lose
    patch.setattr(Originals, "lose", lose)


def never_marked_present(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Originals, "mark", lambda *_: None)


def freed_pages_readable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "poison", lambda *_: None)


def freed_originals_present(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Originals, "erase", lambda *_: None)


def old_tail_after_a_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Resident, "clear", lambda *_: None)


def nothing_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache, "require_finite", lambda *_, **__: None)


def norms_to_nearest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resident, "norms_ub", lambda values: row_norms(values.double()).float())


def norm_of_the_tail_kept(patch: pytest.MonkeyPatch) -> None:
    """After a block has filled, the largest norm of the old tail still stands for the new one."""

    def after(self: Resident, k: torch.Tensor, v: torch.Tensor, plan: append.Split, *more: Any) -> torch.Tensor:
        norms = real(self, k, v, plan, *more)
        for s in plan.filling:
            norms[s, :, 1] = torch.maximum(norms[s, :, 1], self.norms[s, :, 1])
        return norms

    real = Resident.norms_after
    patch.setattr(Resident, "norms_after", after)


def one_sequence_for_all(patch: pytest.MonkeyPatch) -> None:
    """Ragged lengths are taken for the longest."""

    def checked(self: TieredCache, k: Any, v: Any, lengths: Sequence[int] | None) -> list[int]:
        return [max(real(self, k, v, lengths))] * self.batch

    real = TieredCache._checked
    patch.setattr(TieredCache, "_checked", checked)


@pytest.mark.parametrize(
    "plant",
    [
        pages_of_another_block,
        tail_one_place_too_far,
        tail_from_the_start_of_what_is_new,
        norm_of_the_tail_kept,
        old_tail_forgotten,
        anchor_of_the_newest_block,
        annotated_about_zero,
        heads_swapped_on_the_host,
        lost_but_marked_present,
        never_marked_present,
        freed_pages_readable,
        freed_originals_present,
        old_tail_after_a_reset,
        nothing_is_refused,
        norms_to_nearest,
        one_sequence_for_all,
    ],
)
def test_a_planted_mistake_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, NonFiniteError, pytest.fail.Exception)):
        run(CacheMachine, 120, 16)
