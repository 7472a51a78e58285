"""A step by itself: what a plan refuses, what fails and how, and that nothing is returned as good that is not."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

import pytest
import torch

from certkv.fast import float64
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.errors import (
    CorruptionError,
    DTypeError,
    HostMissingError,
    InputError,
    NeedsDenseError,
    NonFiniteError,
    PlanError,
    ShapeError,
)
from certkv.fast.plan import plan
from certkv.fast.plan_checks import gpu_reason
from certkv.fast.policies import Budget, Naive, PaperPolicy, Policy
from certkv.fast.step import Step, decode

KV_HEADS, GROUP, HEAD_DIM, BLOCK = 2, 2, 16, 8
TOKENS = (61, 20, 5)


class Case:
    """A filled cache with what went into it."""

    def __init__(self, dtype: torch.dtype = torch.float16, seed: int = 0, **more: Any) -> None:
        made = torch.Generator().manual_seed(seed)
        settings: dict[str, Any] = {"values": "int4-g32", "block": BLOCK} | more
        self.cache = TieredCache(len(TOKENS), KV_HEADS, HEAD_DIM, 64, dtype, **settings)
        self.k, self.v = torch.randn(2, len(TOKENS), max(TOKENS), KV_HEADS, HEAD_DIM, generator=made).to(dtype)
        self.cache.append(self.k, self.v, lengths=TOKENS)
        self.q = (2 * torch.randn(len(TOKENS), KV_HEADS * GROUP, HEAD_DIM, generator=made)).to(dtype)

    def exact(self, s: int, h: int, scale: float = HEAD_DIM**-0.5) -> float64.Exact:
        n, kv = self.cache.tokens[s], h // GROUP
        return float64.attention(self.q[s, h : h + 1], self.k[s, :n, kv], self.v[s, :n, kv], scale)

    def holds(self, step: Step, scale: float = HEAD_DIM**-0.5) -> bool:
        """Whether every output is provably not beyond its bound."""
        good = True
        for s in range(len(TOKENS)):
            for h in range(KV_HEADS * GROUP):
                exact = self.exact(s, h, scale)
                error = (step.output[s, h].double() - exact.output[0]).norm()
                good &= bool(error <= step.certificate.bound[s, h].double() + exact.error_ub[0])
        return good


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("out", [None, torch.float32])
@pytest.mark.parametrize("values", ["int8", "int4", "int4-g32", "int8-g64"])
def test_outputs_are_within_their_bounds(dtype: torch.dtype, out: torch.dtype | None, values: str) -> None:
    case = Case(dtype, values=values)
    policies: tuple[Policy, ...] = (Naive(), PaperPolicy(), Budget(0.1), Budget(0.02, "output"), Budget(0.0))
    for policy in policies:
        step = decode(case.q, case.cache, policy, out_dtype=out)
        certificate = step.certificate
        assert step.output.dtype == (out or dtype)
        assert case.holds(step)
        assert (certificate.key + certificate.value + certificate.arithmetic >= certificate.bound).all()
        assert (certificate.status == Status.OK).all()
        if isinstance(policy, Budget):
            assert ((certificate.bound <= certificate.tolerance) | (certificate.rung >= 3)).all()
            assert (certificate.rung == 3).all() or policy.tolerance > 0
            continue
        assert torch.isposinf(certificate.tolerance).all()
        if isinstance(policy, Naive):
            assert not certificate.rung.any()
            assert not certificate.host_bytes.any()


def test_lse_is_that_of_the_scores() -> None:
    """Rung 3 has the logarithm of the originals' scores, to binary32."""
    case = Case()
    step = decode(case.q, case.cache, Budget(0.0))
    for s in range(len(TOKENS)):
        for h in range(KV_HEADS * GROUP):
            # scores below 64: rounding at 24 bits of 16 products, and of P to 11 bits
            assert abs(step.lse[s, h].double() - case.exact(s, h).lse[0]) <= 64 * 20 * 2.0**-24 + 2.0**-11


def test_scales_of_any_sign_are_the_callers() -> None:
    case = Case()
    for scale in (-0.3, 1.0, 2.0**-30):
        assert case.holds(decode(case.q, case.cache, Budget(0.05), scale=scale), scale)


def test_counts_are_those_of_levels() -> None:
    """Promoted blocks times their bytes; rung 3 reads everything but what is pinned, without blocks that is nothing."""
    case = Case()
    block_bytes = BLOCK * HEAD_DIM * 2
    for policy in (Budget(0.02), Budget(0.0)):
        made = decode(case.q, case.cache, policy).certificate
        assert torch.equal(made.host_bytes, made.promoted.sum(-1).to(torch.int64) * block_bytes)
        two, one = made.promoted[..., 1] > 0, made.promoted[..., 0] > 0
        expected = torch.where(two, 2, one.to(torch.int32))
        assert torch.equal(torch.where(made.rung == 3, 3, made.rung), torch.where(made.rung == 3, 3, expected))
    assert made.promoted[:, 0].tolist() == [[6, 6], [1, 1], [0, 0]]


def test_a_plan_gives_all_reasons() -> None:
    case = Case()
    with pytest.raises(PlanError) as caught:
        plan(case.cache, 3, "budget", scale=float("nan"), out_dtype=torch.bfloat16)  # type: ignore[arg-type]
    for reason in ("q_heads is 3", "policy is 'budget'", "scale is nan", "out_dtype is bfloat16"):
        assert reason in str(caught.value)
    assert len(caught.value.reasons) == 4
    with pytest.raises(PlanError, match="cache is a list"):
        plan([], 4, Naive())  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"q_heads is 2\.0; give a whole number"):
        plan(case.cache, 2.0, Naive())  # type: ignore[arg-type]


def test_queries_are_checked() -> None:
    case = Case()
    with pytest.raises(ShapeError):
        decode(case.q[:1], case.cache, Naive())
    with pytest.raises(DTypeError):
        decode(case.q.float(), case.cache, Naive())
    planned = plan(case.cache, KV_HEADS * GROUP, Naive())
    with pytest.raises(InputError, match="not contiguous"):
        planned.run(case.q.transpose(0, 1).contiguous().transpose(0, 1), out=planned.step())
    case.cache.reset(1)
    with pytest.raises(InputError, match=r"\[1\] are empty"):
        decode(case.q, case.cache, Naive())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(), Budget(0.05), Budget(0.0)])
def test_a_query_that_is_not_finite_has_no_output(bad: float, policy: Policy) -> None:
    """Others of the batch have theirs; a run says so by status, a decode raises."""
    case = Case()
    case.q[1, 2, 5] = bad
    planned = plan(case.cache, KV_HEADS * GROUP, policy)
    step = planned.run(case.q, out=planned.step())
    assert step.certificate.status.tolist() == [[0] * 4, [Status.NONFINITE_QUERY] * 4, [0] * 4]
    nothing(step, 1)
    assert step.position.tolist() == [-1, 2 * HEAD_DIM + 5, -1]
    assert torch.isfinite(step.output[[0, 2]]).all()
    with pytest.raises(NonFiniteError, match=r"q\[1, 2, 5\]"):
        step.check()
    with pytest.raises(NonFiniteError):
        decode(case.q, case.cache, policy)


def nothing(step: Step, s: int) -> None:
    """A sequence has no output and promises nothing."""
    assert torch.isnan(step.output[s]).all()
    assert torch.isnan(step.lse[s]).all()
    made = step.certificate
    for name in ("bound", "key", "value", "arithmetic", "tolerance"):
        assert torch.isposinf(getattr(made, name)[s]).all(), name
    for name in ("rung", "promoted", "host_bytes"):
        assert not getattr(made, name)[s].any(), name


@pytest.mark.parametrize("policy", [PaperPolicy(coverage=1.0), Budget(0.002), Budget(0.0)])
def test_missing_originals_leave_no_output(policy: Policy) -> None:
    """By promotion as by rung 3; the cache stays usable, and does so for good once its tokens are appended again."""
    case = Case()
    case.cache.originals.lose(0)
    planned = plan(case.cache, KV_HEADS * GROUP, policy)
    step = planned.run(case.q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.HOST_MISSING, 0, 0]
    nothing(step, 0)
    with pytest.raises(HostMissingError, match="sequence 0"):
        step.check()
    decode(case.q, case.cache, Naive())
    decode(case.q, appended_again(case, 0), policy)


@pytest.mark.parametrize("block", [0, 1])
def test_rung_three_needs_no_block_that_is_pinned(block: int) -> None:
    case = Case()
    case.cache.originals.lose(0, 0, block)
    planned = plan(case.cache, KV_HEADS * GROUP, Budget(0.0))
    step = planned.run(case.q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.HOST_MISSING if block else Status.OK, 0, 0]
    assert block or case.holds(step)


def appended_again(case: Case, sequence: int) -> TieredCache:
    """Append the tokens of a sequence anew, as an error asks for."""
    n = TOKENS[sequence]
    case.cache.reset(sequence)
    lengths = [n if s == sequence else 0 for s in range(len(TOKENS))]
    case.cache.append(case.k[:, :n], case.v[:, :n], lengths=lengths)
    return case.cache


def test_damage_that_shows_as_nan_is_an_error() -> None:
    case = Case()
    case.cache.pool.value_minimum[case.cache.pages.pages(0)[3]] = float("nan")
    planned = plan(case.cache, KV_HEADS * GROUP, Naive())
    step = planned.run(case.q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    nothing(step, 0)
    with pytest.raises(CorruptionError, match="sequence 0"):
        step.check()


def test_rung_four_is_what_resolve_computes() -> None:
    """Bit for bit torch's attention, within a bound; sequences that do not need it stay as they are."""
    case = Case()
    planned = plan(case.cache, KV_HEADS * GROUP, PaperPolicy())
    step = planned.run(case.q, out=planned.step())
    kept = step.output.clone()
    step.certificate.status[0] = Status.NEEDS_DENSE
    step.output[0] = float("nan")
    with pytest.raises(NeedsDenseError, match="sequence 0"):
        step.check()
    step.resolve()
    step.check()
    made = step.certificate
    keys, values = (x[0, : TOKENS[0]].transpose(0, 1)[None].contiguous() for x in (case.k, case.v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        case.q[0][None, :, None], keys, values, scale=1 / math.sqrt(HEAD_DIM), enable_gqa=True
    )
    assert torch.equal(step.output[0], expected[0, :, 0])
    assert torch.equal(step.output[1:], kept[1:])
    assert (made.rung[0] == 4).all()
    assert (made.rung[1:] < 4).all()
    assert made.promoted[0].tolist() == [[7, 7]] * 4
    assert (made.bound[0] == made.arithmetic[0]).all()
    assert not made.key[0].any()
    assert case.holds(step)
    case.cache.originals.lose(0, 0, 2)
    step.certificate.status[0] = Status.NEEDS_DENSE
    with pytest.raises(HostMissingError):
        step.resolve()


def test_a_plan_is_run_again_and_again_in_the_same_memory() -> None:
    """Appends in between count, results do not depend on what was run before, and earlier results are left alone."""
    case = Case()
    planned = plan(case.cache, KV_HEADS * GROUP, Budget(0.05))
    step = planned.run(case.q, out=planned.step())
    kept = step.output.clone()
    bad = case.q.clone()
    bad[0] = float("nan")
    other = planned.step()
    planned.run(bad, out=other)
    planned.run(case.q * 3, out=other)
    planned.run(case.q, out=other)
    assert torch.equal(step.output, kept)
    for mine, its in ((step, other), (step.certificate, other.certificate)):
        for one in fields(mine):
            if isinstance(getattr(mine, one.name), torch.Tensor):
                assert torch.equal(getattr(mine, one.name), getattr(other if mine is step else its, one.name)), one.name
    more = torch.randn(2, 3, 3, KV_HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(5)).half()
    case.cache.append(*more)
    planned.run(case.q, out=other)
    assert torch.equal(other.output, decode(case.q, case.cache, Budget(0.05)).output)
    assert not torch.equal(other.output, kept)


def test_what_free_pages_and_padding_hold_is_never_read() -> None:
    """Poison everywhere but in what is stored: pages of nobody, tables beyond the blocks, the workspace."""
    case, other = Case(pages=30), Case(pages=30)
    used = {page for s in range(len(TOKENS)) for page in other.cache.pages.pages(s)}
    donor = other.cache.pages.pages(0)[0]
    for page in set(range(30)) - used:
        for tensor in other.cache.pool.tensors().values():
            tensor[page] = tensor[donor]
    for policy in (Naive(), Budget(0.02), Budget(0.0)):
        mine, theirs = decode(case.q, case.cache, policy), decode(other.q, other.cache, policy)
        assert torch.equal(mine.output, theirs.output)
        assert torch.equal(mine.certificate.bound, theirs.certificate.bound)


def test_memory_of_a_plan_is_counted() -> None:
    case = Case()
    small, large = (plan(case.cache, KV_HEADS * GROUP, p).memory() for p in (Naive(), PaperPolicy()))
    staged = 2 * KV_HEADS * 64 * HEAD_DIM * 2
    assert [[row.nbytes for row in x.rows if row.part == "staging of rung 4"] for x in (small, large)] == [[], [staged]]
    assert [[(row.part, row.nbytes) for row in x.later] for x in (small, large)] == [
        [("staging of rung 4", staged)],
        [],
    ]
    assert plan(case.cache, KV_HEADS * GROUP, Naive()).staging().nbytes == staged
    assert re.search(rf"staging of rung 4, on demand +device +{staged:,} ", str(small))
    made = plan(case.cache, KV_HEADS * GROUP, Naive())
    assert small.device == case.cache.memory().device + made.ws.nbytes + made.parts.nbytes


@pytest.mark.parametrize(("keys", "values"), [("oscar", "int4-g32+4"), ("kivi", "int8+4"), ("int8+4", "oscar")])
def test_one_side_may_have_planes_and_the_other_groups(keys: str, values: str) -> None:
    torch.manual_seed(3)
    k, v = torch.randn(2, 1, 200, 1, 64).half()
    q = torch.randn(1, 2, 64).half()
    cache = TieredCache(1, 1, 64, 256, torch.float16, keys=keys, values=values)
    cache.append(k, v)
    step = decode(q, cache, Budget(0.01))
    exact = float64.attention(q[0], k[0, :, 0], v[0, :, 0], 0.125)
    error = (step.output[0].double() - exact.output).norm(dim=-1)
    assert (error - exact.error_ub <= step.certificate.bound[0].double()).all()
    assert ((step.certificate.bound <= step.certificate.tolerance) | (step.certificate.rung >= 3)).all()


def test_a_policy_without_a_tolerance_says_so_on_every_rung() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 1, 111, 1, 64).half()
    q = torch.randn(1, 2, 64).half()
    cache = TieredCache(1, 1, 64, 256, torch.float16, keys="oscar", block=16)
    cache.append(k * 30, v)
    made = decode(q, cache, PaperPolicy(coverage=0.6, k_max=6)).certificate
    assert (made.rung == 3).all()
    assert (made.tolerance == torch.inf).all()


def test_what_a_run_writes_must_fit() -> None:
    """Kernels write where the step's tensors are, however large these are."""
    case = Case()
    planned = plan(case.cache, KV_HEADS * GROUP, Naive())
    with pytest.raises(DTypeError, match=r"out is a NoneType; give the plan's own step\(\)"):
        planned.run(case.q, out=None)  # type: ignore[arg-type]
    other = plan(case.cache, KV_HEADS, Naive()).step()
    with pytest.raises(ShapeError, match=r"out\.certificate\.host_bytes has shape \[3, 2\], but \[3, 4\] is expected"):
        planned.run(case.q, out=other)
    wide = plan(case.cache, KV_HEADS * GROUP, Naive(), out_dtype=torch.float32).step()
    with pytest.raises(DTypeError, match=r"out\.output has dtype float32, but float16 is expected"):
        planned.run(case.q, out=wide)
    turned = planned.step()
    turned.lse = turned.lse.T.contiguous().T
    with pytest.raises(InputError, match=r"out\.lse is not contiguous"):
        planned.run(case.q, out=turned)
    step = planned.step()
    assert planned.run(case.q, out=step) is planned.run(case.q, out=step)


def test_a_query_that_does_not_fit_is_called_so() -> None:
    case = Case()
    with pytest.raises(ShapeError, match=r"q has shape \[4, 16\], but \[3, q_heads, 16\] is expected"):
        decode(case.q[0], case.cache, Naive())
    with pytest.raises(DTypeError, match="q is a ndarray; give a torch tensor"):
        decode(case.q.numpy(), case.cache, Naive())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capability", "hip", "says"),
    [
        ((9, 0), None, None),
        ((8, 0), None, r"A card has compute capability 8\.0; .* use an H100 or H200, or a cache on the CPU"),
        ((10, 0), None, "10.0"),
        ((9, 4), "6.2", "A card is driven by ROCm"),
    ],
)
def test_gpus_whose_rounding_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, says: str | None
) -> None:
    """AMD's GPUs count compute capabilities of 9.x, too."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    reason = gpu_reason(torch.device("cuda"))
    assert (reason is None) if says is None else (reason is not None and re.search(says, reason))
