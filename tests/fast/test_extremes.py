"""Scores and values so large that sums overflow: no output, and a way to one; kernels in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from certkv.fast import Budget, CorruptionError, Naive, NeedsDenseError, PaperPolicy, Status, TieredCache, float64
from certkv.fast.arithmetic import INTERPRETED, TWIN
from certkv.fast.passes import kernels, twins
from certkv.fast.plan import Plan
from certkv.fast.policies import Policy

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

TOKENS, HEADS, HEAD_DIM, BLOCK = (29, 19), 2, 16, 8
WAYS = {"twin": (twins, TWIN), "kernels": (kernels, INTERPRETED)}
POLICIES: list[Policy] = [Budget(0.05), Naive(), PaperPolicy()]
CASES = {
    # sizes of q, k and v; from 2^25 bits on subtracting 14 is lost in rounding, or makes 16 of it
    "scores of 2^25 bits": (torch.float16, 2.0**12, 2.0**12, 1.0),
    "scores of 2^27 bits": (torch.float16, 2.0**13, 2.0**13, 1.0),
    "values near the end": (torch.bfloat16, 1.0, 1.0, 2.0**120),
}


class Scene:
    """Two sequences under one plan, the first as large as a case says."""

    def __init__(self, dtype: torch.dtype, q: float, k: float, v: float, policy: Policy, way: str) -> None:
        draw = torch.Generator().manual_seed(3)
        large = torch.tensor([1.0, 0.0])[:, None, None, None]

        def drawn(*shape: int, size: float) -> torch.Tensor:
            x = torch.randn(2, *shape, generator=draw)
            return (x * (1.0 + (size - 1.0) * large.view(2, *(1 for _ in shape)))).to(dtype)

        self.q = drawn(HEADS, HEAD_DIM, size=q)
        self.k, self.v = (drawn(TOKENS[0], 1, HEAD_DIM, size=size) for size in (k, v))
        self.cache = TieredCache(2, 1, HEAD_DIM, 64, dtype, values="int4", block=BLOCK)
        self.cache.append(self.k, self.v, lengths=TOKENS)
        passes, model = WAYS[way]
        self.plan = Plan(self.cache, HEADS, policy, 0.25, torch.float32, splits=2, implementation=(passes(), model))

    def exact(self) -> torch.Tensor:
        """Attention of the first sequence in float64, [heads, d]."""
        q, k, v = (x.double() for x in (self.q[0], self.k[0, :, 0], self.v[0, :, 0]))
        return torch.softmax(0.25 * q @ k.T, -1) @ v


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize(("dtype", "q", "k", "v"), CASES.values(), ids=CASES)
def test_what_overflows_needs_rung_four(
    dtype: torch.dtype, q: float, k: float, v: float, policy: Policy, way: str
) -> None:
    """The other sequence has its output; nothing is called damaged; rung 4 has a bound, and it holds."""
    scene = Scene(dtype, q, k, v, policy, way)
    step = scene.plan.run(scene.q, out=scene.plan.step())
    made = step.certificate
    if made.status[0, 0] != Status.OK:
        assert made.status[:, 0].tolist() == [Status.NEEDS_DENSE, Status.OK]
        assert step.output[0].isnan().all()
        assert made.bound[0].isinf().all()
        with pytest.raises(NeedsDenseError, match="sequence 0"):
            step.check()
        kept = step.output[1].clone()
        step.resolve()
        step.check()
        assert (made.rung[0] == 4).all()
        assert torch.equal(step.output[1], kept)
    assert step.output.isfinite().all()
    assert made.bound.isfinite().all()
    # float64 is off by 2^-52 of scores up to 2^27 nats and 16 products, which is 2^-20 of the values, at most
    assert (
        (step.output[0] - scene.exact()).norm(dim=-1) <= made.bound[0] + 2.0**-20 * scene.v[0].double().norm()
    ).all()


@pytest.mark.parametrize("way", WAYS)
def test_sums_do_overflow(way: str) -> None:
    """The cases above are of something: a half of weight 2^16 is infinite, and so is a sum of weights times values."""
    for case in ("scores of 2^25 bits", "values near the end"):
        scene = Scene(*CASES[case], Budget(0.05), way)
        step = scene.plan.run(scene.q, out=scene.plan.step())
        assert step.certificate.status[:, 0].tolist() == [Status.NEEDS_DENSE, Status.OK]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize(("size_of_q", "size_of_k"), [(60000.0, 60000.0), (30000.0, 1000.0)])
def test_products_with_steps_that_overflow_need_rung_four(
    size_of_q: float, size_of_k: float, policy: Policy, way: str
) -> None:
    """A tiny scale makes scores small, but a query times the steps of keys is beyond binary16."""
    draw = torch.Generator().manual_seed(3)
    cache = TieredCache(1, 1, HEAD_DIM, 64, torch.float16, values="int4", block=BLOCK)
    k, v = torch.rand(2, 1, TOKENS[0], 1, HEAD_DIM, generator=draw) * 2.0 - 1.0
    k, v = (k * size_of_k).half(), v.half()
    cache.append(k, v)
    q = ((torch.rand(1, HEADS, HEAD_DIM, generator=draw) * 2.0 - 1.0) * size_of_q).half()
    overflows_in_naive_kernels(cache, q, k, v, 1e-10, policy, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("keys", ["kivi", "oscar-rotation"])
def test_steps_of_few_bits_that_overflow_need_rung_four(keys: str, policy: Policy, way: str) -> None:
    """Whatever the query; with a small scale scores are small. Other policies compute such heads from originals."""
    cache, q, k, v = of_few_bits(keys, 20000.0)
    overflows_in_naive_kernels(cache, q, k, v, 1e-6, policy, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keys", ["kivi", "oscar-rotation"])
def test_a_step_of_few_bits_that_is_no_number_is_damage(keys: str, way: str) -> None:
    cache, q, _, _ = of_few_bits(keys, 1.0)
    passes, model = WAYS[way]
    made = Plan(cache, HEADS, Naive(), 1e-6, torch.float32, splits=2, implementation=(passes(), model))
    cache.pool.key_step[1].view(torch.int16).fill_(0x7E00)
    step = made.run(q, out=made.step())
    assert step.certificate.status[0].tolist() == [Status.CHECKSUM] * HEADS


def overflows_in_naive_kernels(
    cache: TieredCache, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, policy: Policy, way: str
) -> None:
    """Kernels under `Naive` ask for the dense result, all else has an output; in the end all are within bounds."""
    passes, model = WAYS[way]
    made = Plan(cache, HEADS, policy, scale, torch.float32, splits=2, implementation=(passes(), model))
    step = made.run(q, out=made.step())
    status = step.certificate.status[0, 0]
    assert status == (Status.NEEDS_DENSE if way == "kernels" and isinstance(policy, Naive) else Status.OK)
    step.resolve()
    step.check()
    exact = float64.attention(q[0], k[0, :, 0], v[0, :, 0], scale)
    error = (step.output[0].double() - exact.output).norm(dim=-1)
    assert (error <= step.certificate.bound[0].double() + exact.error_ub).all()


def of_few_bits(keys: str, size: float) -> tuple[TieredCache, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a cache whose keys are at most so large, queries below 1, and what was appended."""
    draw = torch.Generator().manual_seed(4)
    k, v = torch.rand(2, 1, 69, 1, 32, generator=draw) * 2.0 - 1.0
    q = (torch.rand(1, HEADS, 32, generator=draw) * 2.0 - 1.0).half()
    k, v = (k * size).half(), v.half()
    cache = TieredCache(1, 1, 32, 128, torch.float16, keys=keys, values="int4", block=32)
    cache.append(k, v)
    return cache, q, k, v


@pytest.mark.parametrize("way", WAYS)
def test_an_infinite_output_is_none(way: str) -> None:
    """Values of one sign overflow to infinity, not to NaN; torch's own output is as it is, and its bound infinite."""
    scene = Scene(torch.bfloat16, 1.0, 1.0, 1.0, Budget(0.05), way)
    scene.cache.reset(0)
    scene.v[0] = torch.finfo(torch.bfloat16).max
    scene.cache.append(scene.k, scene.v, lengths=[TOKENS[0], 0])
    step = scene.plan.run(scene.q, out=scene.plan.step())
    assert step.certificate.status[:, 0].tolist() == [Status.NEEDS_DENSE, Status.OK]
    step.resolve()
    step.check()
    assert (step.output[0].isfinite().all(-1) | step.certificate.bound[0].isinf()).all()


@pytest.mark.parametrize("way", WAYS)
def test_numbers_in_range_that_give_none_are_damaged(way: str) -> None:
    """An original that is no number, under a policy that reads it; nothing is compared."""
    scene = Scene(torch.float16, 1.0, 1.0, 1.0, Budget(0.0), way)
    scene.cache.originals.values[0, 0, 1, 2, 3] = float("nan")
    step = scene.plan.run(scene.q, out=scene.plan.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, Status.OK]
    with pytest.raises(CorruptionError):
        step.resolve()


@pytest.mark.parametrize("way", WAYS)
def test_an_infinite_output_in_range_is_damage(way: str) -> None:
    scene = Scene(torch.float16, 1.0, 1.0, 1.0, Naive(), way)
    scene.cache.pool.value_minimum[scene.cache.pages.pages(0)[1], 0, 3] = float("inf")
    step = scene.plan.run(scene.q, out=scene.plan.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, Status.OK]
