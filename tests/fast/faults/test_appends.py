"""Checksums are kept by every way to append, and the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import checksum
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.errors import CorruptionError
from certkv.fast.kernels import checksum as kernels
from certkv.fast.plan import plan
from certkv.fast.policies import Naive
from certkv.fast.resident import TAIL

from .scene import BLOCK, HEAD_DIM, KV_HEADS, drawn, flip

QUIET = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]
pytestmark = QUIET
NAMES = ("blocks", "originals", "resident", "lengths")


def new(**more: Any) -> TieredCache:
    return TieredCache(2, KV_HEADS, HEAD_DIM, 40, torch.float16, values="int4", block=BLOCK, **more)


def same(one: TieredCache, other: TieredCache) -> None:
    for name in NAMES:
        assert torch.equal(getattr(one.checksums, name), getattr(other.checksums, name)), name


@pytest.mark.parametrize("interpreted", [False, True])
def test_a_token_at_a_time_and_all_at_once(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded by twins either way, so that annotations are the same bits; checksums by twins or by kernels."""
    if interpreted:
        monkeypatch.setattr(checksum, "write_filled_twin", kernels.write_filled)
        monkeypatch.setattr(checksum, "add_resident_twin", kernels.add_resident)
    k, v = drawn(2, 19)
    whole, pieces, single = new(), new(), new()
    whole.append(k, v)
    for part in (slice(0, 3), slice(3, 12), slice(12, 12), slice(12, 19)):
        pieces.append(k[:, part], v[:, part])
    single.reserve()
    for t in range(19):
        single.append_one(k[:, t], v[:, t])
    single.sync()
    for cache in (pieces, single):
        # pages are another order where sequences fill them in turn
        assert torch.equal(cache.checksums.resident, whole.checksums.resident)
        assert torch.equal(cache.checksums.originals, whole.checksums.originals)
        assert cache.checksums.lengths.tolist() == [19, 19]
        cache.verify(originals=True)
    whole.verify(originals=True)


def test_a_reset_leaves_the_checksums_of_an_empty_cache() -> None:
    cache = new()
    cache.append(*drawn(2, 19))
    flip(cache.resident.keys[0, 1, TAIL], 3)
    cache.reset(0)
    cache.reset(1)
    same(cache, new())
    cache.verify(originals=True)


@pytest.mark.parametrize("single", [False, True])
def test_damage_before_an_append_is_damage_after_it(single: bool) -> None:
    """Of the tail, though its words move on into a block; of the length, though it is written anew."""
    for part in ("values", "checksum"):
        cache = new()
        k, v = drawn(2, 30)
        cache.append(k[:, :11], v[:, :11])
        cache.reserve()
        flip(*((cache.resident.values[0, 1, TAIL, 1], 9) if part == "values" else (cache.checksums.resident[0, 1], 70)))
        for t in range(11, 20):
            if single:
                cache.append_one(k[:, t], v[:, t])
            else:
                cache.append(k[:, t : t + 1], v[:, t : t + 1])
            with pytest.raises(CorruptionError, match=r"sequence 0, KV head 1: .*the tail"):
                cache.verify()


@pytest.mark.parametrize("copy", [False, True])
def test_a_length_that_the_device_knows_first_is_restored_from_what_is_stored(copy: bool) -> None:
    """The host has it from the device, damaged: rung 4 would leave tokens out, and says so instead."""
    cache = new()
    k, v = drawn(2, 19)
    cache.reserve()
    for t in range(19):
        cache.append_one(k[:, t], v[:, t])
    made = plan(cache, KV_HEADS, Naive(), verify="step")
    damaged = cache.checksums.lengths if copy else cache.lengths
    damaged[0] = 17
    step = made.run(torch.randn(2, KV_HEADS, HEAD_DIM).half(), out=made.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, Status.OK]
    for call in (step.check, step.resolve, cache.verify):
        with pytest.raises(CorruptionError, match=r"sequence 0: .*the length"):
            call()
    assert [(d.sequence, d.part) for d in cache.repair()] == [(0, "the length on the device")]
    assert cache.tokens == (19, 19)
    assert cache.lengths.tolist() == cache.checksums.lengths.tolist() == [19, 19]
    step.resolve()
    step.check()
    cache.verify(originals=True)
