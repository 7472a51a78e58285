"""The ladder in one launch, in Triton's interpreter: bit for bit its parts one after another, or nothing at all."""

from __future__ import annotations

import pytest
import torch

from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan
from certkv.fast.policies import Budget
from certkv.fast.step import Step
from certkv.fast.verify import Verify

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]

TOKENS, KV_HEADS, GROUP, HEAD_DIM, BLOCK = (61, 19), 1, 2, 16, 8
CASES = {
    "no scratch": (Budget(0.04), 0),
    "one slot": (Budget(0.04), 1),
    "room": (Budget(0.04), 64),
    "one round": (Budget(0.02, rounds=1), 0),
    "rung 3": (Budget(0.0), 1),
    "of outputs": (Budget(0.05, "output"), 0),
}


def made(policy: Budget, slots: int, one: bool, verify: bool = False) -> tuple[Plan, torch.Tensor]:
    """Plan a step whose ladder is one launch, or one per part."""
    draw = torch.Generator().manual_seed(4)
    sizes = (2, KV_HEADS, HEAD_DIM, 64, torch.float16)
    cache = TieredCache(*sizes, values="int4", block=BLOCK, scratch_bytes=slots * BLOCK * HEAD_DIM * 2)
    k, v = torch.randn(2, 2, TOKENS[0], KV_HEADS, HEAD_DIM, generator=draw).half()
    cache.append(k, v, lengths=TOKENS)
    q = (2.0 * torch.randn(2, GROUP, HEAD_DIM, generator=draw)).half()
    use = kernels() if one else kernels()._replace(ladder=None)
    how: Verify = "step" if verify else "off"
    planned = Plan(cache, GROUP, policy, 0.25, torch.float16, splits=2, implementation=(use, INTERPRETED), verify=how)
    return planned, q


def written(planned: Plan, step: Step) -> list[torch.Tensor]:
    """List what a step returns, and what it leaves for the next."""
    scratch = planned.cache.scratch
    # slots that were never filled are NaN; steps in which nothing is promoted need no number
    state = [planned.ws.levels, planned.ws.weights, scratch.table, scratch.holder, scratch.marks[:1]]
    state.append(scratch.pool.view(torch.int16))
    return [step.output, step.lse, step.moved_bytes, step.position, *vars(step.certificate).values(), *state]


@pytest.mark.parametrize(("policy", "slots"), CASES.values(), ids=CASES)
def test_one_launch_is_its_parts(policy: Budget, slots: int) -> None:
    whole, q = made(policy, slots, one=True)
    parts, _ = made(policy, slots, one=False)
    for gain in (1.0, 0.5):
        steps = [planned.run(q * gain, out=planned.step()) for planned in (whole, parts)]
        pairs = zip(written(whole, steps[0]), written(parts, steps[1]), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)


def test_rounds_and_rungs_are_all_met() -> None:
    """The comparison is of something: blocks are promoted, in more than one round, and heads go to rung 3."""
    rungs = set()
    for policy in (Budget(0.1), Budget(0.04), Budget(0.0)):
        planned, q = made(policy, 0, one=True)
        rungs |= set(planned.run(q, out=planned.step()).certificate.rung.flatten().tolist())
    assert {1, 2, 3} & rungs == {2, 3}


def test_nothing_is_done_where_no_head_is_open() -> None:
    planned, q = made(Budget(1e6, "absolute"), 0, one=True)
    planned.ws.levels.fill_(0xAA)
    step = planned.run(q, out=planned.step())
    assert not step.certificate.rung.any()
    assert (planned.ws.levels == 0xAA).all()
    assert int(planned.parts.met) == 0


def test_the_flag_is_cleared() -> None:
    planned, q = made(Budget(0.04), 0, one=True)
    planned.run(q, out=planned.step())
    assert int(planned.parts.opened.some) == 0
    assert int(planned.parts.met) > 0


def test_steps_that_compare_checksums_always_run_it() -> None:
    """What is compared is what the step's levels say was read: they must be this step's."""
    planned, q = made(Budget(1e6, "absolute"), 0, one=True, verify=True)
    planned.ws.levels.fill_(3)
    step = planned.run(q, out=planned.step())
    step.check()
    assert not planned.ws.levels.any()
    assert int(planned.parts.met) > 0
