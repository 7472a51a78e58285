"""Scratch changes what is moved, never what is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.cache import HostTier, Scratch
from certkv.reference.errors import HostMissingError

BLOCK, HEAD_DIM, BLOCKS = 2, 3, 6


def host() -> HostTier:
    tier = HostTier(2, BLOCK, HEAD_DIM, np.dtype(np.float16))
    keys = np.arange(BLOCKS * 2 * BLOCK * HEAD_DIM, dtype=np.float16).reshape(BLOCKS, 2, BLOCK, HEAD_DIM)
    tier.append(keys, -keys)
    return tier


@given(
    st.integers(0, 5),
    st.lists(
        st.tuples(
            st.sampled_from(["keys", "values"]),
            st.integers(0, 1),
            st.lists(st.integers(0, BLOCKS - 1), min_size=1, max_size=6, unique=True),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_reads_what_the_host_holds(slots: int, calls: list[tuple[str, int, list[int]]]) -> None:
    """Whatever the pool's size and the order of calls, evictions within a call included."""
    tier = host()
    scratch = Scratch(tier, slots * tier.block_bytes)
    model: list[tuple[str, int, int]] = []  # least recently used first
    for side, kv_head, blocks in calls:
        before = scratch.moved_bytes
        got = scratch.fetch(side, kv_head, np.array(blocks))  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, tier.read(side, kv_head, np.array(blocks)))  # type: ignore[arg-type]
        missed = [b for b in blocks if (side, kv_head, b) not in model]
        assert scratch.moved_bytes - before == len(missed) * tier.block_bytes
        for b in blocks:
            if (side, kv_head, b) in model:
                model.remove((side, kv_head, b))
                model.append((side, kv_head, b))
        model = [*model, *((side, kv_head, b) for b in missed)][-slots:] if slots else []
    assert scratch.bytes == slots * tier.block_bytes


def test_what_is_returned_is_the_callers() -> None:
    """Writing into a result changes neither the pool nor the host tier (defect B8)."""
    tier = host()
    scratch = Scratch(tier, 4 * tier.block_bytes)
    for _ in range(2):
        got = scratch.fetch("keys", 0, np.array([1]))
        got[:] = np.nan
    np.testing.assert_array_equal(scratch.fetch("keys", 0, np.array([1])), tier.read("keys", 0, np.array([1])))


def test_unused_slots_are_poisoned() -> None:
    """A slot that nothing was fetched into holds NaN, so that reading it by mistake cannot pass (defects B1, B4)."""
    tier = host()
    scratch = Scratch(tier, 4 * tier.block_bytes)
    scratch.fetch("keys", 0, np.array([1]))
    assert scratch._pool is not None
    assert np.isnan(scratch._pool[1:]).all()


def test_a_block_in_neither_is_an_error_and_spoils_nothing() -> None:
    tier = host()
    scratch = Scratch(tier, 4 * tier.block_bytes)
    scratch.fetch("keys", 0, np.array([1]))
    tier.lose()
    with pytest.raises(HostMissingError):
        scratch.fetch("keys", 0, np.array([1, 2]))
    got = scratch.fetch("keys", 0, np.array([1]))
    assert got.ravel().tolist() == [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]
