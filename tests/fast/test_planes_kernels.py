"""Whole steps of the kernels over formats with planes, in Triton's interpreter: within bounds, and as the twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import float64
from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.errors import SettingError
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, PaperPolicy

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]

TOKENS, KV_HEADS, GROUP, HEAD_DIM, BLOCK = (90, 21), 1, 2, 24, 8
KINDS = [
    ("int8+4", "int4-g32+4", torch.float16),
    ("int8+4", "int8-g64+4", torch.bfloat16),
    ("int8", "int8+4", torch.float16),
    ("int8+4", "int4", torch.float16),
    ("oscar+2+4", "oscar+2+4", torch.float16),
    ("oscar+2+4", "int4-g32+4", torch.bfloat16),
    ("int8+4", "oscar+2+4", torch.float16),
]


def scene(keys: str, values: str, dtype: torch.dtype, place: Any) -> tuple[TieredCache, torch.Tensor, Any]:
    """Make a ragged cache, queries, and originals."""
    made = torch.Generator().manual_seed(6)
    cache = TieredCache(
        2, KV_HEADS, HEAD_DIM, 96, dtype, keys=keys, values=values, block=BLOCK, planes=place, originals="host"
    )
    k, v = torch.randn(2, 2, TOKENS[0], KV_HEADS, HEAD_DIM, generator=made).to(dtype)
    cache.append(k, v, lengths=TOKENS)
    # of two bits, louder queries read nearly every original
    loud = 0.15 if keys.startswith("oscar") else 1.5
    q = (loud * torch.randn(2, GROUP, HEAD_DIM, generator=made)).to(dtype)
    return cache, q, (k, v)


def planned(cache: TieredCache, policy: Any, verify: Any = "off") -> Plan:
    """Plan a step of the kernels."""
    scale = HEAD_DIM**-0.5
    return Plan(
        cache, GROUP, policy, scale, torch.float32, splits=2, implementation=(kernels(), INTERPRETED), verify=verify
    )


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize(("keys", "values", "dtype"), KINDS)
def test_kernels_read_planes_as_the_twins_do(keys: str, values: str, dtype: torch.dtype, place: Any) -> None:
    cache, q, (k, v) = scene(keys, values, dtype, place)
    read = 0
    for tolerance in (0.3, 0.06, 0.02, 0.004):
        made, twin = planned(cache, Budget(tolerance)), plan(cache, GROUP, Budget(tolerance), out_dtype=torch.float32)
        step, other = made.run(q, out=made.step()), twin.run(q, out=twin.step())
        mine, its = step.certificate, other.certificate
        assert not mine.status.any()
        for s, n in enumerate(TOKENS):
            exact = float64.attention(q[s], k[s, :n, 0], v[s, :n, 0], made.scale)
            error = (step.output[s].double() - exact.output).norm(dim=-1)
            assert (error <= mine.bound[s].double() + exact.error_ub).all()
        assert ((mine.bound <= mine.tolerance) | (mine.rung == 3)).all()
        laddered = mine.rung > 0
        assert torch.equal(laddered, its.rung > 0)
        bytes_of = (made.ws.levels.int() >> 3) & 3, (made.ws.levels.int() >> 5) & 3
        total = torch.zeros_like(mine.plane_bytes)
        for side, count in zip(cache.planes.block_bytes, bytes_of, strict=True):
            for plane, size in enumerate(side):
                total += size * (count > plane).sum(-1)
        assert torch.equal(mine.plane_bytes, torch.where(laddered, total, 0))
        host = mine.promoted.sum(-1) * cache.originals.block_bytes
        assert torch.equal(mine.host_bytes, host + mine.plane_bytes * (place == "host"))
        read += int(mine.plane_bytes.sum())
        # charges of the kernels' arithmetic are not those of the twins: choices may differ by a block or two
        assert (mine.levels.sum((2, 3)) - its.levels.sum((2, 3))).abs().max() <= 3
    assert read > 0


@pytest.mark.parametrize(("keys", "values", "dtype"), [*KINDS[:2], KINDS[4]])
def test_one_round_leaves_the_state_of_the_twin(keys: str, values: str, dtype: torch.dtype) -> None:
    """With the same choice, weights and states are those of the twin to the rounding of binary32 and binary16."""
    cache, q, _ = scene(keys, values, dtype, "host")
    one, other = planned(cache, Budget(0.03)), planned(cache, Budget(0.03))
    twins = plan(cache, GROUP, Budget(0.03)).passes
    other.passes = other.passes._replace(refine=twins.refine)
    steps = [made.run(q, out=made.step()) for made in (one, other)]
    assert torch.equal(one.ws.levels, other.ws.levels)
    assert (one.ws.levels >> 3).any()
    moved = [step.moved_bytes for step in steps]
    assert torch.equal(*moved)
    mine, its = (made.ws.weights.double() for made in (one, other))
    # one rounding of binary16 apart where scores of binary32 fall on either side of a tie
    assert ((mine - its).abs() <= 2.0**-10 * its + 2.0**-24).all()
    apart = (one.ws.output.double() - other.ws.output.double()).norm(dim=-1)
    assert (apart <= 2.0**-9 * other.ws.output.double().norm(dim=-1)).all()


@pytest.mark.parametrize(("keys", "values", "dtype"), [KINDS[0], KINDS[2], KINDS[4]])
def test_one_launch_is_its_parts(keys: str, values: str, dtype: torch.dtype) -> None:
    """Bit for bit, what a step returns and what it leaves."""
    raised = 0
    for tolerance in (0.03, 0.004):
        cache, q, _ = scene(keys, values, dtype, "host")
        whole, parts = planned(cache, Budget(tolerance)), planned(cache, Budget(tolerance))
        parts.passes = parts.passes._replace(ladder=None)
        steps = [made.run(q, out=made.step()) for made in (whole, parts)]
        raised += int((whole.ws.levels >> 3).count_nonzero())
        for mine, its in zip(*(vars(step.certificate).values() for step in steps), strict=True):
            assert torch.equal(mine, its)
        for name in ("output", "lse", "moved_bytes"):
            assert torch.equal(*(getattr(step, name) for step in steps)), name
        assert torch.equal(whole.ws.levels, parts.ws.levels)
        assert torch.equal(whole.ws.weights, parts.ws.weights)
    assert raised > 0


def test_missing_and_damaged_planes() -> None:
    cache, q, _ = scene("int8+4", "int4-g32+4", torch.float16, "host")
    cache.originals.lose()
    made = planned(cache, Budget(0.03), verify="step")
    step = made.run(q, out=made.step())
    assert not step.certificate.status[0].any()
    assert step.certificate.plane_bytes[0].any()
    block = int((made.ws.levels[0].amax(0) >> 5).nonzero()[0])
    page = cache.pages.pages(0)[block]
    cache.planes.values[0][page, 0, 1, 1] ^= 8
    made.run(q, out=step)
    assert (step.certificate.status[0] == Status.CHECKSUM).all()
    assert not step.certificate.plane_bytes[0].any()
    cache.planes.values[0][page, 0, 1, 1] ^= 8
    cache.planes.lose(0)
    made.run(q, out=step)
    assert (step.certificate.status[0] == Status.HOST_MISSING).all()
    assert torch.isnan(step.output[0]).all()


def test_policies_without_levels_read_the_base() -> None:
    cache, q, _ = scene("int8+4", "int8+4", torch.float16, "host")
    made = planned(cache, PaperPolicy(coverage=0.8))
    step = made.run(q, out=made.step())
    assert not step.certificate.status.any()
    assert step.certificate.promoted.any()
    assert not step.certificate.finer.any()
    assert not step.certificate.plane_bytes.any()


def test_values_that_no_kernel_adds_up_are_refused() -> None:
    """A GPU's plan refuses them before; whoever gives kernels to a plan is told as well."""
    cache, q, _ = scene("int8", "int4+4", torch.float16, "host")
    made = planned(cache, Budget(0.03))
    with pytest.raises(SettingError, match=r"values of int4\+4"):
        made.run(q, out=made.step())
