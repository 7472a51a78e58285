"""Scratch by itself: kernel and twin decide alike, what is moved is counted, what it may not do, it leaves alone."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

from certkv.fast.arithmetic import INTERPRETED
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Status
from certkv.fast.choose import KEYS, VALUES, Choice, compact
from certkv.fast.errors import SettingError
from certkv.fast.host import Originals
from certkv.fast.kernels.scratch import launch
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, PaperPolicy
from certkv.fast.refine import CHECKED
from certkv.fast.scratch import COUNT, HAND, NOWHERE, Scratch, fetch_twin, tile

from .scratch_machine import require_same, require_true, same_bits

INTERPRETER = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]
WAYS = [pytest.param(fetch_twin, id="twin"), pytest.param(launch, id="kernel", marks=INTERPRETER)]
BLOCK, HEAD_DIM, GROUP = 4, 8, 2
BLOCK_BYTES = 2 * BLOCK * HEAD_DIM


class Scene:
    """Filled originals, scratch before them, and work lists to be drawn."""

    def __init__(self, batch: int, kv_heads: int, max_blocks: int, slots: int, place: Any = "host") -> None:
        cpu, heads = torch.device("cpu"), kv_heads * GROUP
        self.made = torch.Generator().manual_seed(batch + 10 * slots)
        self.originals = Originals(batch, kv_heads, max_blocks, BLOCK, HEAD_DIM, torch.bfloat16, place, cpu)
        for store in (self.originals.keys, self.originals.values):
            store.copy_(torch.randn(store.shape, generator=self.made))
        self.originals.present.fill_(1)
        self.scratch = Scratch.empty(
            slots, batch, kv_heads, max_blocks, BLOCK, HEAD_DIM, self.originals.keys.dtype, cpu
        )
        self.choice = Choice.empty(batch, heads, kv_heads, max_blocks)
        self.levels = torch.zeros(batch, heads, max_blocks, dtype=torch.uint8)
        self.moved = torch.zeros(batch, dtype=torch.int64)

    def choose(self, *items: tuple[int, int, int, int]) -> None:
        """Choose ``(sequence, query head, block, bits)``."""
        self.choice.chosen.zero_()
        for s, head, block, bits in items:
            self.choice.chosen[s, head, block] |= bits
        compact(self.choice)

    def draw(self, share: float) -> None:
        """Choose any sides of a share of all blocks, at any levels."""
        shape = self.levels.shape
        self.levels.copy_(torch.randint(0, 4, shape, generator=self.made))
        drawn = torch.randint(0, 8, shape, generator=self.made) * (torch.rand(shape, generator=self.made) < share)
        self.choice.chosen.copy_(drawn)
        compact(self.choice)

    def fetch(self, how: Any = fetch_twin, first: bool = True) -> int:
        """Fetch; return the blocks moved."""
        before = int(self.moved.sum())
        how(self.choice, self.levels, self.originals, self.scratch, self.moved, first)
        return (int(self.moved.sum()) - before) // BLOCK_BYTES

    def resident(self) -> set[tuple[int, ...]]:
        """``(sequence, KV head, block, side)`` of what is resident."""
        return {tuple(item) for item in (self.scratch.table != NOWHERE).nonzero().tolist()}


@pytest.mark.parametrize(("batch", "kv_heads", "max_blocks", "slots"), [(1, 1, 9, 5), (3, 2, 7, 30), (2, 5, 70, 1100)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
def test_kernel_and_twin_decide_alike(batch: int, kv_heads: int, max_blocks: int, slots: int) -> None:
    """All tables, counters and slots, bit for bit, through many rounds of any choices, resets and losses."""
    one, other = (Scene(batch, kv_heads, max_blocks, slots) for _ in range(2))
    for round_ in range(24):
        share = (0.02, 0.3, 1.0)[round_ % 3]
        for scene in (one, other):
            scene.draw(share)
            if round_ % 7 == 5:
                scene.scratch.clear(round_ % batch)
            if round_ % 7 == 6:
                scene.originals.present[round_ % batch, 0, round_ % max_blocks] = 0
        assert one.fetch(first=round_ % 4 != 1) == other.fetch(launch, round_ % 4 != 1)
        for field in fields(Scratch):
            mine, its = (getattr(scene.scratch, field.name) for scene in (one, other))
            if field.name == "listed":
                mine, its = (x[: int(one.scratch.marks[COUNT])] for x in (mine, its))
            assert same_bits(mine, its), field.name
        assert torch.equal(one.moved, other.moved)


@pytest.mark.parametrize("how", WAYS)
def test_heads_of_a_group_share_what_is_fetched(how: Any) -> None:
    scene = Scene(2, 2, 5, 8)
    scene.choose((0, 0, 3, KEYS | VALUES), (0, 1, 3, KEYS), (0, 2, 3, KEYS), (1, 3, 4, CHECKED))
    assert scene.fetch(how) == 4
    assert scene.resident() == {(0, 0, 3, 0), (0, 0, 3, 1), (0, 1, 3, 0), (1, 1, 4, 0)}
    assert scene.moved.tolist() == [3 * BLOCK_BYTES, BLOCK_BYTES]
    assert scene.fetch(how) == 0
    # values that are original already are read again where the weights change
    scene.levels[0, 2, 3] = VALUES
    assert scene.fetch(how) == 1


@pytest.mark.parametrize("how", WAYS)
def test_slots_go_round_and_pass_over_what_the_step_uses(how: Any) -> None:
    scene = Scene(1, 1, 9, 3)
    scene.choose((0, 0, 1, KEYS), (0, 0, 2, KEYS))
    scene.fetch(how)
    assert (scene.resident(), int(scene.scratch.marks[HAND])) == ({(0, 0, 1, 0), (0, 0, 2, 0)}, 2)
    scene.choose((0, 0, 3, KEYS), (0, 0, 4, KEYS))
    scene.fetch(how)
    assert scene.resident() == {(0, 0, 2, 0), (0, 0, 3, 0), (0, 0, 4, 0)}
    # a second round of the same step leaves what the first one uses; what gets no slot is not moved here
    scene.choose((0, 0, 5, KEYS), (0, 0, 6, KEYS))
    assert scene.fetch(how, first=False) == 1
    assert scene.resident() == {(0, 0, 3, 0), (0, 0, 4, 0), (0, 0, 5, 0)}
    assert scene.fetch(how, first=False) == 0
    # in the next step what it uses stays, wherever the hand is
    scene.choose((0, 0, 4, KEYS), (0, 0, 7, KEYS), (0, 0, 8, KEYS))
    assert scene.fetch(how) == 2
    assert scene.resident() == {(0, 0, 4, 0), (0, 0, 7, 0), (0, 0, 8, 0)}


@pytest.mark.parametrize("how", WAYS)
def test_what_is_missing_is_not_fetched(how: Any) -> None:
    scene = Scene(1, 1, 4, 8)
    scene.originals.present[0, 0, 2] = 0
    scene.choose((0, 0, 1, KEYS), (0, 0, 2, KEYS | VALUES))
    assert scene.fetch(how) == 1
    assert scene.resident() == {(0, 0, 1, 0)}


@pytest.mark.parametrize("how", WAYS)
def test_nothing_happens_where_nothing_is_chosen_or_there_is_no_scratch(how: Any) -> None:
    scene = Scene(1, 1, 4, 8)
    scene.choose((0, 0, 1, KEYS))
    scene.fetch(how)
    kept = scene.scratch.table.clone()
    scene.choose()
    assert scene.fetch(how) == 0
    assert torch.equal(scene.scratch.table, kept)
    assert int(scene.scratch.marks[COUNT]) == 0
    none = Scene(1, 1, 4, 0)
    none.choose((0, 0, 1, KEYS))
    assert none.fetch(how) == 0


def test_a_tile_has_all_its_places() -> None:
    for lists in (1, 2, 3, 8, 40, 64, 65, 1000):
        at_once, ranks = tile(lists)
        assert at_once * ranks == 512
        assert at_once >= min(lists, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scratch_bytes": -1}, "scratch_bytes is -1; give at least 0"),
        ({"scratch_bytes": 1.5}, r"scratch_bytes is 1\.5; give a whole number"),
        (
            {"scratch_bytes": BLOCK_BYTES - 1},
            "scratch_bytes is 63, but one side of a block of one KV head takes 64; give",
        ),
        ({"scratch_bytes": 64, "originals": "device"}, "originals on the device are read in place; give 0"),
    ],
)
def test_sizes_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TieredCache(1, 1, HEAD_DIM, 16, torch.float16, block=BLOCK, **settings)


@pytest.mark.parametrize(("given", "slots"), [(0, 0), (64, 1), (127, 1), (5 * 64, 5), (1 << 20, 2 * 2 * 2 * 4)])
def test_size_and_memory_are_to_the_byte(given: int, slots: int) -> None:
    cache = TieredCache(2, 2, HEAD_DIM, 4 * BLOCK, torch.float16, block=BLOCK, scratch_bytes=given)
    scratch = cache.scratch
    assert scratch.slots == slots
    assert scratch.pool.nbytes == slots * BLOCK_BYTES <= max(given, 0)
    rows = {row.part: row.nbytes for row in cache.memory().rows}
    # table and, per slot, holder, use and a pair; three marks
    assert rows.get("scratch", 0) == scratch.nbytes == (slots * (BLOCK_BYTES + 16) + 2 * 2 * 4 * 8 + 12 if slots else 0)


TOKENS = (61, 20)


def filled(slots: int, **more: Any) -> tuple[TieredCache, torch.Tensor]:
    """Return a cache with two sequences, and queries for it."""
    made = torch.Generator().manual_seed(3)
    settings: dict[str, Any] = {"values": "int4", "block": 8} | more
    cache = TieredCache(2, 2, 16, 64, torch.float16, scratch_bytes=slots * 2 * 8 * 16, **settings)
    k, v = torch.randn(2, 2, TOKENS[0], 2, 16, generator=made).half()
    cache.append(k, v, lengths=TOKENS)
    return cache, (2 * torch.randn(2, 4, 16, generator=made)).half()


def test_warm_steps_move_less_and_return_the_same() -> None:
    """Cold: as much as without. Warm: nothing. Without: at least what the neediest head of each KV head needed."""
    for policy in (Budget(0.03), Budget(0.05, rounds=1), PaperPolicy(coverage=0.5), Budget(0.0)):
        without, q = filled(0)
        cache, _ = filled(100)
        expected = (made := plan(without, 4, policy)).run(q, out=made.step())
        made = plan(cache, 4, policy)
        cold, warm = (made.run(q, out=made.step()) for _ in range(2))
        require_same(cold, expected)
        require_same(warm, expected)
        needed = expected.certificate.host_bytes.view(2, 2, GROUP).amax(-1).sum(-1)
        assert (expected.moved_bytes >= needed).all()
        assert (cold.moved_bytes <= expected.moved_bytes).all()
        rungs = expected.certificate.rung
        assert (warm.moved_bytes > 0).tolist() == (rungs == 3).any(-1).tolist()
        require_true(cache)


def test_rung_three_reads_scratch_and_streams_the_rest_past_it() -> None:
    cache, q = filled(100)
    made = plan(cache, 4, Budget(0.0))
    step = made.run(q, out=made.step())
    # of 7 and 2, but for the first, which lies on the device
    blocks = torch.tensor([6, 1])
    assert step.moved_bytes.tolist() == (2 * 2 * blocks * cache.originals.block_bytes).tolist()
    assert (cache.scratch.table == NOWHERE).all()
    kept = step.output.clone()
    for item, slot in (((0, 1, 3, 0), 5), ((1, 0, 1, 1), 0)):
        store = (cache.originals.keys, cache.originals.values)[item[3]]
        cache.scratch.pool[slot] = store[item[:3]]
        cache.scratch.table[item] = slot
    made.run(q, out=step)
    assert torch.equal(step.output, kept)
    assert step.moved_bytes.tolist() == ((4 * blocks - 1) * cache.originals.block_bytes).tolist()


def test_rung_four_moves_everything() -> None:
    cache, q = filled(100)
    made = plan(cache, 4, Budget(0.03))
    step = made.run(q, out=made.step())
    before = step.moved_bytes.clone()
    step.certificate.status[1] = Status.NEEDS_DENSE
    step.resolve()
    assert (step.moved_bytes - before).tolist() == [0, 2 * 2 * 2 * cache.originals.block_bytes]


def test_originals_on_the_device_move_nothing() -> None:
    cache, q = filled(0, originals="device")
    for policy in (Budget(0.03), Budget(0.0)):
        made = plan(cache, 4, policy)
        assert made.run(q, out=made.step()).moved_bytes.tolist() == [0, 0]


def test_a_loss_is_an_error_whatever_is_resident() -> None:
    cache, q = filled(100)
    made = plan(cache, 4, Budget(0.03))
    step = made.run(q, out=made.step())
    assert not step.certificate.status.any()
    s, h, block, _ = (cache.scratch.table != NOWHERE).nonzero()[0].tolist()
    cache.originals.lose(s, h, block)
    made.run(q, out=step)
    assert (step.certificate.status[s] == Status.HOST_MISSING).all()
    assert step.output[s].isnan().all()
    assert not step.certificate.status[1 - s].any()


def test_a_reset_takes_a_sequence_out_and_leaves_the_others() -> None:
    cache, q = filled(100)
    made = plan(cache, 4, Budget(0.03))
    step = made.run(q, out=made.step())
    kept, before = cache.scratch.table[1].clone(), cache.scratch.pool.clone()
    assert (kept != NOWHERE).any()
    assert (cache.scratch.table[0] != NOWHERE).any()
    cache.reset(0)
    assert (cache.scratch.table[0] == NOWHERE).all()
    assert torch.equal(cache.scratch.table[1], kept)
    stay = kept[kept != NOWHERE].to(torch.int64)
    assert torch.equal(cache.scratch.pool[stay], before[stay])
    other, _ = filled(0)
    other.reset(0)
    k, v = torch.randn(2, 2, 40, 2, 16, generator=torch.Generator().manual_seed(8)).half()
    for each in (cache, other):
        each.append(k, v, lengths=[40, 0])
    plain = plan(other, 4, Budget(0.03))
    require_same(made.run(q, out=step), plain.run(q, out=plain.step()))
    require_true(cache)


@pytest.mark.parametrize("policy", [Budget(0.03), PaperPolicy(coverage=0.6), Budget(0.0)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
def test_steps_of_kernels_are_the_same_with_scratch_of_any_size(policy: Budget | PaperPolicy) -> None:
    steps = []
    for slots in (0, 3, 100):
        made = torch.Generator().manual_seed(5)
        cache = TieredCache(2, 1, 16, 32, torch.float16, values="int4", block=4, scratch_bytes=slots * 128)
        k, v = torch.randn(2, 2, 29, 1, 16, generator=made).half()
        cache.append(k, v, lengths=[29, 11])
        q = (2 * torch.randn(2, 2, 16, generator=made)).half()
        planned = Plan(cache, 2, policy, 0.25, cache.dtype, splits=2, implementation=(kernels(), INTERPRETED))
        for _ in range(2 if slots else 1):
            step = planned.run(q, out=planned.step())
            steps.append(copy.deepcopy((step.output, step.lse, step.certificate, step.moved_bytes)))
            require_true(cache)
    for output, lse, certificate, moved in steps[1:]:
        assert same_bits(output, steps[0][0])
        assert same_bits(lse, steps[0][1])
        for field in fields(certificate):
            assert same_bits(getattr(certificate, field.name), getattr(steps[0][2], field.name)), field.name
        assert (moved <= steps[0][3]).all()
    if isinstance(policy, PaperPolicy) or policy.tolerance:
        assert (steps[-1][3] < steps[0][3]).all()
