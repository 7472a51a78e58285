"""The first tier: bounds judged by the exact attention of the originals, twin and kernel, and what it leaves open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from certkv.fast import Budget, attend, first_tier
from certkv.fast import plan as planned
from certkv.fast.arithmetic import H200, INTERPRETED, TWIN, Arithmetic
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.choose import ACCEPT, REFINE
from certkv.fast.finish import Result
from certkv.fast.first_tier import Opened
from certkv.fast.kernels import attend as attend_kernel
from certkv.fast.kernels import first_tier as first_tier_kernel
from certkv.fast.resident import NORMS
from certkv.fast.rounding import rounding
from certkv.fast.spectral import Errors
from certkv.fast.split_terms import ANY_LOST, ANY_UP, block_terms
from certkv.fast.step import Step
from certkv.fast.totals import Totals, Unit
from certkv.fast.workspace import Workspace

from .attend_scene import Scene, scene
from .heads import of_heads

BOTH = [
    (attend.attend_twin, first_tier.first_tier, TWIN),
    (attend_kernel.launch, first_tier_kernel.first_tier, INTERPRETED),
]
HOW = pytest.mark.parametrize("how", BOTH, ids=["twin", "kernel"])
How = tuple[Callable[..., None], Callable[..., None], Arithmetic]
QUIET = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")

SMALL = {"lengths": [97], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 32, "values": "int8"}
SCENES = {
    "gqa": {"lengths": [100, 64], "q_heads": 4, "kv_heads": 2, "head_dim": 64, "block": 32, "values": "int4"},
    "pinned": {**SMALL, "lengths": [150], "pinned": 1},
    "groups": {"lengths": [70], "q_heads": 2, "kv_heads": 2, "head_dim": 64, "block": 16, "values": "int4-g32"},
    "odd": {"lengths": [61, 3], "q_heads": 3, "kv_heads": 1, "head_dim": 80, "block": 16, "values": "int8-g64"},
    "bfloat16": {**SMALL, "kv_heads": 2, "dtype": torch.bfloat16, "pinned": 1},
    "loud": {**SMALL, "values": "int4", "loud": 6.0},
    "faint": {**SMALL, "loud": 1e-4},
    "against": {**SMALL, "scale": -0.4},
    "few channels": {**SMALL, "head_dim": 20, "block": 16},
    "as many splits as warps": {**SMALL, "block": 16, "splits": 4},
    "more splits than are read at once": {**SMALL, "block": 16, "splits": 200},
    "whole rounds of splits": {**SMALL, "block": 16, "splits": 256},
}


def run(
    s: Scene, how: How, unit: Unit = "none", tolerance: float = 0.0, q: torch.Tensor | None = None
) -> tuple[Workspace, Totals, Opened]:
    passes, tier, model = how
    heads = (s.cache.batch, s.q.shape[1])
    ws, query = s.workspace(), s.q if q is None else q
    found = Totals.empty(*heads)
    opened = Opened.empty(torch.full(heads, 77, dtype=torch.uint8))
    costs = rounding(model, s.cache, s.splits, 0, torch.float32)
    passes(query, s.coded, s.cache.resident, s.scale, ws, costs)
    tier(query, s.coded, s.cache.resident, s.scale, costs, unit, tolerance, ws, found, opened, *rest(s))
    return ws, found, opened


def rest(s: Scene) -> tuple[torch.Tensor, torch.Tensor, Result]:
    """Where results go, and nothing that was refused."""
    step = Step.blank(s.cache.batch, s.q.shape[1], s.cache.head_dim, torch.float32)
    return torch.zeros(s.cache.batch, dtype=torch.int32), torch.zeros(s.cache.batch, dtype=torch.int64), step.result


def errors(s: Scene, output: torch.Tensor) -> torch.Tensor:
    """Distance from float64 attention of the originals, [batch, Hq]; its own error is 2^-40 of any bound here."""
    cache, group = s.cache, s.q.shape[1] // s.cache.kv_heads
    out = torch.zeros(output.shape[:2], dtype=torch.float64)
    for b, tokens in enumerate(cache.tokens):
        for h in range(s.q.shape[1]):
            blocks, tail = divmod(tokens, cache.block)
            originals = (cache.originals.keys, cache.originals.values)
            held = (cache.resident.keys, cache.resident.values)
            sides = [
                torch.cat([x[b, h // group, :blocks].flatten(0, 1), y[b, h // group, 1, :tail]])
                for x, y in zip(originals, held, strict=True)
            ]
            k, v = (x.to(torch.float64) for x in sides)
            exact = torch.softmax(k @ s.q[b, h].to(torch.float64) * s.scale, 0) @ v
            out[b, h] = (output[b, h].to(torch.float64) - exact).norm()
    return out


@QUIET
@HOW
@pytest.mark.parametrize("name", SCENES)
def test_bounds_hold(name: str, how: How) -> None:
    s = scene(**SCENES[name])  # type: ignore[arg-type]
    ws, found, opened = run(s, how)
    error = errors(s, ws.output)
    assert (error <= found.bound.to(torch.float64)).all()
    parts = found.key + found.value + found.arithmetic
    assert (parts >= found.bound).all()
    assert (opened.action == ACCEPT).all()
    assert torch.isinf(found.tolerance).all()


@QUIET
@pytest.mark.parametrize("name", SCENES)
def test_kernel_and_twin_agree(name: str) -> None:
    """With one arithmetic model both evaluate one formula; executed weights differ by single roundings.

    A share is a binary16 number, so two computations of it may differ by 2^-10, and a root of differences of squares by
    more; the terms are of first degree in the shares. So a hundredth is far more than the two may differ, and far less
    than any wrong factor would.
    """
    s = scene(**SCENES[name])  # type: ignore[arg-type]
    (_, twin, _), (_, kernel, _) = (run(s, (*how[:2], H200)) for how in BOTH)
    for part in ("bound", "key", "value"):
        # what is below 2^-90 is LOST, of numbers that are 0
        torch.testing.assert_close(getattr(kernel, part), getattr(twin, part), rtol=0.01, atol=2.0**-90)


@QUIET
@pytest.mark.parametrize("size", [2.0**13, 2.0**15])
def test_kernel_and_twin_agree_on_uncertain_resident_tokens(size: float) -> None:
    """Their scores' rounding is next to nothing; here it is 0.1 to 2, so that both of its exponentials count.

    Both add up one pass: they differ by single roundings, far less than a hundredth.
    """
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    passes, _, _ = BOTH[0]
    ws, costs = s.workspace(), rounding(H200, s.cache, s.splits, 0, torch.float32)
    passes(s.q, s.coded, s.cache.resident, s.scale, ws, costs)
    s.cache.resident.norms[..., NORMS.index("largest_key")] = size
    charge = replace(costs.first.resident, relative=2.0**-17)
    costs = costs._replace(first=replace(costs.first, resident=charge))
    found = []
    for _, tier, _ in BOTH:
        found.append(Totals.empty(*s.q.shape[:2]))
        opened = Opened.empty(torch.full(s.q.shape[:2], 77, dtype=torch.uint8))
        tier(s.q, s.coded, s.cache.resident, s.scale, costs, "none", 0.0, ws, found[-1], opened, *rest(s))
    twin, kernel = found
    torch.testing.assert_close(kernel.key, twin.key, rtol=0.01, atol=0.0)


@QUIET
@HOW
def test_never_below_the_second_tier(how: How) -> None:
    """The plan's bound, token by token, from the same pass: the first tier is at least that, and less than 20 times."""
    from certkv.fast import Naive, plan

    s = scene(**SCENES["gqa"])  # type: ignore[arg-type]
    _, found, _ = run(s, how)
    p = plan(s.cache, q_heads=s.q.shape[1], policy=Naive(), out_dtype=torch.float32)
    sharp = p.run(s.q, out=p.step()).certificate.bound
    # models, splits and weights differ in their last bits
    assert (found.bound >= sharp * 0.99).all()
    assert (found.bound <= sharp * 20.0).all()


@QUIET
@HOW
@pytest.mark.parametrize("unit", ["values", "output", "absolute"])
def test_what_misses_its_tolerance_stays_open(how: How, unit: Unit) -> None:
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    _, loose, opened = run(s, how, unit, 1e3)
    assert (opened.action == ACCEPT).all()
    assert (loose.bound <= loose.tolerance).all()
    _, tight, opened = run(s, how, unit, 1e-9)
    assert (opened.action == REFINE).all()
    assert (tight.bound > tight.tolerance).all()
    _, _, opened = run(s, how, unit, 0.0)
    assert (opened.action == REFINE).all()


@QUIET
@HOW
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_query_that_is_not_finite_stays_open(how: How, bad: float) -> None:
    s = scene(**SCENES["gqa"])  # type: ignore[arg-type]
    q = s.q.clone()
    q[1, 2, 5] = bad
    _, _, opened = run(s, how, "absolute", 1e3, q)
    assert opened.action[1, 2] == REFINE
    assert (opened.action[0] == ACCEPT).all()


@QUIET
@HOW
@pytest.mark.parametrize("field", ["key_notes", "value_notes"])
def test_annotations_that_mean_nothing_give_no_bound(how: How, field: str) -> None:
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    _, usual, _ = run(s, how, "absolute", 1e30)
    getattr(s.cache.pool, field)[s.cache.pages.table[0, 2]] = torch.nan
    ws, found, _ = run(s, how, "absolute", 1e30)
    # what is left without keys' notes is the largest distance of any value (theorem hull); without values', nothing
    assert (errors(s, ws.output) <= found.bound).all()
    assert (found.bound > 5.0 * usual.bound).all()
    assert torch.isinf(found.bound).all() == (field == "value_notes")


@QUIET
@pytest.mark.parametrize("forgotten", ["norm", "residual", "rounding", "slots"])
def test_planted_mistakes_show(forgotten: str) -> None:
    """Terms that are left out leave bounds below what the whole theorem promises for the same pass."""
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    passes, tier, model = BOTH[1]
    ws, whole, _ = run(s, BOTH[1])
    costs = rounding(model, s.cache, s.splits, 0, torch.float32)
    if forgotten == "norm":
        s.cache.pool.key_notes[..., 1:3] = 0.0
    elif forgotten == "residual":
        s.cache.pool.value_notes[..., 0] = 0.0
    elif forgotten == "rounding":
        costs = costs._replace(first=passes_without_rounding(costs.first))
    passes(s.q, s.coded, s.cache.resident, s.scale, ws, costs)
    if forgotten == "slots":
        ws.resident_reference.fill_(-torch.inf)
    found = Totals.empty(1, 2)
    opened = Opened.empty(torch.zeros(1, 2, dtype=torch.uint8))
    tier(s.q, s.coded, s.cache.resident, s.scale, costs, "none", 0.0, ws, found, opened, *rest(s))
    assert (found.bound != whole.bound).all()
    if forgotten != "slots":
        assert (found.bound < whole.bound).all()


@QUIET
@HOW
def test_what_shares_may_have_lost_is_charged(how: How) -> None:
    """With e more in every share of a coded block the output may be off by e times what that many tokens may.

    The first block's residual, score error and distance are at most the largest of any.
    """
    s = scene(**SCENES["gqa"])  # type: ignore[arg-type]
    passes, tier, model = how
    costs = rounding(model, s.cache, s.splits, 0, torch.float32)
    ws, found = s.workspace(), []
    passes(s.q, s.coded, s.cache.resident, s.scale, ws, costs)
    for lost in (2.0**-60, 2.0**-12):
        charged = costs._replace(first=replace(costs.first, share_lost=lost))
        one, opened = Totals.empty(2, 4), Opened.empty(torch.zeros(2, 4, dtype=torch.uint8))
        tier(s.q, s.coded, s.cache.resident, s.scale, charged, "none", 0.0, ws, one, opened, *rest(s))
        found.append(one)
    exact, lossy = found
    coded = torch.tensor([[96.0], [64.0]])  # tokens in blocks
    pages = s.cache.pages.table[:, 0].long()
    keys, values = (
        x[pages].float().repeat_interleave(2, 1) for x in (s.cache.pool.key_notes, s.cache.pool.value_notes)
    )
    scaled = s.q.float() * s.cache.pool.key_step[pages].float().repeat_interleave(2, 1)
    delta = s.scale * keys[..., 1] * scaled.norm(dim=-1)
    # a hundredth covers the roundings of two evaluations
    assert (lossy.value - exact.value >= 0.99 * 2.0**-12 * coded * values[..., 0]).all()
    others = (lossy.key + lossy.arithmetic) - (exact.key + exact.arithmetic)
    assert (others >= 0.99 * 2.0**-12 * coded * delta * values[..., 2]).all()


@QUIET
def test_what_shares_may_have_lost_is_charged_below_the_quotient() -> None:
    """Kernel and twin agree where so much may be lost that the exponential below the quotient is far from 1."""
    s, bounds = scene(**SCENES["gqa"]), []  # type: ignore[arg-type]
    for passes, tier, _ in BOTH:
        # one model for both: what is left is weights of 11 bits, by either from scores of its own
        costs, ws = rounding(BOTH[1][2], s.cache, s.splits, 0, torch.float32), s.workspace()
        passes(s.q, s.coded, s.cache.resident, s.scale, ws, costs)
        own = []
        for lost in (2.0**-60, 2.0**-4):
            first = replace(passes_without_rounding(costs.first), share_lost=lost, share_up=1.0)
            one, opened = Totals.empty(2, 4), Opened.empty(torch.zeros(2, 4, dtype=torch.uint8))
            charged = costs._replace(first=first)
            tier(s.q, s.coded, s.cache.resident, s.scale, charged, "none", 0.0, ws, one, opened, *rest(s))
            own.append(torch.stack([one.key, one.value]))
        bounds.append(own)
    for one, other in zip(*bounds, strict=True):
        torch.testing.assert_close(one, other, rtol=2.0**-9, atol=0.0)
    assert (bounds[0][1] > bounds[0][0]).all()


def passes_without_rounding(charges: Charges) -> Charges:
    none = ScoreCharge(0.0, 0.0)
    return replace(charges, coded=none, original=none, resident=none)


def again(s: Scene, how: How, ws: Workspace, unit: Unit, tolerance: float) -> tuple[Totals, Opened, Result]:
    """Run the first tier on what a pass left, as somebody changed it, for outputs in the originals' type."""
    _, tier, model = how
    heads = (s.cache.batch, s.q.shape[1])
    found, opened = Totals.empty(*heads), Opened.empty(torch.zeros(heads, dtype=torch.uint8))
    result = Step.blank(*heads, s.cache.head_dim, s.cache.dtype).result
    refused, moved = torch.zeros(heads[0], dtype=torch.int32), torch.zeros(heads[0], dtype=torch.int64)
    costs = rounding(model, s.cache, s.splits, 0, s.cache.dtype)
    tier(s.q, s.coded, s.cache.resident, s.scale, costs, unit, tolerance, ws, found, opened, refused, moved, result)
    return found, opened, result


@QUIET
@HOW
def test_an_output_beyond_binary16_is_brought_back(how: How) -> None:
    """Steps are rounded up, so codes may stand for more than 65504, which no original does."""
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    ws, _, _ = run(s, how)
    ws.part_o.abs_().mul_(1e6)
    _, _, result = again(s, how, ws, "none", 0.0)
    assert ws.output.max() > 65504.0
    assert result.output.isfinite().all()
    assert result.output.max() == 65504.0


@QUIET
@HOW
@pytest.mark.parametrize("name", ["gqa", "bfloat16", "odd", "few channels"])
def test_statistics_are_those_of_executed_weights(how: How, name: str) -> None:
    """Of blocks that a split has passed over, and the sums of the resident tokens' slots."""
    s = scene(**SCENES[name])  # type: ignore[arg-type]
    ws, _, _ = run(s, how)
    for b, tokens in enumerate(s.cache.tokens):
        blocks = slice(s.coded.first, max(tokens // s.cache.block, s.coded.first))
        p, seen = (of_heads(x)[b, :, blocks].double() for x in (ws.weights, ws.statistics))
        # sums of at most 64 numbers in binary32
        assert torch.allclose(seen[..., 0], p.sum(-1), rtol=2.0**-17, atol=0.0)
        assert torch.allclose(seen[..., 1], p.square().sum(-1), rtol=2.0**-17, atol=0.0)
        # some token's weight, and all are below what counts as the largest
        assert (p == seen[..., 2, None]).any(-1).all()
        assert (p.amax(-1) <= seen[..., 2] * ANY_UP + ANY_LOST).all()
        slots = ws.resident_weights[b].double().sum(-1)
        assert torch.allclose(ws.resident_sums[b].double(), slots, rtol=2.0**-17, atol=0.0)


def test_a_weight_may_be_above_that_of_the_largest_score() -> None:
    """By a step of binary16: a block with one token that weighs 1, and one step below it where scores are largest."""
    one, top, none = torch.ones(1), torch.full((1,), 1.0 - 2.0**-11), torch.zeros(1)
    small = Errors(torch.full((1,), 1.0), torch.full((1,), 1e-6))
    about, _, _ = block_terms(one, one, top, small, one, one, none, none, 16)
    # ||w delta|| is at most Omega, and not less where delta is all of this token's
    assert about >= 1e-6


@QUIET
@HOW
def test_resident_values_whose_sum_overflows_enforce_nothing(how: How) -> None:
    """Their mean is unknown, and unknown is 0 in a tolerance."""
    s = scene(**SCENES["bfloat16"])  # type: ignore[arg-type]
    ws, _, _ = run(s, how)
    plain, _, _ = again(s, how, ws, "values", 0.05)
    s.cache.resident.norms[..., NORMS.index("mean_value")] = torch.inf
    found, _, _ = again(s, how, ws, "values", 0.05)
    assert (found.tolerance < plain.tolerance).all()
    assert (found.tolerance > 0.0).all()


@QUIET
@HOW
@pytest.mark.parametrize("bad", [-1.0, torch.nan])
def test_norms_that_mean_nothing_leave_heads_open(how: How, bad: float) -> None:
    s = scene(**SCENES["pinned"])  # type: ignore[arg-type]
    ws, _, _ = run(s, how)
    s.cache.resident.norms.fill_(bad)
    found, opened, _ = again(s, how, ws, "absolute", 1e30)
    assert torch.isinf(found.bound).all()
    assert (opened.action == REFINE).all()


def test_memory_that_parts_share_is_counted_once() -> None:
    s = scene(**SCENES["gqa"])  # type: ignore[arg-type]
    parts = planned(s.cache, q_heads=4, policy=Budget(0.1)).parts
    tensors = [tensor for part in parts for tensor in ((part,) if isinstance(part, torch.Tensor) else part)]
    once = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    assert parts.opened.action is parts.choice.action
    assert parts.nbytes == sum(once.values())
