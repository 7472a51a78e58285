"""The life of a cache: append, tail, full block, views of the past, errors that lose nothing."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.cache import Cache
from certkv.reference.cache.cache import SIDES
from certkv.reference.errors import (
    CertkvError,
    DTypeError,
    HostMissingError,
    InputError,
    NonFiniteError,
    SettingError,
    ShapeError,
)
from certkv.reference.formats import OscarKeys
from certkv.reference.formats.registry import register, unregister

KV_HEADS, HEAD_DIM, BLOCK = 2, 8, 4


def draw(tokens: int, seed: int = 0, dtype: object = np.float16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    k, v = rng.standard_normal((2, tokens, KV_HEADS, HEAD_DIM))
    return k.astype(dtype), v.astype(dtype)


def new(**settings: object) -> Cache:
    return Cache(kv_heads=KV_HEADS, head_dim=HEAD_DIM, block=BLOCK, **settings)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_pieces_make_the_same_cache(pieces: list[int]) -> None:
    """However tokens arrive, codes, metadata, annotations, tail and anchor are bit for bit those of one append."""
    k, v = draw(sum(pieces))
    whole, parts = new(), new()
    whole.append(k, v)
    for end, size in zip(np.cumsum(pieces), pieces, strict=True):
        parts.append(k[end - size : end], v[end - size : end])
    assert parts.tokens == whole.tokens == sum(pieces)
    assert parts.blocks == whole.blocks == sum(pieces) // BLOCK
    for side in SIDES:
        np.testing.assert_array_equal(parts.tail(side), whole.tail(side))
        if whole.blocks:
            for name in ("codes", "step", "minimum"):
                one, other = getattr(parts.encoded(side), name), getattr(whole.encoded(side), name)
                assert one.tobytes() == other.tobytes()
    if whole.blocks:
        np.testing.assert_array_equal(parts.anchor(), whole.anchor())
        for one, other in zip(
            parts.value_annotations().arrays().values(), whole.value_annotations().arrays().values(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_block_is_encoded_once() -> None:
    """What is stored for a block never changes again."""
    cache = new()
    k, v = draw(40)
    cache.append(k[:9], v[:9])
    first = [cache.encoded(side).codes[:2].copy() for side in SIDES]
    anchor = cache.anchor().copy()
    cache.append(k[9:], v[9:])
    for before, side in zip(first, SIDES, strict=True):
        np.testing.assert_array_equal(before, cache.encoded(side).codes[:2])
    np.testing.assert_array_equal(anchor, cache.anchor())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_views_give_back_the_originals(dtype: object) -> None:
    """At every position: so many coded blocks, then originals; all of them together are what went in."""
    k, v = draw(19, dtype=dtype)
    cache = new(dtype=dtype)
    cache.append(k, v)
    for position in range(19):
        view = cache.view(1, position)
        assert view.blocks == (position + 1) // BLOCK
        assert view.tail == (position + 1) % BLOCK
        np.testing.assert_array_equal(view.all_originals("keys"), k[: position + 1, 1])
        np.testing.assert_array_equal(view.all_originals("values"), v[: position + 1, 1])
        np.testing.assert_array_equal(
            view.tail_originals("values"), v[view.blocks * BLOCK : position + 1, 1].astype(np.float64)
        )
    assert cache.view(0).tokens == 19


def test_promoted_originals_are_the_right_blocks() -> None:
    k, v = draw(32)
    cache = new(scratch_bytes=3 * BLOCK * HEAD_DIM * 2)
    cache.append(k, v)
    blocks = np.array([6, 0, 3, 1])
    for _ in range(3):
        got = cache.view(1).originals("keys", blocks)
        expected = k[:, 1].reshape(8, BLOCK, HEAD_DIM)[blocks].astype(np.float64)
        np.testing.assert_array_equal(got, expected)


def test_a_refused_append_changes_nothing() -> None:
    cache = new()
    k, v = draw(6)
    cache.append(k, v)
    bad = v.copy()
    bad[5, 1, 3] = np.inf
    with pytest.raises(NonFiniteError, match=r"v\[5, 1, 3\] is inf") as caught:
        cache.append(k, bad)
    assert caught.value.position == (5, 1, 3)
    with pytest.raises(ShapeError, match=r"\[tokens, 2, 8\]"):
        cache.append(k[:, :1], v[:, :1])
    with pytest.raises(ShapeError, match="v has shape"):
        cache.append(k, v[:3])
    with pytest.raises(DTypeError, match="float32, but float16 is expected"):
        cache.append(k.astype(np.float32), v.astype(np.float32))
    assert cache.tokens == 6
    np.testing.assert_array_equal(cache.view(0).all_originals("keys"), k[:, 0])


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="int8-paper"):
        new(keys="int9")
    with pytest.raises(SettingError, match="block is 0"):
        Cache(kv_heads=1, head_dim=8, block=0)
    with pytest.raises(SettingError, match="scratch_bytes"):
        new(scratch_bytes=-1)
    with pytest.raises(SettingError, match="float16 or bfloat16"):
        new(dtype="float32")


def test_groups_longer_than_the_block_are_refused() -> None:
    """Whether the block was given or is the format's own; groups of 32 are shorter in short blocks, as documented."""
    mine = OscarKeys("mine", group=96)
    register(mine)
    try:
        with pytest.raises(SettingError, match="block is 64, but keys 'mine' have groups of 96 tokens; give block=96"):
            Cache(kv_heads=1, head_dim=8, keys="mine")
        assert Cache(kv_heads=1, head_dim=8, keys="mine", block=96).block == 96
    finally:
        unregister("mine")
    for keys, block in (("oscar-g128", 127), ("oscar-4-g128", 64), ("oscar-g64", 16)):
        with pytest.raises(SettingError, match=f"block is {block}, but keys '{keys}' have groups of"):
            Cache(kv_heads=1, head_dim=8, keys=keys, block=block)
    assert Cache(kv_heads=1, head_dim=8, keys="oscar-g128").block == 128
    assert Cache(kv_heads=1, head_dim=8, keys="oscar", block=16).block == 16


def test_positions_outside_are_refused() -> None:
    cache = new()
    with pytest.raises(InputError, match="empty"):
        cache.view(0)
    cache.append(*draw(5))
    for position in (-1, 5):
        with pytest.raises(InputError, match="positions 0 to 4"):
            cache.view(0, position)


def test_reset_forgets_everything() -> None:
    cache = new()
    cache.append(*draw(9, seed=1))
    first = cache.anchor().copy()
    cache.reset()
    assert cache.tokens == 0
    cache.append(*draw(9, seed=2))
    assert (cache.anchor() != first).any()


@pytest.mark.parametrize("lost", [(None, None), (1, None), (None, 2), (1, 2)])
def test_a_lost_original_is_an_error(lost: tuple[int | None, int | None]) -> None:
    """Never another block, never zeros (defects B1, B5)."""
    cache = new()
    cache.append(*draw(16))
    cache.host.lose(*lost)
    with pytest.raises(HostMissingError, match="block 2, KV head 1") as caught:
        cache.view(1).originals("values", np.array([2]))
    assert (caught.value.kv_head, caught.value.block) == (1, 2)
    with pytest.raises(HostMissingError):
        cache.view(1).all_originals("keys")


def test_a_block_never_stored_is_an_error() -> None:
    cache = new()
    cache.append(*draw(16))
    for block in (4, -1):
        with pytest.raises(HostMissingError):
            cache.view(1).originals("values", np.array([block]))


@pytest.mark.parametrize("failing", ["encode", "host"])
def test_an_append_that_fails_changes_nothing(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out anywhere: an append happens whole or not at all."""
    k, v = draw(30)
    cache, untouched = new(), new()
    for one in (cache, untouched):
        one.append(k[:6], v[:6])

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        if failing == "encode":
            patch.setattr("certkv.reference.cache.cache.annotate_values", no_memory)
        else:
            patch.setattr(cache.host, "append", no_memory)
        with pytest.raises(MemoryError):
            cache.append(k[6:], v[6:])
    for one in (cache, untouched):
        one.append(k[6:], v[6:])
    assert cache.tokens == 30
    np.testing.assert_array_equal(cache.anchor(), untouched.anchor())
    for side in SIDES:
        np.testing.assert_array_equal(cache.encoded(side).codes, untouched.encoded(side).codes)
        np.testing.assert_array_equal(cache.view(1).all_originals(side), untouched.view(1).all_originals(side))


def test_a_host_append_that_fails_stores_neither_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second side runs out of memory: the first must not be there without it."""
    cache = new()
    k, v = draw(8)
    cache.append(k[:4], v[:4])
    blocks = k[4:].reshape(1, BLOCK, KV_HEADS, HEAD_DIM).transpose(0, 2, 1, 3)
    real, calls = np.concatenate, []

    def second_fails(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(*arguments, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(np, "concatenate", second_fails)
        with pytest.raises(MemoryError):
            cache.host.append(blocks, blocks)
    for side in SIDES:
        with pytest.raises(HostMissingError):
            cache.host.read(side, 0, np.array([1]))


def test_what_is_not_a_plain_array_is_refused() -> None:
    """A masked array hides elements from every check; a list has no dtype."""
    k, v = draw(5)
    masked: Any = np.ma.MaskedArray(v, mask=np.arange(v.size).reshape(v.shape) == 7)  # type: ignore[no-untyped-call]
    for bad in (masked, v.tolist()):
        with pytest.raises(DTypeError, match="plain NumPy array"):
            new().append(k, bad)


def test_sizes_are_whole_numbers() -> None:
    """A uint8 block would wrap around at 256 tokens."""
    cache = Cache(kv_heads=KV_HEADS, head_dim=HEAD_DIM, block=np.uint8(200))  # type: ignore[arg-type]
    k, v = draw(450)
    cache.append(k, v)
    assert cache.tokens == 450
    assert cache.view(0, np.uint8(249)).tokens == 250  # type: ignore[arg-type]
    for bad in (2.0, True, "4", np.array([4])):
        with pytest.raises(SettingError, match="whole number"):
            Cache(kv_heads=KV_HEADS, head_dim=HEAD_DIM, block=bad)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="position"):
        cache.view(0, True)


def test_the_cache_owns_what_it_holds() -> None:
    """Writing into the arrays after an append changes nothing."""
    k, v = draw(7)
    kept = k.copy(), v.copy()
    cache = new()
    cache.append(k, v)
    k[:], v[:] = 0, 0
    np.testing.assert_array_equal(cache.view(1).all_originals("keys"), kept[0][:, 1])
    np.testing.assert_array_equal(cache.view(1).all_originals("values"), kept[1][:, 1])


def test_a_shallow_copy_is_refused() -> None:
    """It would append to the same host tier; a deep copy goes its own way."""
    cache = new()
    k, v = draw(20)
    cache.append(k[:8], v[:8])
    with pytest.raises(SettingError, match="deepcopy"):
        copy.copy(cache)
    fork = copy.deepcopy(cache)
    fork.append(k[12:], v[12:])
    cache.append(k[8:12], v[8:12])
    np.testing.assert_array_equal(cache.view(0).all_originals("keys"), k[:12, 0])
    np.testing.assert_array_equal(fork.view(0).all_originals("keys"), np.concatenate([k[:8], k[12:]])[:, 0])


def test_a_host_tier_out_of_step_is_noticed() -> None:
    """Blocks in one place and not in the other: an error, never another block's originals."""
    cache = new()
    k, v = draw(16)
    cache.append(k[:8], v[:8])
    blocks = k[8:12].reshape(1, BLOCK, KV_HEADS, HEAD_DIM).transpose(0, 2, 1, 3)
    cache.host.append(blocks, blocks)
    with pytest.raises(CertkvError, match="3 blocks beside 2"):
        cache.append(k[8:12], v[8:12])
    with pytest.raises(HostMissingError, match="block 3"):
        cache.host.read("keys", 0, slice(0, 4))


def test_the_tail_is_read_only_and_heads_are_counted_from_zero() -> None:
    cache = new()
    cache.append(*draw(6))
    with pytest.raises(ValueError, match="read-only"):
        cache.tail("keys")[0] = 0
    for head in (-1, KV_HEADS):
        with pytest.raises(InputError, match="KV heads 0 to 1"):
            cache.view(head)
