"""Steps that compare checksums: what is damaged has no output, everything else is as without; ways back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from certkv.fast import checksum, verify
from certkv.fast.certificate import Status
from certkv.fast.errors import CorruptionError, HostMissingError, NonFiniteError, PlanError
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, Naive, PaperPolicy, Policy
from certkv.fast.resident import FIRST, TAIL
from certkv.fast.step import Step, decode
from certkv.fast.verify import Verifier

from .scene import BLOCK, GROUP, HEAD_DIM, KV_HEADS, TOKENS, bits, drawn, filled, flip, query

HEADS = KV_HEADS * GROUP

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]


def verifying(cache: Any, policy: Policy, kernels: bool = False, **more: Any) -> Plan:
    """Plan steps that verify, by twins or by interpreted kernels."""
    made = plan(cache, HEADS, policy, verify="step", **more)
    assert made.verifier is not None
    if kernels:
        made.verifier.use = verify.kernels()
    return made


def nothing(step: Step, s: int) -> None:
    """A sequence has no output and promises nothing."""
    made = step.certificate
    assert step.output[s].isnan().all()
    assert step.lse[s].isnan().all()
    for name in ("bound", "key", "value", "arithmetic", "tolerance"):
        assert torch.isposinf(getattr(made, name)[s]).all(), name
    for name in ("rung", "promoted", "host_bytes"):
        assert not getattr(made, name)[s].any(), name


@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(), Budget(0.5), Budget(0.05), Budget(0.0)])
@pytest.mark.parametrize(("dtype", "kernels"), [(torch.float16, False), (torch.bfloat16, True)])
def test_sound_memory_gives_the_bits_of_steps_that_do_not_verify(
    policy: Policy, dtype: torch.dtype, kernels: bool
) -> None:
    cache, q = filled(dtype, scratch_bytes=1 << 16), query(dtype=dtype)
    planned = verifying(cache, policy, kernels)
    for _ in range(2):
        step, expected = planned.run(q, out=planned.step()), decode(q, cache, policy)
        step.check()
        assert torch.equal(step.output, expected.output)
        assert torch.equal(step.certificate.bound, expected.certificate.bound)
        assert step.position.tolist() == [-1] * len(TOKENS)
    cache.verify(originals=True)


DAMAGES = {
    "code": lambda cache, page: flip(cache.pool.value_codes[page, 1], 13),
    "note": lambda cache, page: flip(cache.pool.key_notes[page, 1], 3),
    "log code": lambda cache, page: flip(cache.pool.anchored_codes[page, 1], 3),
}


@pytest.mark.parametrize(
    ("what", "out_dtype", "kernels"), [("code", None, True), ("note", torch.float32, True), ("log code", None, False)]
)
def test_a_damaged_block_is_named_resolved_and_repaired(what: str, out_dtype: Any, kernels: bool) -> None:
    cache, q = filled(), query()
    page = cache.pages.pages(0)[3]
    before = {name: bits(tensor) for name, tensor in cache.pool.tensors().items()}
    planned = verifying(cache, Budget(0.3), kernels, out_dtype=out_dtype)
    good = planned.run(q, out=planned.step())
    DAMAGES[what](cache, page)
    step = planned.run(q, out=planned.step())
    assert step.certificate.status.tolist() == [[Status.CHECKSUM] * HEADS, [0] * HEADS, [0] * HEADS]
    assert step.position.tolist() == [3 * KV_HEADS + 1, -1, -1]
    nothing(step, 0)
    assert torch.equal(step.output[1:], good.output[1:])
    with pytest.raises(CorruptionError, match="sequence 0, block 3, KV head 1") as caught:
        step.check()
    assert (caught.value.sequence, caught.value.block, caught.value.kv_head) == (0, 3, 1)
    with pytest.raises(CorruptionError, match=r"sequence 0, block 3, KV head 1: .*: codes, metadata or annotations"):
        cache.verify()
    step.resolve()
    step.check()
    k, v = (x[0, : TOKENS[0]].transpose(0, 1)[None].contiguous() for x in drawn(len(TOKENS), max(TOKENS)))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q[0][None, :, None], k, v, scale=1 / math.sqrt(HEAD_DIM), enable_gqa=True
    )
    assert torch.equal(step.output[0], expected[0, :, 0].to(step.output.dtype))
    assert (step.certificate.rung[0] == 4).all()
    assert torch.isfinite(step.certificate.bound).all()
    repaired = cache.repair()
    assert [(d.sequence, d.block, d.kv_head) for d in repaired] == [(0, 3, 1)]
    for name, tensor in cache.pool.tensors().items():
        assert torch.equal(bits(tensor), before[name]), name
    again = planned.run(q, out=planned.step())
    assert torch.equal(again.output, good.output)
    assert cache.repair() == []


@pytest.mark.parametrize("kernels", [False, True])
def test_the_first_offender_is_named(kernels: bool) -> None:
    cache, q = filled(), query()
    for block, head in ((4, 0), (2, 1), (2, 0)):
        flip(cache.pool.key_codes[cache.pages.pages(0)[block], head], 5)
    flip(cache.pool.key_codes[cache.pages.pages(1)[1], 1], 5)
    planned = verifying(cache, Naive(), kernels)
    step = planned.run(q, out=planned.step())
    assert step.position.tolist() == [2 * KV_HEADS, KV_HEADS + 1, -1]
    assert len(cache.repair()) == 4
    cache.verify(originals=True)


@pytest.mark.parametrize(("value", "kernels"), [(-1, True), (-(2**31), False), (13, True), (2**31 - 1, False)])
def test_pages_that_are_none_are_never_read(value: int, kernels: bool) -> None:
    """Steps that do not verify would leave the pool; here nothing does, and the table is restored from the host's."""
    cache, q = filled(pages=13), query()
    cache.pages.table[0, 2] = value
    planned = verifying(cache, Budget(0.0), kernels)
    step = planned.run(q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    assert step.position[0] == 2 * KV_HEADS
    with pytest.raises(CorruptionError, match=r"block 2: .*page table"):
        cache.verify()
    step.resolve()
    step.check()
    cache.repair()
    planned.run(q, out=step).check()


@pytest.mark.parametrize("kernels", [False, True])
def test_pages_of_others_are_told_by_their_owner(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries that change places, within a sequence and across: each page is sound, and not whose it seems."""
    for first, second in (((0, 1), (0, 3)), ((0, 1), (1, 0)), ((0, 1), (1, 1))):
        cache, q = filled(), query()
        table = cache.pages.table
        table[first], table[second] = table[second].clone(), table[first].clone()
        planned = verifying(cache, Naive(), kernels)
        step = planned.run(q, out=planned.step())
        assert int(step.position[first[0]]) == first[1] * KV_HEADS
        assert (step.certificate.status[second[0]] == Status.CHECKSUM).all()
    # without the owner's word this goes unnoticed
    monkeypatch.setattr(checksum, "owned", lambda owner: torch.zeros_like(owner))
    monkeypatch.setattr(verify, "owned", lambda owner: torch.zeros_like(owner))
    cache = filled()
    table = cache.pages.table
    table[0, 1], table[1, 1] = table[1, 1].clone(), table[0, 1].clone()
    planned = verifying(cache, Naive())
    assert not planned.run(query(), out=planned.step()).certificate.status.any()


@pytest.mark.parametrize(
    ("length", "kernels"), [(46, True), (44, False), (40, True), (0, False), (-5, True), (64, True), (2**31 - 1, True)]
)
def test_lengths_are_compared_with_a_copy(length: int, kernels: bool) -> None:
    cache, q = filled(), query()
    cache.lengths[0] = length
    planned = verifying(cache, Budget(0.1), kernels)
    step = planned.run(q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    step.resolve()
    step.check()
    assert cache.repair()
    planned.run(q, out=step).check()
    assert cache.lengths.tolist() == list(TOKENS)


@pytest.mark.parametrize("kernels", [False, True])
def test_first_blocks_and_anchors_come_back_from_the_originals(kernels: bool) -> None:
    for part in ("keys", "values", "norms", "anchor"):
        cache, q = filled(), query()
        held = cache.anchor if part == "anchor" else getattr(cache.resident, part)
        before = bits(held)
        flip(held[0, 1] if part == "anchor" else held[0, 1, FIRST : FIRST + 1], 9)
        planned = verifying(cache, Budget(0.1), kernels)
        step = planned.run(q, out=planned.step())
        assert step.position.tolist() == [cache.max_blocks * KV_HEADS + 1, -1, -1]
        with pytest.raises(CorruptionError, match=r"sequence 0, KV head 1: .*the first block as the device keeps it"):
            step.check()
        step.resolve()
        step.check()
        assert len(cache.repair()) == 1
        assert torch.equal(bits(held), before)


def test_a_tail_is_the_only_copy() -> None:
    """No output, no rung 4, no repair: an error every time, until the sequence is started anew; others are well."""
    cache, q = filled(), query()
    flip(cache.resident.values[0, 1, TAIL, 2], 7)
    flip(cache.pool.key_codes[cache.pages.pages(1)[1], 1], 5)
    planned = verifying(cache, Naive())
    step = planned.run(q, out=planned.step())
    for call in (step.check, step.resolve, cache.verify, cache.repair):
        with pytest.raises(CorruptionError, match=r"sequence 0.*the tail|sequence 1"):
            call()
    # what could be resolved and repaired was
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    assert step.certificate.rung[1, 0] == 4
    # a damaged token does not become a sound one by being encoded
    k, v = drawn(len(TOKENS), BLOCK, seed=5)
    cache.append(k, v, lengths=[BLOCK, 0, 0])
    with pytest.raises(CorruptionError, match="the tail"):
        cache.verify()
    cache.reset(0)
    cache.append(k, v, lengths=[BLOCK, 0, 0])
    cache.verify(originals=True)
    planned.run(q, out=step).check()


def test_a_norm_of_a_tail_is_computed_anew() -> None:
    cache = filled()
    before = cache.resident.norms.clone()
    flip(cache.resident.norms[0, 1, TAIL:], 30)
    assert len(cache.repair()) == 1
    assert torch.equal(cache.resident.norms, before)


@pytest.mark.parametrize(("side", "place", "kernels"), [("keys", "host", True), ("values", "device", False)])
def test_originals_are_compared_where_they_are_read(side: str, place: Any, kernels: bool) -> None:
    cache, q = filled(originals=place), query()
    flip(getattr(cache.originals, side)[0, 1, 4], 77)
    for policy, reads in ((Naive(), False), (Budget(0.0), True)):
        planned = verifying(cache, policy, kernels)
        step = planned.run(q, out=planned.step())
        assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM if reads else 0, 0, 0]
        if reads:
            assert int(step.position[0]) == 4 * KV_HEADS + 1
            with pytest.raises(CorruptionError, match=f"sequence 0, block 4, KV head 1: .*original {side}"):
                step.resolve()
    cache.verify()
    for call in (lambda: cache.verify(originals=True), cache.repair):
        with pytest.raises(CorruptionError, match=f"original {side}"):
            call()


@pytest.mark.parametrize("kernels", [False, True])
def test_what_a_step_read_from_scratch_is_compared_there(kernels: bool) -> None:
    cache, q = filled(scratch_bytes=1 << 16), query()
    planned = verifying(cache, Budget(0.002), kernels)
    step = planned.run(q, out=planned.step())
    step.check()
    assert (cache.scratch.holder >= 0).any()
    slot = int(cache.scratch.table[0][cache.scratch.table[0] >= 0][0])
    flip(cache.scratch.pool[slot], 100)
    planned.run(q, out=step)
    assert step.certificate.status[0, 0] == Status.CHECKSUM
    with pytest.raises(CorruptionError, match="an original in scratch"):
        cache.verify()
    step.resolve()
    step.check()
    assert len(cache.repair()) == 1
    planned.run(q, out=step).check()


def test_originals_that_were_replaced_or_lost() -> None:
    """Other data under the same pointer, as after a free; and blocks that are gone: typed errors, never an output."""
    cache, q = filled(), query()
    kept = cache.originals.keys.clone()
    cache.originals.keys[0] = torch.randn_like(kept[0])
    planned = verifying(cache, Budget(0.0))
    step = planned.run(q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    with pytest.raises(CorruptionError):
        step.resolve()
    cache.originals.keys.copy_(kept)
    planned.run(q, out=step).check()
    cache.originals.lose(0, 1, 3)
    planned.run(q, out=step)
    assert step.certificate.status[:, 0].tolist() == [Status.HOST_MISSING, 0, 0]
    flip(cache.pool.key_codes[cache.pages.pages(0)[3], 1], 5)
    planned.run(q, out=step)
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    with pytest.raises(HostMissingError):
        step.resolve()
    with pytest.raises(CorruptionError):
        cache.repair()


def test_a_query_is_told_before_a_checksum() -> None:
    cache, q = filled(), query()
    q[0, 1, 2] = float("nan")
    flip(cache.pool.key_codes[cache.pages.pages(0)[3], 1], 5)
    planned = verifying(cache, Naive())
    step = planned.run(q, out=planned.step())
    with pytest.raises(NonFiniteError, match=r"q\[0, 1, 2\]"):
        step.check()


def test_damage_that_shows_as_nan_is_resolved_without_checksums_too() -> None:
    cache, q = filled(), query()
    cache.pool.value_minimum[cache.pages.pages(0)[3]] = float("nan")
    planned = plan(cache, HEADS, Naive())
    step = planned.run(q, out=planned.step())
    assert step.certificate.status[:, 0].tolist() == [Status.CHECKSUM, 0, 0]
    step.resolve()
    step.check()
    assert step.certificate.rung[:, 0].tolist() == [4, 0, 0]
    assert len(cache.repair()) == KV_HEADS


def test_checksums_that_are_damaged_themselves_raise_an_alarm_and_are_taken_again() -> None:
    cache = filled()
    before = bits(cache.checksums.blocks)
    flip(cache.checksums.blocks[cache.pages.pages(0)[2], 1:], 40)
    with pytest.raises(CorruptionError, match="block 2, KV head 1"):
        cache.verify()
    cache.repair()
    assert torch.equal(bits(cache.checksums.blocks), before)


def test_settings_and_memory() -> None:
    cache = filled()
    with pytest.raises(PlanError, match="verify is 'always'; give one of off, step"):
        plan(cache, HEADS, Naive(), verify="always")  # type: ignore[arg-type]
    off, on = (plan(cache, HEADS, Naive(), verify=v) for v in verify.VERIFY)
    assert off.verifier is None
    assert isinstance(on.verifier, Verifier)
    tables = cache.pages.table.nbytes + 2 * cache.lengths.nbytes
    assert on.memory().device - off.memory().device == tables == on.verifier.nbytes
    sums = cache.checksums
    expected = 8 * (len(sums.blocks) * KV_HEADS + 2 * cache.originals.present.numel() + 2 * KV_HEADS * len(TOKENS))
    assert sums.nbytes == expected + 4 * len(TOKENS)
