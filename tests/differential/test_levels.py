"""Levels between codes and originals, piece by piece: choices, errors, terms, corrections and bytes.

A divided format with all its planes *is* the finer format it was cut from, so that what is said of its last level must
be what is said of a cache in that format: the same numbers, bit for bit, as steps and notes differ by powers of two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from certkv import fast
from certkv.fast import certify as of_certify
from certkv.fast import choose, levels, refine
from certkv.fast.certify import Finer, Foreseen, Pass, Terms
from certkv.fast.choose import cheapest_until
from certkv.fast.decoded import stored_keys
from certkv.fast.finer_errors import FinerErrors, finer_score_error
from certkv.fast.formats import Encoded
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.planes import Planes
from certkv.fast.score_error import ScoreErrors, score_error
from certkv.reference.selection import cheapest_levels

Plant = Callable[[pytest.MonkeyPatch], None]
KV_HEADS, GROUP, BLOCK, HEAD_DIM, TOKENS = 2, 3, 16, 64, 300


def tokens(seed: int, dtype: torch.dtype = torch.float16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw queries, keys and values."""
    made = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, 1, TOKENS, KV_HEADS, HEAD_DIM, generator=made).to(dtype)
    q = torch.randn(1, KV_HEADS * GROUP, HEAD_DIM, generator=made)
    at = torch.randint(0, TOKENS, (KV_HEADS * GROUP,), generator=made)
    q[0, ::2] += 0.4 * k[0, at, torch.arange(KV_HEADS * GROUP) // GROUP].float()[::2]
    return q.to(dtype), k, v


def cache_of(keys: str, values: str, seed: int, dtype: torch.dtype = torch.float16, **more: Any) -> Any:
    """Make a cache and a query."""
    q, k, v = tokens(seed, dtype)
    cache = fast.TieredCache(1, KV_HEADS, HEAD_DIM, TOKENS + 20, dtype, keys=keys, values=values, block=BLOCK, **more)
    cache.append(k, v)
    return cache, q


def planned(cache: fast.TieredCache, policy: fast.Budget) -> fast.Plan:
    """Plan a step in float32."""
    return fast.plan(cache, KV_HEADS * GROUP, policy, out_dtype=torch.float32)


# choices


def cost_of(chosen: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]) -> float:
    """Cost of a choice."""
    return float(sum(cost[i, level - 1] for i, level in enumerate(chosen) if level))


@pytest.mark.parametrize("seed", range(40))
def test_a_choice_suffices_and_costs_less_than_the_cheapest_and_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, planes = 6, int(rng.integers(1, 3))
    gain = rng.random((items, planes + 1)) * 2.0 ** rng.integers(-8, 8, (items, 1))
    gain = np.sort(gain, -1) if seed % 2 else gain
    cost = np.cumsum(rng.integers(1, 5, (items, planes + 1)) / 8.0, -1)
    best = gain.max(-1)
    need = float(best.sum() * rng.uniform(0.05, 0.98))
    mine = [torch.tensor(x, dtype=torch.float32)[None] for x in (gain, cost)]
    level, enough = cheapest_until(mine[0], mine[1], torch.tensor([need]))
    chosen = level[0].numpy()
    assert bool(enough[0])
    # FP32 sums of at most 8 numbers, and the prices between which a step flips
    assert sum(gain[i, j - 1] for i, j in enumerate(chosen) if j) >= need * (1 - 2.0**-18)
    options = itertools.product(range(planes + 2), repeat=items)
    sufficient = [o for o in options if sum(gain[i, j - 1] for i, j in enumerate(o) if j) >= need * (1 + 2.0**-18)]
    cheapest = min(cost_of(np.array(o), cost) for o in sufficient)
    assert cost_of(chosen, cost) < cheapest + cost.max() + 2.0**-18
    theirs = cheapest_levels(gain[None], cost[None], np.array([need]))[0]
    assert cost_of(chosen, cost) <= cost_of(theirs, cost) + cost.max() + 2.0**-18


def every_choice_is_near_the_cheapest() -> None:
    """All draws of the test above."""
    for seed in range(40):
        test_a_choice_suffices_and_costs_less_than_the_cheapest_and_a_step(seed)


def test_what_is_unknown_is_read_as_originals_alone() -> None:
    gain = torch.tensor([[[0.5, 1.0], [0.0, torch.inf], [torch.inf, torch.inf]]])
    level, enough = cheapest_until(gain, torch.tensor([0.25, 1.0]).expand(1, 3, 2), torch.tensor([0.1]))
    assert bool(enough[0])
    assert level[0].tolist() == [0, 2, 2]
    level, enough = cheapest_until(gain[:, :1], torch.tensor([[[0.25, 1.0]]]), torch.tensor([1.5]))
    assert not bool(enough[0])
    assert level[0].tolist() == [0]


def test_bytes_of_levels() -> None:
    """Every byte that may occur: levels only rise, and originals are used where they were read."""
    made = [o | k << 3 | v << 5 for o in range(4) for k in range(4) for v in range(4)]
    before, after = (x.flatten() for x in torch.meshgrid(*[torch.tensor(made, dtype=torch.uint8)] * 2, indexing="ij"))
    joined = levels.raised(before, after)
    assert joined.dtype == torch.uint8
    for side in (0, 1):
        parts = [levels.planes(x, side) for x in (before, after, joined)]
        assert (parts[2] == torch.maximum(parts[0], parts[1])).all()
        originals = [(x & levels.ORIGINAL[side]) != 0 for x in (before, after, joined)]
        assert (originals[2] == (originals[0] | originals[1])).all()
        assert (levels.used(joined, side, 3)[originals[2]] == 4).all()
        assert (levels.used(joined, side, 3) == parts[2])[~originals[2]].all()


# errors and terms


def pass_of(plan: fast.Plan, byte: int) -> Pass:
    """Return the last pass of a plan, with every block at one level."""
    ws = plan.ws
    return Pass(ws.weights, ws.reference, ws.m, ws.l, ws.output, torch.full_like(ws.levels, byte))


def terms_at_the_last_level(seed: int, dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return what is said of the last level of a divided format, and of the finer format."""
    coarse, q = cache_of("int4+4", "int4+4", seed, dtype)
    fine, _ = cache_of("int8", "int8", seed, dtype)
    one, other = (planned(cache, fast.Budget(0.0)) for cache in (coarse, fine))
    heads, blocks, scale = KV_HEADS * GROUP, coarse.max_blocks, one.scale
    other.run(q, other.step())
    finer = FinerErrors.empty(1, 1, heads, blocks, "cpu")
    finer_score_error(q, one.coded, scale, finer)
    base, errors = (ScoreErrors(*(torch.empty(1, heads, blocks) for _ in range(3))) for _ in range(2))
    score_error(q, one.coded, scale, 0.0, base)
    score_error(q, other.coded, scale, 0.0, errors)
    charges, active = other.rounding.first, torch.ones(1, heads, dtype=torch.uint8)
    mine, its = Terms.empty(1, heads, blocks), Terms.empty(1, heads, blocks)
    foreseen = Foreseen.empty((1, 1), 1, heads, blocks)
    of_certify.certify(pass_of(other, 0), other.coded, errors, charges, its, active)
    of_certify.certify(pass_of(other, 0), one.coded, base, charges, mine, active, Finer(finer, foreseen))
    said = Terms.empty(1, heads, blocks)
    of_certify.certify(pass_of(other, 1 << 3 | 1 << 5), one.coded, base, charges, said, active, Finer(finer, foreseen))
    return {
        "delta": (finer.delta[0], errors.delta),
        "omega": (finer.omega[0], errors.omega),
        "foreseen value": (foreseen.value[0], its.value),
        "value": (said.value, its.value),
        "distances apart": (said.key_gain.isfinite(), its.key_gain.isfinite()),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_level_of_a_divided_format_is_the_finer_format(seed: int, dtype: torch.dtype) -> None:
    for name, (mine, its) in terms_at_the_last_level(seed, dtype).items():
        assert torch.equal(mine, its), name


# corrections


def used_values(plan: fast.Plan, side: int, kv: int, block: int) -> list[torch.Tensor]:
    """Return a block's keys (side 0) or values at every level, originals last, float64 [B, d]."""
    cache, pool = plan.cache, plan.cache.pool
    page = cache.pages.pages(0)[block]
    names = ("key", "value")[side]
    fmt: Any = (key_format(cache.keys), value_format(cache.values))[side]
    stored = Encoded(*(getattr(pool, f"{names}_{part}")[page, kv] for part in ("codes", "step", "minimum")))
    if side == 0:
        stored = stored_keys(pool, torch.tensor(page), torch.tensor(kv))
    planes = tuple(x[page, kv] for x in cache.planes.sides[side])
    coded = [fmt.decode_level(stored, planes[:n], BLOCK)[0] for n in range(len(planes) + 1)]
    original = (cache.originals.keys, cache.originals.values)[side][0, kv, block].double()
    return [*coded, original]


def correction_is_right(keys: str, values: str, seed: int, tolerance: float) -> int:
    """Recompute weights and outputs of a step from the levels it says it used; return how many blocks were raised.

    Weights of a raised key are those of its score in float64, to a rounding of binary16 (2^-11) and what binary32 does
    to scores of less than 2^6 bits (2^-17); outputs are corrected in float64 and rounded to binary32 each round, and
    their sums were taken in binary32 over 300 tokens: 2^-13 of the largest value norm is more than either loses.
    """
    cache, q = cache_of(keys, values, seed)
    plan = planned(cache, fast.Budget(tolerance))
    step = plan.run(q, plan.step())
    ws, raised = plan.ws, 0
    for head in range(KV_HEADS * GROUP):
        if int(step.certificate.rung[0, head]) == 3 or not ws.levels[0, head].any():
            continue
        kv, g = divmod(head, GROUP)
        total, out = torch.zeros((), dtype=torch.float64), torch.zeros(HEAD_DIM, dtype=torch.float64)
        for block in range(1, cache.blocks(0)):
            byte, weights = ws.levels[0, head, block], ws.weights[0, kv, block, g].double()
            at = [int(levels.used(byte, side, len(cache.planes.sides[side]))) for side in (0, 1)]
            k, v = (used_values(plan, side, kv, block)[at[side]] for side in (0, 1))
            if at[0]:
                bits = (k @ q[0, head].double()) * plan.scale * 1.4426950408889634 - ws.reference[
                    0, kv, block, g
                ].double()
                assert (torch.abs(weights / torch.exp2(bits) - 1.0) < 2.0**-11 + 2.0**-15).all()
                raised += 1
            raised += at[1] > 0
            w = weights * torch.exp2(ws.reference[0, kv, block, g].double() - ws.m[0, head].double())
            total, out = total + w.sum(), out + w @ v
        for slot in (0, 1):
            w = ws.resident_weights[0, head, slot].double()
            live = w > 0
            shift = ws.resident_reference[0, head, slot].double() - ws.m[0, head].double()
            if live.any():
                w = w[live] * torch.exp2(shift)
                held = cache.resident.values[0, kv, slot][live].double()
                total, out = total + w.sum(), out + w @ held
        apart = (step.output[0, head].double() - out / total).norm()
        assert apart < 2.0**-13 * cache.originals.values[0, kv].double().nan_to_num(0.0).norm(dim=-1).max()
    return raised


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ("int8+4", "int4-g32+4"),
        ("int8+4", "int4+4"),
        ("int4+4", "int8-g64+4"),
        ("int8+4", "oscar+2+4"),
        ("oscar+2+4", "int4-g32+4"),
        ("oscar+2+4", "oscar+2+4"),
    ],
)
def test_states_are_those_of_the_levels_that_were_read(keys: str, values: str) -> None:
    raised = sum(correction_is_right(keys, values, seed, t) for seed in range(2) for t in (0.3, 0.05, 0.02, 0.01))
    assert raised > 100


# faults


def test_planes_are_missing_where_they_are_wanted_and_nowhere_else() -> None:
    cache, q = cache_of("int8+4", "int4-g32+4", 1)
    cache.originals.lose()
    step = fast.decode(q, cache, fast.Budget(0.05))  # planes are enough
    assert int(step.certificate.plane_bytes.sum()) > 0
    assert not step.certificate.promoted.any()
    cache.planes.lose(kv_head=0)
    with pytest.raises(fast.HostMissingError):
        fast.decode(q, cache, fast.Budget(0.05))
    fast.decode(q, cache, fast.Budget(0.5))
    assert not fast.decode(q, cache, fast.Naive()).certificate.plane_bytes.any()


@pytest.mark.parametrize(("values", "place"), [("int4-g32+4", "host"), ("int4-g32+4", "device"), ("oscar+2+4", "host")])
def test_a_flipped_bit_of_a_plane_is_noticed_and_repaired(values: str, place: Any) -> None:
    cache, q = cache_of("int8+4", values, 2, planes=place)
    held = {name: x.clone() for name, x in cache.pool.tensors().items()}
    planes = [x.clone() for x in (*cache.planes.keys, *cache.planes.values)]
    cache.verify(originals=True)
    wanted = planned(cache, fast.Budget(0.05))
    wanted.run(q, wanted.step())
    block = int((wanted.ws.levels[0, 0] >> 5).nonzero()[0])
    page = cache.pages.pages(0)[block]
    cache.planes.values[0][page, 0, 3, 5] ^= 4
    cache.pool.finer_value_notes[cache.pages.pages(0)[2], 1, 0, 0] *= 0.5
    with pytest.raises(fast.CorruptionError):
        cache.verify(originals=True)
    checked = fast.plan(cache, KV_HEADS * GROUP, fast.Budget(0.05), verify="step")
    step = checked.run(q, checked.step())
    assert int(step.certificate.status[0, 0]) == fast.Status.CHECKSUM
    assert not step.certificate.plane_bytes.any()
    found = cache.repair()
    assert {(d.part, d.block) for d in found} == {("refinement planes", block), ("codes, metadata or annotations", 2)}
    cache.verify(originals=True)
    for name, tensor in cache.pool.tensors().items():
        assert torch.equal(tensor.view(torch.uint8), held[name].view(torch.uint8)), name
    for mine, was in zip((*cache.planes.keys, *cache.planes.values), planes, strict=True):
        assert torch.equal(mine, was)
    cache.planes.keys[0][cache.pages.pages(0)[-1], 1] ^= 1
    loose = fast.plan(cache, KV_HEADS * GROUP, fast.Budget(0.5), verify="step")
    assert int(loose.run(q, loose.step()).certificate.status[0, 0]) == fast.Status.OK


@pytest.mark.parametrize(("values", "place"), [("int4-g32+4", "host"), ("oscar+2+4", "device")])
def test_missing_planes_are_cut_again_where_their_originals_are_there(values: str, place: Any) -> None:
    cache, q = cache_of("int8+4", values, 2, planes=place)
    planes = [x.clone() for x in (*cache.planes.keys, *cache.planes.values)]
    before = fast.decode(q, cache, fast.Budget(0.02))
    cache.planes.lose(0)
    cache.originals.lose(0, 1, 2)
    found = cache.repair()
    missing = {(b, h) for b in range(cache.blocks(0)) for h in range(KV_HEADS)} - {(2, 1)}
    assert {(d.part, d.block, d.kv_head) for d in found} == {("refinement planes", b, h) for b, h in missing}
    assert cache.planes.present[cache.pages.pages(0)].sum() == len(missing)
    gone = cache.pages.pages(0)[2]
    for mine, was in zip((*cache.planes.keys, *cache.planes.values), planes, strict=True):
        mine[gone, 1] = was[gone, 1]
        assert torch.equal(mine, was)
    cache.verify(originals=True)
    assert cache.repair() == []
    cache.planes.present[gone, 1] = cache.originals.present[0, 1, 2] = 1
    assert torch.equal(fast.decode(q, cache, fast.Budget(0.02)).output, before.output)


def test_memory_counts_planes_where_they_lie() -> None:
    for place in ("host", "device"):
        cache, _ = cache_of("int8+4", "int4-g32+4", 3, planes=place)
        rows = {row.part: row for row in cache.memory().rows}
        assert rows["refinement planes"].where == place
        pages = len(cache.pool.key_codes)
        assert rows["refinement planes"].nbytes == 2 * pages * KV_HEADS * (BLOCK // 2) * HEAD_DIM
        assert rows["which planes are there"].nbytes == 9 * pages * KV_HEADS
    plain, _ = cache_of("int8", "int4-g32", 3)
    assert not any("plane" in row.part for row in plain.memory().rows)
    # four scalars of keys; three, and a code per token, of values
    assert cache.pool.note_bytes - plain.pool.note_bytes == pages * KV_HEADS * (8 + 6 + BLOCK)


# planted mistakes


def notes_of_another_level(patch: pytest.MonkeyPatch) -> None:
    """A block at its planes is certified with the notes of its base."""
    patch.setattr(of_certify, "used", lambda byte, side, count: levels.used(byte, side, count).clamp(max=0))


def foreseen_from_the_base(patch: pytest.MonkeyPatch) -> None:
    real = of_certify._finer_residuals

    def found(coded: Any, ratios: torch.Tensor) -> Any:
        return [(eta, 2.0 * largest, operator) for eta, largest, operator in real(coded, ratios)]

    patch.setattr(of_certify, "_finer_residuals", found)


def planes_in_the_other_nibble(patch: pytest.MonkeyPatch) -> None:
    real = refine._finer

    def swapped(fmt: Any, stored: Any, store: Any, *more: Any) -> Any:
        return real(fmt, stored, tuple((x >> 4) | (x << 4) for x in store), *more)

    patch.setattr(refine, "_finer", swapped)


def values_before_are_the_base(patch: pytest.MonkeyPatch) -> None:
    """What a correction takes off is the base, whatever the block was at: wrong from the second round on."""
    real, count = levels.used, iter(range(10**9))

    def used(byte: torch.Tensor, side: int, planes: int) -> torch.Tensor:
        # in refine: twice for `_reach`, then before and after of keys, before and after of values
        found = real(byte, side, planes)
        return torch.zeros_like(found) if side == 1 and next(count) % 2 == 0 else found

    patch.setattr(refine, "used", used)


def levels_fall(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refine, "raised", lambda before, chosen: chosen & ~torch.tensor(4, dtype=torch.uint8))


@pytest.mark.parametrize("plant", [notes_of_another_level, foreseen_from_the_base])
def test_a_mistake_in_the_terms_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_last_level_of_a_divided_format_is_the_finer_format(0, torch.float16)


@pytest.mark.parametrize("plant", [planes_in_the_other_nibble, values_before_are_the_base, levels_fall])
def test_a_mistake_in_the_corrections_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_states_are_those_of_the_levels_that_were_read("int8+4", "int4-g32+4")


def the_first_plane_alone(patch: pytest.MonkeyPatch) -> None:
    """Every level above the base is read as the first."""
    real = refine._finer

    def found(*given: Any) -> Any:
        levels_ = real(*given)
        return [levels_[0]] * len(levels_)

    patch.setattr(refine, "_finer", found)


def levels_without_norms(patch: pytest.MonkeyPatch) -> None:
    """Levels above the base forget the norms of tokens."""
    real = refine._finer
    patch.setattr(refine, "_finer", lambda fmt, stored, *given: real(fmt, stored._replace(norm=None), *given))


def levels_that_are_not_turned(patch: pytest.MonkeyPatch) -> None:
    """Levels above the base stay in the rotated basis, though keys and values of the base do not."""
    real = refine._finer

    def found(fmt: Any, *given: Any) -> Any:
        return real(SimpleNamespace(decode_level=fmt.decode_level_rotated), *given)  # type: ignore[arg-type]

    patch.setattr(refine, "_finer", found)


@pytest.mark.parametrize("plant", [the_first_plane_alone, levels_without_norms, levels_that_are_not_turned])
def test_a_mistake_in_several_planes_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_states_are_those_of_the_levels_that_were_read("oscar+2+4", "oscar+2+4")


def test_a_choice_that_is_not_paid_for_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dear is taken for cheap: the choice is no longer near the cheapest."""
    real = choose.cheapest_until
    monkeypatch.setitem(globals(), "cheapest_until", lambda gain, cost, need: real(gain, 1.0 / cost, need))
    with pytest.raises(AssertionError):
        every_choice_is_near_the_cheapest()


def test_planes_without_presence_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planes, "lose", lambda *_, **__: None)
    with pytest.raises(pytest.fail.Exception):
        test_planes_are_missing_where_they_are_wanted_and_nowhere_else()
