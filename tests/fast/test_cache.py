"""The cache by itself: what an append refuses, what it leaves alone when it fails, what it says it takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from certkv.fast import cache as module
from certkv.fast.cache import TieredCache
from certkv.fast.errors import CapacityError, DTypeError, InputError, NonFiniteError, SettingError, ShapeError
from certkv.fast.host import Originals
from certkv.fast.numbers import row_norms
from certkv.fast.resident import NORMS, Resident

BATCH, KV_HEADS, HEAD_DIM, BLOCK = 2, 2, 8, 4


def new(capacity: int = 22, **settings: Any) -> TieredCache:
    used: dict[str, Any] = {"dtype": torch.float16, "block": BLOCK} | settings
    return TieredCache(BATCH, KV_HEADS, HEAD_DIM, capacity, **used)


def draw(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, BATCH, tokens, KV_HEADS, HEAD_DIM, generator=made).to(dtype)
    return k, v


def tensors(part: object, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """All tensors that an object holds, each once."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, dict | list | tuple):
        for item in part.values() if isinstance(part, dict) else part:
            yield from tensors(item, seen)
    elif hasattr(part, "__dict__"):
        yield from tensors(vars(part), seen)


def state(cache: TieredCache) -> list[bytes]:
    """Everything that the cache holds, as bytes; NaN equal to itself."""
    held = [t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors(cache)]
    return [*held, repr((cache.tokens, [cache.pages.pages(s) for s in range(cache.batch)], cache.pages.free)).encode()]


@pytest.mark.parametrize("originals", ["host", "device"])
@pytest.mark.parametrize("values", ["int8", "int4", "int8-g64", "int4-g32"])
def test_memory_is_counted_to_the_byte(originals: Any, values: str) -> None:
    cache = new(originals=originals, values=values)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(cache)}
    table = cache.memory()
    assert sum(storages.values()) == table.device + table.host
    behind = cache.originals.keys.nbytes + cache.originals.values.nbytes
    assert table.host == (behind if originals == "host" else 0)
    assert table.dense == BATCH * 22 * KV_HEADS * HEAD_DIM * 4
    assert table.peak is None
    assert f"{table.device:,}" in str(table)


def test_appending_allocates_nothing_that_stays() -> None:
    """Every tensor is where it was: captured graphs hold on to it."""
    cache = new()
    before = [t.data_ptr() for t in tensors(cache)]
    cache.append(*draw(9))
    cache.append(*draw(5), lengths=[5, 0])
    cache.reset(0)
    assert [t.data_ptr() for t in tensors(cache)] == before


def test_a_refused_append_changes_nothing() -> None:
    cache = new()
    k, v = draw(6)
    cache.append(k, v)
    before = state(cache)
    listed: Any = v.tolist()
    bad = v.clone()
    bad[1, 5, 1, 3] = float("inf")
    bad[1, 5, 1, 4] = float("nan")
    with pytest.raises(NonFiniteError, match=r"v\[1, 5, 1, 3\] is not finite") as caught:
        cache.append(k, bad)
    assert (caught.value.tensor, caught.value.position) == ("v", (1, 5, 1, 3))
    with pytest.raises(ShapeError, match=r"k has shape \[2, 6, 1, 8\], but \[2, tokens, 2, 8\] is expected"):
        cache.append(k[:, :, :1], v)
    with pytest.raises(ShapeError, match="v has 3 tokens, but k has 6"):
        cache.append(k, v[:, :3])
    with pytest.raises(DTypeError, match="k has dtype float32, but float16 is expected"):
        cache.append(k.float(), v)
    with pytest.raises(DTypeError, match="v is a list"):
        cache.append(k, listed)
    with pytest.raises(DTypeError, match="k is on meta, but the cache is on cpu"):
        cache.append(k.to("meta"), v)
    with pytest.raises(CapacityError, match=r"22 tokens per sequence \(sequence 1: 6 \+ 17\)"):
        cache.append(*draw(17), lengths=[16, 17])
    assert state(cache) == before


def test_all_reasons_are_given_at_once() -> None:
    cache = new()
    k, v = draw(6)
    with pytest.raises(InputError) as caught:
        cache.append(k.float(), v[:, :, :1])
    assert "k has dtype float32" in str(caught.value)
    assert "v has shape" in str(caught.value)
    with pytest.raises(InputError, match=r"(?s)lengths\[0\] is 7; give 0 to 6.*lengths\[1\] is -1"):
        cache.append(k, v, lengths=[7, -1])
    with pytest.raises(SettingError, match=r"lengths\[1\] is 1.5; give a whole number"):
        cache.append(k, v, lengths=[1, 1.5])  # type: ignore[list-item]
    with pytest.raises(ShapeError, match="lengths has 1 numbers, but there are 2 sequences"):
        cache.append(k, v, lengths=torch.tensor([1]))
    with pytest.raises(SettingError) as setting:
        TieredCache(0, 1, 8, 16, torch.float32, keys="int9", values="int4-g16", originals="disk")  # type: ignore[arg-type]
    for reason in ("batch is 0", "dtype is torch.float32", "'int9'", "'int4-g16'", "'disk'"):
        assert reason in str(setting.value)
    with pytest.raises(SettingError, match="lengths is 5; give a number of tokens for each sequence"):
        cache.append(k, v, lengths=5)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="residual is 256; blocks are encoded one by one here, so give block=256"):
        TieredCache(1, 1, 8, 512, torch.float16, keys="oscar", values="oscar", residual=256)
    for residual, message in ((0, "residual is 0; give at least 1"), ("x", "residual is 'x'; give a whole number")):
        with pytest.raises(SettingError) as setting:
            TieredCache(1, 1, 8, 512, torch.float16, residual=residual)  # type: ignore[arg-type]
        assert str(setting.value) == message
    with pytest.raises(SettingError, match=r"unknown key format \['oscar'\]"):
        TieredCache(1, 1, 8, 512, torch.float16, keys=["oscar"])  # type: ignore[arg-type]
    assert TieredCache(1, 1, 8, 512, torch.float16, keys="oscar", values="oscar", block=128, residual=128).block == 128
    assert cache.tokens == (0, 0)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (module, "encode_keys", 1),
        (module, "encode_keys", 2),
        (module, "encode_values", 1),
        (module, "encode_values", 2),
        (module, "first_block_mean", 2),
        (Originals, "write", 2),
        (Resident, "norms_after", 1),
        (Resident, "grow", 1),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_append_that_fails_changes_nothing(
    owner: Any, name: str, call: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may run out anywhere: an append happens whole or not at all, and leaves no trace in what is free."""
    cache, untouched = (TieredCache(3, KV_HEADS, HEAD_DIM, 22, torch.float16, block=BLOCK) for _ in range(2))
    first, second = (torch.cat([x, x[:1]]) for x in draw(9))
    # two sequences fill blocks, their first one and others, and one grows its tail
    for one in (cache, untouched):
        one.append(first, second, lengths=[3, 1, 3])
    before = state(cache)
    real, calls = getattr(owner, name), []

    def fails(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call and not late:
            raise MemoryError
        result = real(*arguments)
        if len(calls) == call:
            raise MemoryError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        with pytest.raises(MemoryError):
            cache.append(second, first, lengths=[9, 2, 6])
    assert state(cache) == before
    for one in (cache, untouched):
        one.append(second, first, lengths=[9, 2, 6])
    assert state(cache) == state(untouched)


def test_padding_is_never_read() -> None:
    one, other = new(), new()
    k, v = draw(9)
    for x in (k, v):
        x[0, 5:] = float("nan")
    one.append(k, v, lengths=[5, 9])
    other.append(
        torch.where(torch.isnan(k), 7.0, k), torch.where(torch.isnan(v), -7.0, v), lengths=torch.tensor([5, 9])
    )
    assert state(one) == state(other)
    assert one.lengths.tolist() == [5, 9]
    with pytest.raises(NonFiniteError):
        new().append(k, v, lengths=[6, 9])


@pytest.mark.parametrize("made_in", [False, True])
@pytest.mark.parametrize("used_in", [False, True])
def test_inference_mode_may_come_and_go(made_in: bool, used_in: bool) -> None:
    with torch.inference_mode(made_in):
        cache = new()
        k, v = draw(7)
    with torch.inference_mode(used_in):
        cache.append(k, v)
    cache.append(k.clone().requires_grad_(), v.clone())
    cache.reset(1)
    assert cache.tokens == (14, 0)
    assert not any(t.requires_grad for t in tensors(cache))


def test_sequences_share_pages_until_there_are_none() -> None:
    cache = new(pages=4)
    k, v = draw(12)
    cache.append(k, v, lengths=[12, 7])
    before = state(cache)
    with pytest.raises(CapacityError, match="1 pages are needed and 0 are free"):
        cache.append(k, v, lengths=[0, 1])
    assert state(cache) == before
    cache.reset(0)
    cache.append(k, v, lengths=[0, 1])
    assert cache.tokens == (0, 8)


def test_a_reset_leaves_nothing_behind() -> None:
    """Pages, tails and originals are poisoned again, and other sequences are as they were."""
    cache, alone = new(), new()
    k, v = draw(11)
    cache.append(k, v)
    alone.append(k, v, lengths=[0, 11])
    cache.reset(0)
    assert cache.tokens == (0, 11)
    fresh = new()
    for name, tensor in fresh.pool.tensors().items():
        free = cache.pages.upcoming(cache.pages.free)
        assert torch.equal(getattr(cache.pool, name)[free].isnan(), tensor[free].isnan()), name
        assert torch.equal(getattr(cache.pool, name)[free].nan_to_num(), tensor[free].nan_to_num()), name
    for mine, theirs in ((cache.resident, alone.resident), (cache.originals, alone.originals)):
        for name, tensor in vars(theirs).items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(getattr(mine, name).nan_to_num(99.0), tensor.nan_to_num(99.0)), name
    assert torch.equal(cache.anchor, alone.anchor)
    with pytest.raises(InputError, match="sequences 0 to 1"):
        cache.reset(2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resident_norms_bound_the_originals_tightly(dtype: torch.dtype) -> None:
    """At least the norm in float64, and at most one rounding to FP32 (2**-23) above it, up to float64 rounding.

    A sum of n such numbers has n - 1 more roundings to nearest, and their mean one more.
    """
    cache, at_once = new(dtype=dtype), new(dtype=dtype)
    k, v = draw(7, dtype=dtype)
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        cache.append(k[:, part], v[:, part])
    at_once.append(k, v)
    assert torch.equal(cache.resident.norms, at_once.resident.norms)
    keys, values = (row_norms(x.double()).transpose(1, 2) for x in (k, v))
    held = cache.resident.norms.double()
    for slot, part in enumerate((slice(0, 4), slice(4, 7))):
        for name, norms in (("largest_value", values), ("largest_key", keys)):
            largest, found = norms[..., part].amax(-1), held[:, :, slot, NORMS.index(name)]
            assert (found >= largest).all()
            assert (found <= largest * (1 + 2.0**-22)).all()
        count = part.stop - part.start
        mean, total = (held[:, :, slot, NORMS.index(name)] for name in ("mean_value", "sum_of_values"))
        for found, exact in ((total, values[..., part].sum(-1)), (mean, values[..., part].mean(-1))):
            assert (found >= exact * (1 - count * 2.0**-24)).all()
            assert (found <= exact * (1 + 2.0**-22) * (1 + count * 2.0**-23)).all()


def test_nothing_of_the_input_is_held() -> None:
    cache, untouched = new(), new()
    k, v = draw(7)
    untouched.append(k.clone(), v.clone())
    cache.append(k, v)
    k.fill_(1)
    v.fill_(1)
    assert state(cache) == state(untouched)


def test_a_shallow_copy_is_refused() -> None:
    with pytest.raises(SettingError, match="share pages"):
        copy.copy(new())


@pytest.mark.parametrize("settings", [{"scratch_bytes": 5}, {"device": "cuda"}, {"device": "nowhere"}, {"pages": 0}])
def test_other_settings_are_checked(settings: dict[str, Any]) -> None:
    if settings == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingError, match=next(iter(settings))):
        new(**settings)


def test_large_appends_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin works in float64; how much it takes at once changes nothing."""
    whole, parts = new(), new()
    whole.append(*draw(22))
    monkeypatch.setattr(module, "_ENCODED_AT_ONCE", 2 * KV_HEADS * BLOCK * HEAD_DIM)
    parts.append(*draw(22))
    assert state(whole) == state(parts)
