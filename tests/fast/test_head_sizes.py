"""Steps of interpreted kernels over rotated formats at every kind of head size, any number of query heads per KV head.

A head size is rotated in blocks of its binary expansion, so what matters are its bits: one of them, neighbours, all of
those from 8 to 128.
"""

from __future__ import annotations

import pytest
import torch

from certkv.fast import float64
from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan
from certkv.fast.policies import Budget

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

TOKENS, BLOCK = 41, 16
SHAPES = ((8, 17), (24, 5), (56, 3), (120, 1), (136, 2), (248, 6))
"""Head sizes with query heads per KV head."""


@pytest.mark.parametrize(("head_dim", "group"), SHAPES)
def test_a_step_is_within_its_bound(head_dim: int, group: int) -> None:
    draw = torch.Generator().manual_seed(head_dim)
    dtype = (torch.float16, torch.bfloat16)[group % 2]
    cache = TieredCache(1, 1, head_dim, 64, dtype, keys="oscar", values="oscar", block=BLOCK)
    k, v = torch.randn(2, 1, TOKENS, 1, head_dim, generator=draw).to(dtype)
    cache.append(k, v)
    q = (0.3 * torch.randn(1, group, head_dim, generator=draw)).to(dtype)
    scale, implementation = head_dim**-0.5, (kernels(), INTERPRETED)
    made = Plan(cache, group, Budget(0.1), scale, torch.float32, splits=2, implementation=implementation)
    step = made.run(q, out=made.step())
    step.check()
    bound, rung = step.certificate.bound, step.certificate.rung
    assert ((bound <= step.certificate.tolerance) | (rung == 3)).all()
    assert step.certificate.promoted.any()
    exact = float64.attention(q[0], k[0, :, 0], v[0, :, 0], scale)
    error = (step.output[0].double() - exact.output).norm(dim=-1)
    assert (error <= bound[0].double() + exact.error_ub).all()
