"""One token per sequence on the device alone: the same bits as an append, by twins and by kernels; and what it says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from certkv.fast import append_one as module
from certkv.fast import cache as cache_module
from certkv.fast.append_one import Held, Work
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.errors import (
    CapacityError,
    CaptureError,
    DTypeError,
    InputError,
    NonFiniteError,
    SettingError,
    ShapeError,
)
from certkv.fast.formats import VALUE_FORMATS
from certkv.fast.kernels import append_one as kernels
from certkv.fast.kernels import encode_keys as key_kernels
from certkv.fast.kernels import encode_values as value_kernels
from certkv.fast.kernels import finish as finish_kernel
from certkv.fast.plan import plan
from certkv.fast.policies import Budget, Naive, PaperPolicy
from certkv.fast.step import Step

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

BATCH, KV_HEADS, HEAD_DIM, BLOCK = 2, 2, 8, 4


def new(capacity: int = 22, **settings: Any) -> TieredCache:
    used: dict[str, Any] = {"dtype": torch.float16, "block": BLOCK, "head_dim": HEAD_DIM} | settings
    return TieredCache(BATCH, KV_HEADS, capacity=capacity, **used)


def draw(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float16, d: int = HEAD_DIM) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return list(torch.randn(2, BATCH, tokens, KV_HEADS, d, generator=made).to(dtype))


def one(cache: TieredCache, k: torch.Tensor, v: torch.Tensor) -> None:
    """Append tokens [batch, tokens, kv_heads, head_dim] one by one."""
    for t in range(k.shape[1]):
        cache.append_one(k[:, t], v[:, t])


def tensors(part: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """All tensors that an object holds, each once."""
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


def state(cache: TieredCache, everything: bool = True) -> list[bytes]:
    """What the cache holds, as bytes, with what it takes to append; everything else where that is not wanted."""
    kept = cache._work
    if not everything:
        cache._work = None
    held = [t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors(cache, set())]
    cache._work = kept
    return [*held, repr((cache.tokens, [cache.pages.pages(s) for s in range(cache.batch)])).encode()]


@pytest.fixture(params=["twins", "kernels"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations; the eager append encodes by the same one, so that annotations are comparable."""
    if request.param == "kernels":
        monkeypatch.setattr(module, "admit_twin", kernels.admit)
        monkeypatch.setattr(module, "turn_twin", kernels.turn)
        monkeypatch.setattr(module, "encode_tails_twin", encode_by_kernels)
        monkeypatch.setattr(cache_module, "encode_keys", key_kernels.encode_keys)
        monkeypatch.setattr(cache_module, "encode_values", value_kernels.encode_values)
    return str(request.param)


def encode_by_kernels(held: Held, work: Work) -> None:
    """What `append_one` does on a GPU."""
    keys, values = held.resident.keys[:, :, 1], held.resident.values[:, :, 1]
    key_kernels.encode_keys(keys, work.page, held.pool)
    value_kernels.encode_values(values, work.page, held.pool, held.anchor, VALUE_FORMATS[held.values])


@pytest.mark.parametrize(
    ("values", "dtype", "block", "d", "place"),
    [
        ("int4-g32", torch.float16, 4, 8, "host"),
        ("int8", torch.bfloat16, 5, 40, "device"),
        ("int4", torch.bfloat16, 1, 8, "host"),
        ("int8-g64", torch.float16, 17, 72, "device"),
    ],
)
def test_the_same_bits_as_an_append(path: str, values: str, dtype: torch.dtype, block: int, d: int, place: str) -> None:
    """Codes, metadata, annotations, originals, tails, norms, anchors and tables: everything."""
    settings = {"values": values, "dtype": dtype, "block": block, "head_dim": d, "originals": place}
    ours, theirs = (new(3 * block + 2, **settings) for _ in range(2))
    k, v = draw(3 * block + 2, 1, dtype, d)
    k[:, :, 0] *= 100.0
    first = block // 2
    for cache in (ours, theirs):
        cache.append(k[:, :first], v[:, :first])
        cache.reserve()
    one(ours, k[:, first : 2 * block + 1], v[:, first : 2 * block + 1])
    ours.append(k[:, 2 * block + 1 :], v[:, 2 * block + 1 :])
    theirs.append(k[:, first:], v[:, first:])
    assert ours.tokens == (3 * block + 2,) * BATCH
    assert state(ours, False) == state(theirs, False)


def test_some_sequences_only(path: str) -> None:
    """What stands where a sequence is not active is never looked at; ragged lengths cross blocks apart."""
    ours, theirs = new(), new()
    k, v = draw(12)
    ours.append(k, v, lengths=[2, 7])
    ours.reserve()
    theirs.append(k, v, lengths=[2, 7])
    theirs.reserve()
    for t in range(10):
        active = torch.tensor([t % 3 != 0, t % 2 == 0])
        new_k, new_v = (x[:, t].masked_fill(~active[:, None, None], torch.nan) for x in (k, v))
        ours.append_one(new_k, new_v, active if t % 4 else active.to(torch.uint8))
        theirs.append(k[:, t : t + 1], v[:, t : t + 1], lengths=active.to(torch.int64))
    ours.sync()
    assert ours.tokens == (8, 12)
    assert state(ours, False) == state(theirs, False)


def test_strides_do_not_matter(path: str) -> None:
    ours, theirs = new(), new()
    k, v = draw(1)
    for cache in (ours, theirs):
        cache.reserve()
    ours.append_one(k[:, 0].transpose(1, 2).contiguous().transpose(1, 2), torch.cat([v, v])[::2, 0])
    theirs.append_one(k[:, 0], torch.cat([v, v])[::2, 0].clone())
    assert state(ours) == state(theirs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_refused(path: str, bad: float, dtype: torch.dtype) -> None:
    """With its place; its sequence stays as it was until the host has seen it, and others do not."""
    ours, theirs = (new(dtype=dtype) for _ in range(2))
    k, v = draw(9, dtype=dtype)
    for cache in (ours, theirs):
        cache.append(k[:, :3], v[:, :3])
        cache.reserve()
    wrong = v[:, 3].clone()
    wrong[1, 1, 5:] = bad
    ours.append_one(k[:, 3], wrong)  # would fill a block of both
    ours.append_one(k[:, 4], v[:, 4])
    assert ours.refusals.status.tolist() == [Status.OK, Status.NONFINITE_VALUE]
    assert ours.refusals.position.tolist() == [-1, HEAD_DIM + 5]
    with pytest.raises(NonFiniteError, match=r"v\[1, 1, 5\]") as caught:
        ours.sync()
    assert (caught.value.tensor, caught.value.position) == ("v", (1, 1, 5))
    theirs.append(k[:, 3:5], v[:, 3:5], lengths=[2, 0])
    assert ours.tokens == (5, 3)
    assert state(ours, False) == state(theirs, False)
    both = k[:, 5].clone()
    both[0, 0, 1], both[0, 0, 0] = bad, bad
    ours.append_one(both, wrong)
    assert ours.refusals.status.tolist() == [Status.NONFINITE_KEY, Status.NONFINITE_VALUE]
    with pytest.raises(NonFiniteError, match=r"k\[0, 0, 0\]"):
        ours.append(k[:, 5:], v[:, 5:])
    ours.reset(1)
    ours.sync()


def test_no_room_and_no_page(path: str) -> None:
    """Capacity 6 and blocks of 4: the last two stay in the tail; without a page a block does not fill."""
    cache = new(6)
    k, v = draw(8)
    cache.reserve([4, 0])
    one(cache, k[:, :5], v[:, :5])
    assert cache.refusals.status.tolist() == [Status.OK, Status.CAPACITY]
    assert cache.refusals.position.tolist() == [-1, -1]
    with pytest.raises(CapacityError, match="sequence 1 had no room"):
        cache.sync()
    assert cache.tokens == (5, 3)
    before = state(cache, False)
    cache.append_one(k[:, 5], v[:, 5], torch.tensor([False, True]))
    assert int(cache.refusals.status[1]) == Status.CAPACITY
    cache.refusals.forget(1)
    assert state(cache, False) == before
    cache.reserve()
    one(cache, k[:, 5:], v[:, 5:])
    with pytest.raises(CapacityError, match="sequence 0"):
        cache.sync()
    cache.sync()
    assert cache.tokens == (6, 6)


def test_reserving_is_whole_or_not_at_all() -> None:
    cache = new(pages=6)
    cache.reserve([8, 4])
    assert [cache.pages.reserved(s) for s in range(2)] == [[0, 1], [2]]
    table = cache.pages.table.clone()
    with pytest.raises(CapacityError, match="7 pages are needed and 3 are free"):
        cache.reserve()
    with pytest.raises(CapacityError, match="22 tokens per sequence, not 23"):
        cache.reserve([8, 23])
    with pytest.raises(ShapeError, match="tokens has 1 numbers, but there are 2"):
        cache.reserve([8])
    for wrong in ([8, 1.5], "many", [8, -1]):
        with pytest.raises((SettingError, ShapeError)):
            cache.reserve(wrong)  # type: ignore[arg-type]
    assert torch.equal(cache.pages.table, table)
    k, v = draw(12)
    cache.append(k, v, lengths=[12, 0])  # two reserved pages and a free one
    assert [cache.pages.pages(0), cache.pages.reserved(0), cache.pages.free] == [[0, 1, 3], [], 2]
    cache.reset(0)
    assert (cache.pages.pages(0), cache.pages.reserved(0), cache.pages.free) == ([], [], 5)
    assert (cache.pages.table[0] == -1).all()


def test_arguments_are_checked() -> None:
    cache = new()
    k, v = (x[:, 0] for x in draw(1))
    with pytest.raises(SettingError, match=r"call cache\.reserve\(\)"):
        cache.append_one(k, v)
    cache.reserve()
    before = state(cache)
    for wrong, kind, match in (
        ((k[:1], v), ShapeError, r"k has shape \[1, 2, 8\]"),
        ((k, v.float()), DTypeError, "v has dtype float32"),
        ((k, v, torch.ones(3, dtype=torch.bool)), ShapeError, r"active has shape \[3\]"),
        ((k, v, torch.ones(2)), DTypeError, "active has dtype float32"),
        ((k, v, [1, 1]), DTypeError, "active is a list; give a torch tensor"),
        ((k.tolist(), v), DTypeError, "k is a list"),
        ((k, None), DTypeError, "v is a NoneType"),
        ((k[0], v[0, 0], torch.ones(2, dtype=torch.int64)), InputError, "(?s)k has.*v has.*active has"),
    ):
        with pytest.raises(kind, match=match):
            cache.append_one(*wrong)
    assert state(cache) == before
    assert cache.tokens == (0, 0)


def test_memory_is_counted_to_the_byte() -> None:
    cache = new()
    cache.reserve()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(cache, set())}
    table = cache.memory()
    assert sum(storages.values()) == table.device + table.host
    assert "append without the host" in str(table)


def test_appending_allocates_nothing_that_stays() -> None:
    """Every tensor is where it was: captured graphs hold on to it."""
    cache = new()
    cache.reserve()
    before = [t.data_ptr() for t in tensors(cache, set())]
    one(cache, *draw(9))
    cache.sync()
    cache.reset(1)
    cache.reserve()
    assert [t.data_ptr() for t in tensors(cache, set())] == before


def test_a_replay_that_the_host_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """During a capture the host knows nothing and says so; after one it always asks the device."""
    ours, theirs = new(), new()
    k, v = draw(9)
    for cache in (ours, theirs):
        cache.reserve()
    with monkeypatch.context() as patch:
        patch.setattr(TieredCache, "_capturing", lambda _: True)
        ours.append_one(k[:, 0], v[:, 0])
        for call in (lambda: ours.tokens, lambda: ours.blocks(0), ours.sync, ours.reserve):
            with pytest.raises(CaptureError, match="append_one"):
                call()
        for call in (lambda: ours.append(k, v), lambda: ours.reset(0)):
            with pytest.raises(CaptureError, match="append_one"):
                call()
    replay = [k[:, 0].clone(), v[:, 0].clone()]
    for cache in (ours, theirs):
        cache.reset(1)
        cache.reset(0)
        cache.reserve()
    work = ours._work
    assert work is not None
    for t in range(6):
        replay[0].copy_(k[:, t])
        replay[1].copy_(v[:, t])
        module.append_one(replay[0], replay[1], work.everyone, ours._held(), work)
        if t in (2, 4):
            assert ours.tokens == (t + 1, t + 1)
    ours.append(k[:, 6:], v[:, 6:])
    theirs.append(k, v)
    assert state(ours, False) == state(theirs, False)


@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(), Budget(0.05), Budget(0.0)])
def test_steps_between_appends_are_the_same(policy: Any) -> None:
    """Over block boundaries, from an empty sequence on: bit for bit those after eager appends."""
    ours, theirs = new(), new()
    ours.reserve()
    k, v = draw(13)
    steps: list[Step] = []
    plans = [plan(cache, 2 * KV_HEADS, policy) for cache in (ours, theirs)]
    for t in range(13):
        q = draw(2, 99 + t)[0].flatten(1, 2).contiguous()
        ours.append_one(k[:, t], v[:, t])
        theirs.append(k[:, t : t + 1], v[:, t : t + 1])
        steps = [made.run(q, out=made.step()) for made in plans]
        for name in ("output", "lse", "position"):
            assert torch.equal(getattr(steps[0], name), getattr(steps[1], name)), name
        for name, tensor in vars(steps[0].certificate).items():
            assert torch.equal(tensor, getattr(steps[1].certificate, name)), name
    steps[0].check()


@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(), Budget(0.05), Budget(0.0)])
def test_a_step_after_a_refusal_has_no_output(policy: Any) -> None:
    """It would be attention without the newest token; other sequences have theirs."""
    cache = new()
    k, v = draw(9)
    cache.append(k, v)
    cache.reserve()
    wrong = k[:, 0].clone()
    wrong[0, 1, 2] = float("nan")
    cache.append_one(wrong, v[:, 0])
    q = draw(2, 5)[0].flatten(1, 2).contiguous()
    made = plan(cache, 2 * KV_HEADS, policy)
    step = made.run(q, out=made.step())
    assert step.certificate.status[:, 0].tolist() == [Status.NONFINITE_KEY, Status.OK]
    assert torch.isnan(step.output[0]).all()
    assert torch.isposinf(step.certificate.bound[0]).all()
    assert torch.isfinite(step.output[1]).all()
    with pytest.raises(NonFiniteError, match=r"k\[0, 1, 2\]"):
        step.check()
    with pytest.raises(NonFiniteError, match=r"k\[0, 1, 2\]"):
        cache.sync()
    made.run(q, out=step)
    step.check()
    cache.reset(0)
    cache.append(k, v, lengths=[4, 0])
    for _ in range(4):
        cache.append_one(k[:, 0], v[:, 0])
    made.run(q, out=step)
    with pytest.raises(CapacityError, match="sequence 0"):
        step.check()


def test_the_kernel_that_finishes_says_so_too() -> None:
    """The same statuses, positions and NaN as its twin, where a token was refused and where none was."""
    cache = new()
    k, v = draw(9)
    cache.append(k, v)
    cache.reserve()
    wrong = k[:, 0].clone()
    wrong[1, 1, 2] = float("nan")
    cache.append_one(wrong, v[:, 0])
    made = plan(cache, 2 * KV_HEADS, Naive())
    by_kernel, twin = made.step(), made.passes.finish

    def both(*arguments: Any) -> None:
        twin(*arguments)
        given: list[Any] = [*arguments[:-1], by_kernel.result]
        finish_kernel.launch(*given)

    made.passes = made.passes._replace(finish=both)
    step = made.run(draw(2, 5)[0].flatten(1, 2).contiguous(), out=made.step())
    assert step.certificate.status[:, 0].tolist() == [Status.OK, Status.NONFINITE_KEY]
    assert step.position.tolist() == [-1, HEAD_DIM + 2]
    pairs = {name: (getattr(step, name), getattr(by_kernel, name)) for name in ("output", "lse", "position")}
    pairs |= {name: (tensor, getattr(by_kernel.certificate, name)) for name, tensor in vars(step.certificate).items()}
    for name, (ours, theirs) in pairs.items():
        assert torch.equal(ours.isnan(), theirs.isnan()), name
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7)), name


def test_a_copy_appends_to_itself() -> None:
    cache = new()
    cache.reserve()
    other = copy.deepcopy(cache)
    assert other.handle != cache.handle
    one(other, *draw(5))
    assert (cache.tokens, other.tokens) == ((0, 0), (5, 5))


def _missed_newest(*arguments: Any) -> None:
    """The anchor leaves out the token that fills the first block."""
    k, v, active, held, work = arguments
    kernels.admit(k, v, active, held, work)
    for s in (work.place == held.block - 1).nonzero().flatten().tolist():
        held.anchor[s] -= v[s] / held.block


def _wrong_slot(held: Held, work: Work) -> None:
    kernels.turn(held, work)
    held.resident.keys[:, :, 0] = held.resident.keys[:, :, 1]


def _one_behind(held: Held, work: Work) -> None:
    kernels.turn(held, work)
    held.originals.values.copy_(held.originals.values.roll(1, 2))


@pytest.mark.parametrize(
    ("name", "wrong"), [("admit_twin", _missed_newest), ("turn_twin", _wrong_slot), ("turn_twin", _one_behind)]
)
@pytest.mark.parametrize("path", ["kernels"], indirect=True)
def test_a_planted_mistake_is_noticed(
    path: str, name: str, wrong: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        test_the_same_bits_as_an_append(path, "int4-g32", torch.float16, 4, 8, "host")
