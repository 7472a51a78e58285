"""Checksums are kept by every way to append, and the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import checksum
from certkv.fast.cache import TieredCache
from certkv.fast.errors import CorruptionError
from certkv.fast.kernels import checksum as kernels
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
