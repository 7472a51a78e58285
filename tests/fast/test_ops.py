"""Operators of torch.library: the same bits as the calls they stand for, in eager mode and under torch.compile."""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from certkv.fast.attend import attend
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Certificate, Status
from certkv.fast.coded import Coded
from certkv.fast.errors import (
    CertkvError,
    InputError,
    NeedsDenseError,
    NonFiniteError,
    ReleasedError,
    SettingError,
    ShapeError,
)
from certkv.fast.merge import merge_twin
from certkv.fast.ops import Decoded
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, Naive, PaperPolicy, Policy
from certkv.fast.step import Step
from certkv.fast.workspace import plan_workspace

BATCH, KV_HEADS, GROUP, HEAD_DIM, BLOCK = 2, 2, 2, 16, 4
POLICIES: tuple[Policy, ...] = (Naive(), PaperPolicy(), Budget(0.05), Budget(0.0))

# inductor compiles what is around an operator with a C++ compiler; without one, all of it but that last step is tested
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).half()


def filled(seed: int = 0, **settings: Any) -> TieredCache:
    cache = TieredCache(BATCH, KV_HEADS, HEAD_DIM, 40, torch.float16, block=BLOCK, **settings)
    k, v = draw(2, BATCH, 18, KV_HEADS, HEAD_DIM, seed=seed)
    cache.append(k, v, lengths=[18, 7])
    cache.reserve()
    return cache


def queries(seed: int = 1) -> torch.Tensor:
    return draw(BATCH, KV_HEADS * GROUP, HEAD_DIM, seed=seed)


def tensors(step: Step) -> Decoded:
    return Decoded._make([step.output, step.lse, *vars(step.certificate).values(), step.position, step.moved_bytes])


def same(one: Decoded, other: Decoded) -> bool:
    return all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8)) and a.dtype == b.dtype
        for a, b in zip(one, other, strict=True)
    )


def arguments(cache: TieredCache) -> dict[str, tuple[Any, ...]]:
    """Arguments of every operator."""
    made, q, pool = plan(cache, KV_HEADS * GROUP, Budget(0.05)), queries(), cache.pool
    KEPT.append(made)
    stored = (pool.key_codes, pool.key_step, pool.key_minimum, pool.value_codes, pool.value_step, pool.value_minimum)
    held = (cache.pages.table, cache.lengths, cache.resident.keys, cache.resident.values)
    k, v = draw(2, BATCH, KV_HEADS, HEAD_DIM)
    return {
        "decode": (q, cache.order, made.handle, torch.float16),
        "decode_out": (q, cache.order, made.handle, *Decoded.empty(q, torch.float16)),
        "append_one": (k, v, torch.tensor([True, False]), cache.order, cache.handle),
        "attend": (q, *stored, *held, cache.values, 0.25, 0, 3),
    }


KEPT: list[Plan] = []


@pytest.mark.parametrize("name", ["decode", "decode_out", "append_one", "attend"])
def test_operators_are_what_their_schemas_say(name: str) -> None:
    """What is written, what is returned and of which shape, and that tracing changes nothing."""
    torch.library.opcheck(getattr(torch.ops.certkv, name).default, arguments(filled())[name])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("out", [None, torch.float32])
def test_a_step_as_an_operator(policy: Policy, out: torch.dtype | None) -> None:
    made, q = plan(filled(), KV_HEADS * GROUP, policy, out_dtype=out), queries()
    expected = tensors(made.run(q, out=made.step()))
    assert same(made.op(q), expected)
    assert same(made.op(q.transpose(0, 1).contiguous().transpose(0, 1)), expected)
    given = Decoded.empty(q, made.out_dtype)
    for tensor in given[:-1]:
        tensor.fill_(7)
    made.op_out(q, given)
    assert same(given, expected)


def test_the_order_of_tensors_is_that_of_a_certificate() -> None:
    assert Decoded._fields[2:-2] == tuple(vars(Certificate.blank(1, 1)))
    made, q = plan(filled(), KV_HEADS * GROUP, PaperPolicy()), queries()
    decoded = made.op(q)
    decoded.status[0] = Status.NEEDS_DENSE
    with pytest.raises(NeedsDenseError):
        Step.of(decoded).check()
    step = Step.of(decoded, made, q)
    step.resolve()
    step.check()
    assert (decoded.rung[0] == 4).all()
    expected = made.run(q, out=made.step())
    assert torch.equal(step.output[1], expected.output[1])
    assert step.certificate.bound is decoded.bound


def loop(cache: TieredCache, made: Plan) -> Callable[..., tuple[Decoded, Decoded, torch.Tensor]]:
    """Two tokens of a decode loop, with arithmetic of the caller's around the operators."""

    def two(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[Decoded, Decoded, torch.Tensor]:
        cache.append_one(k * 2.0, v)
        first = made.op(q * 0.5)
        cache.append_one(k + first.output[:, ::GROUP], v)
        second = made.op(q + first.output)
        return first, second, (second.output * first.lse[..., None].half()).sum()

    return two


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("policy", [Naive(), Budget(0.05)])
def test_compiled_whole(policy: Policy) -> None:
    """No graph break, and the same bits, over block boundaries; a step stays behind the append that it follows."""
    caches = filled(), filled()
    plans = [plan(cache, KV_HEADS * GROUP, policy) for cache in caches]
    eager, compiled = (loop(cache, made) for cache, made in zip(caches, plans, strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(compiled, fullgraph=True, backend=BACKEND)
    for t in range(4):
        q, (k, v) = queries(50 + t), draw(2, BATCH, KV_HEADS, HEAD_DIM, seed=t)
        one, other = eager(q, k, v), compiled(q, k, v)
        assert same(one[0], other[0])
        assert same(one[1], other[1])
        # of the caller's own sum no order is promised: binary16 products, 128 of them below 2^4, summed in binary32
        assert abs(float(one[2]) - float(other[2])) <= 128 * 16 * 2.0**-10
    assert caches[0].tokens == caches[1].tokens == (26, 15)
    assert torch.equal(caches[0].pool.key_codes, caches[1].pool.key_codes)
    for cache in caches:
        cache.sync()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_layers_share_compiled_code() -> None:
    """Plans come and go under one compiled function: each call takes its own."""
    caches = [filled(seed) for seed in range(3)]
    plans = [plan(cache, KV_HEADS * GROUP, Naive()) for cache in caches]
    torch._dynamo.reset()
    call = torch.compile(lambda made, q: made.op(q * 1.0), fullgraph=True, backend="aot_eager")
    q = queries()
    for _ in range(2):
        for made in plans:
            assert same(call(made, q), tensors(made.run(q, out=made.step())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_into_the_callers_tensors_compiled() -> None:
    made = plan(filled(), KV_HEADS * GROUP, Budget(0.05))
    torch._dynamo.reset()
    call = torch.compile(lambda q, out: made.op_out(q * 2.0, out), fullgraph=True, backend="aot_eager")
    q, out = queries(), Decoded.empty(queries(), made.out_dtype)
    before = [tensor.data_ptr() for tensor in out]
    call(q, out)
    assert [tensor.data_ptr() for tensor in out] == before
    assert same(out, tensors(made.run(q * 2.0, out=made.step())))


def test_operators_of_a_cache_keep_their_order() -> None:
    """Each declares that it writes the cache's byte; without that, a compiler may swap them or drop an append."""
    for name in ("decode", "decode_out", "append_one"):
        schema = getattr(torch.ops.certkv, name).default._schema
        written = {argument.name for argument in schema.arguments if argument.is_write}
        assert "order" in written, name
    assert not any(argument.is_write for argument in torch.ops.certkv.attend.default._schema.arguments)


def test_what_is_gone_is_an_error() -> None:
    cache = filled()
    made = plan(cache, KV_HEADS * GROUP, Naive())
    q, handle, order = queries(), made.handle, cache.order
    torch.ops.certkv.decode(q, order, handle, torch.float16)
    with pytest.raises(SettingError, match=r"the plan has torch\.float16"):
        torch.ops.certkv.decode(q, order, handle, torch.float32)
    with pytest.raises(ReleasedError, match=f"no TieredCache with handle {handle}"):
        torch.ops.certkv.append_one(q[:, :2], q[:, :2], None, order, handle)
    with pytest.raises(ReleasedError, match="no Plan with handle"):
        torch.ops.certkv.decode(q, order, cache.handle, torch.float16)
    del made
    gc.collect()
    with pytest.raises(ReleasedError, match=f"no Plan with handle {handle}: it was freed") as caught:
        torch.ops.certkv.decode(q, order, handle, torch.float16)
    assert caught.value.handle == handle
    assert isinstance(caught.value, CertkvError)
    handle = cache.handle
    del cache
    KEPT.clear()
    gc.collect()
    with pytest.raises(ReleasedError):
        torch.ops.certkv.append_one(q[:, :2], q[:, :2], None, order, handle)


def test_a_copy_of_a_plan_is_another() -> None:
    made = plan(filled(), KV_HEADS * GROUP, Naive())
    other = copy.deepcopy(made)
    assert len({made.handle, other.handle, made.cache.handle, other.cache.handle}) == 4
    other.cache.append_one(*draw(2, BATCH, KV_HEADS, HEAD_DIM))
    assert (made.cache.tokens, other.cache.tokens) == ((18, 7), (19, 8))
    assert not same(made.op(queries()), other.op(queries()))


def test_wrong_arguments_are_refused() -> None:
    cache = filled()
    made, q = plan(cache, KV_HEADS * GROUP, Naive()), queries()
    with pytest.raises(ShapeError):
        made.op(q[:1])
    out = Decoded.empty(q, torch.float16)
    with pytest.raises(InputError, match=r"(?s)lse has shape \[2, 3\].*rung has dtype int64"):
        made.op_out(q, out._replace(lse=out.lse[:, :3], rung=out.rung.long()))
    with pytest.raises(InputError, match="output is not contiguous"):
        made.op_out(q, out._replace(output=out.output.transpose(0, 1).contiguous().transpose(0, 1)))
    names = torch.ops.certkv.attend.default._schema.arguments
    given = dict(zip((argument.name for argument in names), arguments(cache)["attend"], strict=True))
    for name, wrong, match in (
        ("values", "int5", "unknown value format 'int5'"),
        ("values", "int8", "value_codes has shape"),
        ("q", q[:, :3], "3 query heads are no multiple"),
        ("q", q.float(), "give float16 or bfloat16"),
        ("q", q[0], "q must have 3 axes"),
        ("key_step", given["key_step"].float(), "key_step has dtype float32"),
        ("page_table", given["page_table"].long(), "page_table has dtype int64"),
        ("lengths", given["lengths"][:1], "lengths has shape"),
        ("resident_keys", given["resident_keys"][:, :, :1], "resident_keys has shape"),
        ("key_codes", given["key_codes"].transpose(2, 3).contiguous().transpose(2, 3), "key_codes is not contiguous"),
        ("first", 2, "first is 2"),
        ("splits", 11, "splits are 11; give 0 or 1, and 1 to 10"),
    ):
        with pytest.raises(InputError, match=match):
            torch.ops.certkv.attend(**(given | {name: wrong}))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("values", ["int8", "int4-g32"])
def test_the_first_pass_alone(first: int, values: str) -> None:
    """What attend and merge leave, with nothing of the workspace that no block is in."""
    cache, q = filled(values=values), queries()
    held = list(arguments(cache)["attend"])
    held[-2] = first
    output, lse, weights, reference, resident_weights, resident_reference = torch.ops.certkv.attend(*held)
    ws = plan_workspace(BATCH, KV_HEADS * GROUP, KV_HEADS, HEAD_DIM, BLOCK, cache.max_blocks, 3)
    coded = Coded(cache.pool, cache.pages.table, cache.lengths, cache.anchor, values, first)
    attend(q, coded, cache.resident, 0.25, ws)
    merge_twin(ws)
    assert torch.equal(output, ws.output)
    assert torch.equal(lse, ws.lse)
    assert torch.equal(weights, ws.weights)
    assert torch.equal(reference, ws.reference.nan_to_num(-torch.inf))
    assert torch.equal(resident_weights, ws.resident_weights)
    assert torch.equal(resident_reference, ws.resident_reference)


def test_a_refused_token_says_so_in_the_step() -> None:
    cache = filled()
    made = plan(cache, KV_HEADS * GROUP, Naive())
    k, v = draw(2, BATCH, KV_HEADS, HEAD_DIM)
    k[1, 1, 3] = torch.inf
    cache.append_one(k, v)
    decoded = made.op(queries())
    assert decoded.status[:, 0].tolist() == [Status.OK, Status.NONFINITE_KEY]
    assert decoded.position.tolist() == [-1, HEAD_DIM + 3]
    with pytest.raises(NonFiniteError, match=r"k\[1, 1, 3\]"):
        Step.of(decoded).check()


def test_nothing_is_differentiable() -> None:
    """A gradient that would be missing is an error, not zero."""
    made, q = plan(filled(), KV_HEADS * GROUP, Naive()), queries().requires_grad_()
    output = made.op(q).output
    with pytest.raises(RuntimeError, match=r"certkv[.:]+decode"):
        output.sum().backward()  # type: ignore[no-untyped-call]
