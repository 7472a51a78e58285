"""Whole steps of the kernels, in Triton's interpreter: within their bounds, and with the statuses of the twins."""

from __future__ import annotations

import pytest
import torch

from certkv.fast import float64
from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, Naive, PaperPolicy, Policy

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
    # rotating a query that is not finite
    pytest.mark.filterwarnings("ignore:invalid value encountered in reduce:RuntimeWarning"),
]

TOKENS, KV_HEADS, GROUP, HEAD_DIM, BLOCK = (45, 11), 1, 2, 16, 8


@pytest.mark.parametrize(
    ("keys", "values", "dtype"),
    [
        ("int8", "int4", torch.float16),
        ("int8", "int8-g64", torch.bfloat16),
        ("oscar", "oscar", torch.float16),
        ("oscar-head", "oscar-4", torch.bfloat16),
        ("int8", "oscar", torch.float16),
    ],
)
@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(coverage=0.8), Budget(0.03), Budget(0.0)])
def test_kernels_are_a_step(keys: str, values: str, dtype: torch.dtype, policy: Policy) -> None:
    made = torch.Generator().manual_seed(4)
    cache = TieredCache(2, KV_HEADS, HEAD_DIM, 48, dtype, keys=keys, values=values, block=BLOCK)
    k, v = torch.randn(2, 2, TOKENS[0], KV_HEADS, HEAD_DIM, generator=made).to(dtype)
    cache.append(k, v, lengths=TOKENS)
    q = (2 * torch.randn(2, GROUP, HEAD_DIM, generator=made)).to(dtype)
    scale = HEAD_DIM**-0.5
    planned = Plan(cache, GROUP, policy, scale, dtype, splits=2, implementation=(kernels(), INTERPRETED))
    step = planned.run(q, out=planned.step())
    certificate = step.certificate
    assert not certificate.status.any()
    for s, n in enumerate(TOKENS):
        exact = float64.attention(q[s], k[s, :n, 0], v[s, :n, 0], scale)
        error = (step.output[s].double() - exact.output).norm(dim=-1)
        assert (error <= certificate.bound[s].double() + exact.error_ub).all()
    if isinstance(policy, Budget):
        assert ((certificate.bound <= certificate.tolerance) | (certificate.rung == 3)).all()
    twin = plan(cache, GROUP, policy)
    other = twin.run(q, out=twin.step()).certificate
    if "oscar" not in keys + values:
        # none of these decisions is near a tie; codes as operands are charged what no twin pays
        assert torch.equal(certificate.rung, other.rung)
        assert torch.equal(certificate.promoted, other.promoted)
        assert torch.equal(certificate.host_bytes, other.host_bytes)
    q[1, 1, 7] = float("inf")
    if not isinstance(policy, Naive):
        cache.originals.lose(0)
    planned.run(q, out=step)
    twin_step = twin.run(q, out=twin.step())
    assert torch.equal(certificate.status, twin_step.certificate.status)
    assert (certificate.status[1] == Status.NONFINITE_QUERY).all()
    assert step.position.tolist() == [-1, HEAD_DIM + 7]
    assert torch.isnan(step.output[1]).all()
    assert torch.isposinf(certificate.bound[1]).all()
