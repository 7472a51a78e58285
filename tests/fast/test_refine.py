"""Refinement: a corrected state is the state that attending anew would give; what it may not do, it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import refine as module
from certkv.fast.attend import attend
from certkv.fast.cache import TieredCache
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.choose import EXACT_HEAD, KEYS, REFINE, VALUES, Choice, compact
from certkv.fast.coded import Coded
from certkv.fast.decoded import decoded_values
from certkv.fast.grouped_arithmetic import turning
from certkv.fast.merge import merge
from certkv.fast.refine import (
    CHECKED,
    Check,
    Corrections,
    Losses,
    State,
    bits_per_score,
    keep_lost_twin,
    must_recompute,
    refine_twin,
    refined,
)
from certkv.fast.workspace import Workspace, plan_workspace

from .heads import of_heads

KV_HEADS, GROUP, BLOCK, SCALE = 2, 3, 8, 0.21
INTERPRETED = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]
"""The interpreter computes with NumPy, which warns of every overflow."""


class Case:
    """A cache of two ragged sequences after its first pass, and a random choice of blocks and sides."""

    def __init__(
        self,
        dtype: torch.dtype,
        values: str,
        head_dim: int,
        seed: int = 0,
        pinned: int = 1,
        spread: float = 1.0,
        keys: str = "int8",
    ) -> None:
        made = torch.Generator().manual_seed(seed)
        tokens = [53, 9]
        self.cache = TieredCache(2, KV_HEADS, head_dim, 64, dtype, keys=keys, values=values, block=BLOCK)
        k, v = torch.randn(2, 2, 53, KV_HEADS, head_dim, generator=made).to(dtype)
        self.cache.append(k * spread, v, lengths=tokens)
        cache, heads = self.cache, KV_HEADS * GROUP
        self.q = torch.randn(2, heads, head_dim, generator=made).to(dtype)
        self.coded = Coded(cache.pool, cache.pages.table, cache.lengths, cache.anchor, values, pinned, keys)
        self.ws: Workspace = plan_workspace(2, heads, KV_HEADS, head_dim, BLOCK, cache.max_blocks, 2)
        attend(self.q, self.coded, cache.resident, SCALE, self.ws)
        merge(self.ws)
        self.largest, self.lost = torch.full_like(self.ws.l, torch.nan), torch.zeros(*self.ws.l.shape, 3)
        self.losses = Losses(0.0, 0.0, 0.0, 0.0)
        self.choice = Choice.empty(2, heads, KV_HEADS, cache.max_blocks)
        self.delta = torch.full((2, heads, cache.max_blocks), 0.5)
        self.missing = torch.zeros(2, dtype=torch.uint8)
        self.moved = torch.zeros(2, dtype=torch.int64)
        self.made, self.dense, self.guard = made, torch.zeros(2, dtype=torch.uint8), 0.0
        self.size = torch.full((2, heads, cache.max_blocks), 64.0)

    def choose(self) -> None:
        """Choose anything that is coded and not pinned, for two thirds of the heads."""
        shape = self.choice.chosen.shape
        drawn = torch.randint(0, 4, shape, generator=self.made, dtype=torch.uint8)
        drawn[torch.rand(shape[:2], generator=self.made) < 1 / 3] = 0
        drawn[~self.coded.valid()[:, :, 0].expand(shape)] = 0
        self.choice.chosen.copy_(drawn)
        compact(self.choice)

    @property
    def weights(self) -> torch.Tensor:
        return of_heads(self.ws.weights)

    @property
    def reference(self) -> torch.Tensor:
        return of_heads(self.ws.reference)

    @property
    def state(self) -> State:
        ws = self.ws
        return State(
            ws.weights,
            ws.reference,
            ws.levels,
            ws.m,
            ws.l,
            self.largest,
            self.lost,
            self.losses,
            ws.o,
            ws.output,
            ws.lse,
        )

    @property
    def check(self) -> Check:
        return Check(self.guard, 2.0**-18, self.size, self.dense)

    def twin(self, before: torch.Tensor | None = None) -> None:
        self.run(refine_twin, None, before)

    def kernel(self, before: torch.Tensor | None = None) -> None:
        from certkv.fast.kernels.refine import launch

        rotated = self.coded.keys_rotated, self.coded.values_rotated
        batch, heads, head_dim = self.q.shape
        self.run(launch, Corrections.empty(batch, heads, head_dim, rotated=rotated), before)

    def run(self, how: Any, work: Corrections | None, before: torch.Tensor | None) -> None:
        tier, flags = (self.cache.originals, self.cache.scratch), (self.missing, self.moved)
        state, check = self.state, self.check
        how(self.q, SCALE, self.coded, *tier, self.delta, self.choice, state, *flags, check, work, before)


def anew(case: Case, s: int, h: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Denominator and output of a head, in float64, from executed weights and levels; and the largest value norm."""
    cache, ws, kv = case.cache, case.ws, h // GROUP
    blocks, tail = cache.tokens[s] // BLOCK, cache.tokens[s] % BLOCK
    m = ws.m[s, h].double()
    pages = case.coded.page_table[s, :blocks].to(torch.int64)
    coded = decoded_values(cache.pool, cache.values, pages, torch.full_like(pages, kv))[0]
    parts = []
    for b in range(case.coded.first, blocks):
        original = bool(ws.levels[s, h, b] & VALUES)
        v = cache.originals.values[s, kv, b].double() if original else coded[b]
        parts.append((case.weights[s, h, b].double() * torch.exp2(case.reference[s, h, b].double() - m), v))
    for slot, count in ((0, BLOCK * (blocks > 0) * case.coded.first), (1, tail)):
        if count:
            p = ws.resident_weights[s, h, slot, :count].double()
            f = torch.exp2(ws.resident_reference[s, h, slot].double() - m)
            parts.append((p * f, cache.resident.values[s, kv, slot, :count].double()))
    w, v = torch.cat([p for p, _ in parts]), torch.cat([v for _, v in parts])
    return w.sum(), (w[:, None] * v).sum(0) / w.sum(), v.norm(dim=-1).max()


KINDS = [
    (torch.float16, "int8", "int8", 8),
    (torch.float16, "int8", "int4-g32", 40),
    (torch.bfloat16, "int8", "int4", 24),
    (torch.float16, "oscar", "oscar", 40),
    (torch.bfloat16, "oscar-head", "oscar-4", 24),
    (torch.float16, "kivi", "oscar", 12),
]


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
@pytest.mark.parametrize("spread", [1.0, 12.0])
@pytest.mark.parametrize(("dtype", "keys", "values", "head_dim"), KINDS)
def test_a_corrected_state_is_that_of_its_weights(
    run: str, spread: float, dtype: torch.dtype, keys: str, values: str, head_dim: int
) -> None:
    """Two rounds, any sides in any order, scores that move by little or by many nats; l and o lose what is said."""
    case = Case(dtype, values, head_dim, keys=keys, spread=spread)
    case.delta.fill_(torch.inf)
    turned = turning(head_dim) if case.coded.values_rotated else 0
    # 2 splits of 3 blocks of 8 tokens: sums of 24 and 3 terms with one rounding each and for their products, the
    # decoded value and the factor; no exp2 is shared, so each errs by 2^-22 on its own, as does f; a split's sum may be
    # rotated back; exponents are below 2^9 bits
    chain = 4 * 2.0**-22 + 0.7 * 2.0**-24 * 2.0**9
    rate = (40 + turned) * 2.0**-24 + chain
    own = Charges(0.0, *(ScoreCharge(0.0, 0.0),) * 3, 1.0, 2.0**-60, 1.0, 0.0, rate, 2.0**-30, rate, 0.0)
    after, case.losses = refined(
        own, block=BLOCK, max_blocks=case.cache.max_blocks, rounds=2, chain=chain, turning=turned
    )
    partial, sizes = torch.zeros(2, KV_HEADS * GROUP, 3, 8), torch.zeros(2, KV_HEADS * GROUP)
    for s in range(2):
        for h in range(KV_HEADS * GROUP):
            sizes[s, h] = anew(case, s, h)[2] * (13 if case.coded.value_group else 3)
    partial[..., 0, module.SIZE] = partial[..., 1, module.LARGEST] = sizes
    case.lost.copy_(case.ws.l[..., None] * torch.stack([torch.ones_like(sizes), sizes, torch.ones_like(sizes)], -1))
    case.lost.mul_(torch.tensor([case.losses.of_sum, case.losses.of_size, case.losses.of_largest]))
    moved = 0.0
    for done in range(2):
        case.choose()
        before, levels, weights = case.ws.output.clone(), case.ws.levels.clone(), case.weights
        first = case.ws.l.clone()
        getattr(case, run)(partial if done == 0 else None)
        chosen = case.choice.chosen
        assert torch.equal(case.ws.levels, levels | chosen)
        assert torch.equal(case.weights[chosen & KEYS == 0], weights[chosen & KEYS == 0])
        assert torch.equal(case.ws.output[(chosen == 0).all(-1)], before[(chosen == 0).all(-1)])
        assert not case.missing.any()
        assert (case.choice.action == REFINE).sum() > case.choice.action.numel() // 2
        moved = max(moved, float((case.ws.l / first).log().abs().max()))
        for s, h in (case.choice.action == REFINE).nonzero().tolist():
            total, output, _ = anew(case, s, h)
            of_l, of_o, of_largest = case.lost[s, h].double()
            assert abs(case.ws.l[s, h] - total) <= of_l <= module.LEFT * case.ws.l[s, h]
            error = (case.ws.output[s, h].double() - output).norm() * case.ws.l[s, h]
            assert error <= of_o + of_largest * sizes[s, h] + (of_l + 2.0**-23 * case.ws.l[s, h]) * output.norm()
            lse = 0.6931471805599453 * (case.ws.m[s, h].double() + torch.log2(total))
            # a logarithm of the same relative error, and three roundings of a number below 2^8
            assert abs(case.ws.lse[s, h] - lse) <= 2 * of_l / total + 2.0**8 * 2.0**-22
    assert moved > (0.1 if spread > 1.0 and keys != "int8" else 0.0)
    assert after.of_output < 2 * rate


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
@pytest.mark.parametrize(("dtype", "keys", "values", "head_dim"), KINDS)
def test_promoted_keys_have_their_exact_weights(
    run: str, dtype: torch.dtype, keys: str, values: str, head_dim: int
) -> None:
    case = Case(dtype, values, head_dim, keys=keys)
    case.choose()
    getattr(case, run)()
    for s, h, b in (case.choice.chosen & KEYS).nonzero().tolist():
        k = case.cache.originals.keys[s, h // GROUP, b].double()
        bits = (case.q[s, h].double() @ k.T) * bits_per_score(SCALE)
        exact = torch.exp2(bits - case.reference[s, h, b].double())
        size = (case.q[s, h].double().abs() @ k.abs().T) * bits_per_score(SCALE)
        # of a score: a rounding per product and sum, of its product with c and its difference; of exp2 and of P
        lost = 0.6931471805599453 * ((head_dim + 2) * 2.0**-24 * size + 2.0**-24 * 32) + 2.0**-22 + 2.0**-11
        found = case.weights[s, h, b].double()
        assert ((found - exact).abs() <= (torch.expm1(lost) * exact) + 2.0**-25).all()


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
def test_missing_originals_are_noticed_and_never_read(run: str) -> None:
    case = Case(torch.float16, "int8", 8)
    case.choose()
    lost = int(case.choice.chosen[0, :GROUP].any(0).nonzero()[0])
    case.cache.originals.lose(0, 0, lost)
    before = case.weights[0, :GROUP, lost]
    getattr(case, run)()
    assert case.missing.tolist() == [1, 0]
    assert torch.equal(case.weights[0, :GROUP, lost], before)
    assert torch.isfinite(case.ws.output).all()


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
@pytest.mark.parametrize(("dtype", "keys", "values", "head_dim"), KINDS)
def test_a_block_that_outgrows_its_reference_has_another(
    run: str, dtype: torch.dtype, keys: str, values: str, head_dim: int
) -> None:
    """Exact scores far above the coded ones: weights are of another reference, and none is infinite."""
    case = Case(dtype, values, head_dim, keys=keys)
    case.delta.fill_(torch.inf)
    b, h = 3, 0
    query = case.q[0, h].double()
    case.cache.originals.keys[0, 0, b, 2] = (query * (40.0 / bits_per_score(SCALE) / query.square().sum())).to(dtype)
    bits = (case.q[0, h].double() @ case.cache.originals.keys[0, 0, b].double().T) * bits_per_score(SCALE)
    assert bits.max() - case.reference[0, h, b] > 16.0  # fp16 ends here
    before = case.reference
    case.choice.chosen[0, h, b] = KEYS
    compact(case.choice)
    getattr(case, run)()
    # one rounding of a score per product and sum, one of its product with c and of the difference
    assert abs(case.reference[0, h, b] - (bits.max() - 14.0)) <= (head_dim + 3) * 2.0**-24 * bits.abs().max()
    assert case.weights[0, h, b].max() == 2.0**14
    assert torch.isfinite(case.weights[0, h, b]).all()
    before[0, h, b] = case.reference[0, h, b]
    assert torch.equal(case.reference.nan_to_num(7.0), before.nan_to_num(7.0))
    assert case.choice.action[0, h] == REFINE
    total, output, largest = anew(case, 0, h)
    assert case.ws.l[0, h] == pytest.approx(float(total), rel=1e-5)
    assert (case.ws.output[0, h] - output).norm() <= 1e-4 * largest


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
def test_what_cannot_be_corrected_goes_to_rung_three(run: str) -> None:
    """More lost of a denominator than is allowed of what is left; what is no number; a score error is no reason."""
    case = Case(torch.float16, "int8", 8)
    case.choice.chosen.copy_(torch.where(case.coded.valid()[:, :, 0], KEYS, 0).expand_as(case.choice.chosen))
    compact(case.choice)
    case.delta[0, 0, 2] = torch.inf
    case.lost[0, 1, 0] = torch.inf
    case.lost[0, 2, 0] = torch.nan
    page = case.cache.originals.keys[0, 1, 2]
    weights = case.ws.weights.clone()
    getattr(case, run)()
    wanted = torch.full((2, KV_HEADS * GROUP), REFINE)
    wanted[0, 1:3] = EXACT_HEAD
    assert torch.equal(case.choice.action, wanted.to(torch.uint8))
    # just as much as is allowed, and a little more
    l_now = case.ws.l.clone()
    case.ws.weights.copy_(weights)
    case.choice.action.fill_(REFINE)
    case.lost.zero_()
    case.ws.levels.zero_()
    case.choice.chosen.fill_(0)
    case.choice.chosen[0, :, 2] = VALUES
    compact(case.choice)
    case.lost[0, 3, 0] = module.LEFT * l_now[0, 3]
    case.lost[0, 4, 0] = torch.nextafter(module.LEFT * l_now[0, 4], torch.tensor(torch.inf))
    page.fill_(torch.nan)
    getattr(case, run)()
    wanted[0, 1:3] = REFINE
    wanted[0, 4] = EXACT_HEAD
    assert torch.equal(case.choice.action, wanted.to(torch.uint8))
    # originals that are no numbers, as damage might have it
    case.choice.chosen[0, :, 2] = KEYS
    getattr(case, run)()
    wanted[0, GROUP:] = EXACT_HEAD
    assert torch.equal(case.choice.action, wanted.to(torch.uint8))


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
@pytest.mark.parametrize("keys", ["int8", "oscar"])
def test_what_a_round_moves_is_counted(run: str, keys: str) -> None:
    """Weights that were taken out and put in where keys change, and their products with the norms of values used."""
    case = Case(torch.float16, "oscar", 40, keys=keys)
    case.losses = Losses(0.0, 0.0, 0.0, 0.5)
    notes = case.cache.pool.value_notes
    for _ in range(2):
        case.choose()
        seen = (case.weights.double(), case.reference.double(), case.ws.levels.clone(), case.lost.clone())
        getattr(case, run)()
        for s, h in (case.choice.action == REFINE).nonzero().tolist():
            of_l = of_o = 0.0
            for b in case.choice.chosen[s, h].nonzero().flatten().tolist():
                page = int(case.coded.page_table[s, b])
                norms = notes[page, h // GROUP, [module.DECODED, module.ORIGINAL_NORM]].double()
                m = case.ws.m[s, h].double()
                out = float(seen[0][s, h, b].sum() * torch.exp2(seen[1][s, h, b] - m))
                into = float(case.weights[s, h, b].double().sum() * torch.exp2(case.reference[s, h, b].double() - m))
                was, now = (int(x[s, h, b] & VALUES != 0) for x in (seen[2], case.ws.levels))
                of_l += (out + into) / 2 * int(case.choice.chosen[s, h, b] & KEYS != 0)
                of_o += float(out * norms[was] + into * norms[now]) / 2
            for found, wanted in (
                (case.lost[s, h, 0] - seen[3][s, h, 0], of_l),
                (case.lost[s, h, 1] - seen[3][s, h, 1], of_o),
            ):
                # from above; by the factor of `inflate`, with room for the difference
                assert wanted * (1.0 - 1e-6) <= found <= wanted * (1.0 + 2.0**-11) + 2.0**-40
        assert case.lost[..., 0].max() > 0.0


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
def test_the_first_round_keeps_what_the_first_pass_was(run: str) -> None:
    """What its sums have lost, and its largest size, which promotion hides."""
    case = Case(torch.float16, "int8", 8)
    case.losses = Losses(2.0**-4, 2.0**-5, 2.0**-6, 0.0)
    partial = torch.rand(2, KV_HEADS * GROUP, 3, 8, generator=case.made)
    case.choice.action[0, 0] = EXACT_HEAD
    case.choice.chosen.fill_(0)
    case.choice.chosen[:, 1:, 1] = torch.where(case.coded.valid()[:, 0, 0, 1], VALUES, 0)[:, None].to(torch.uint8)
    compact(case.choice)
    case.lost.fill_(-1.0)
    case.largest.fill_(-1.0)
    l_first = case.ws.l.clone()
    getattr(case, run)(partial)
    # the kernel leaves alone what has nothing to do: here the short sequence, whose only block is pinned
    for h in range(1, KV_HEADS * GROUP):
        size = partial[0, h, :, module.SIZE].sum()
        wanted = l_first[0, h] * torch.stack([torch.tensor(2.0**-6), size * 2.0**-4, torch.tensor(2.0**-5)])
        assert torch.allclose(case.lost[0, h], wanted, rtol=2.0**-20, atol=2.0**-90)
        assert case.largest[0, h] == partial[0, h, :, module.LARGEST].max()
    assert (case.lost[0, 0] == -1.0).all()
    assert case.largest[0, 0] == -1.0


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
def test_what_was_lost_stands_in_the_place_of_sizes(run: str) -> None:
    """Of heads that were corrected: ``(o + largest + ||c|| l) / l``, and the largest size of both passes."""
    case = Case(torch.float16, "int8", 8)
    case.lost.copy_(torch.rand(case.lost.shape, generator=case.made))
    case.largest.copy_(torch.rand(case.largest.shape, generator=case.made) * 2.0)
    case.choice.action[1] = EXACT_HEAD
    before = torch.rand(2, KV_HEADS * GROUP, 3, 8, generator=case.made)
    after = before.clone()
    if run == "twin":
        keep_lost_twin(after, case.state, case.choice.action)
    else:
        from certkv.fast.kernels.settle import launch_keep_lost

        launch_keep_lost(after, case.state, case.choice.action)
    assert torch.equal(after[1], before[1])
    others = [i for i in range(8) if i not in (module.SIZE, module.LARGEST)]
    assert torch.equal(after[..., others], before[..., others])
    of_l, of_o, of_largest = case.lost[0].double().unbind(-1)
    largest = torch.maximum(before[0, :, :, module.LARGEST].amax(-1), case.largest[0])
    assert torch.equal(after[0, :, -1, module.LARGEST], largest)
    exact = (of_o + of_largest * largest + of_l * case.ws.output[0].double().norm(dim=-1)) / case.ws.l[0].double()
    found = after[0, :, :, module.SIZE].double().sum(-1)
    assert torch.equal(after[0, :, :-1, module.SIZE], torch.zeros_like(after[0, :, :-1, module.SIZE]))
    assert ((exact <= found) & (found <= exact * 1.001)).all()


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
@pytest.mark.parametrize("bit", [KEYS, VALUES, CHECKED])
def test_scores_that_contradict_their_annotation_are_noticed(run: str, bit: int) -> None:
    """A code that is not the one that was stored, in a block that is scored both ways; exploration changes nothing."""
    case = Case(torch.float16, "int8", 8)
    case.choice.chosen[0, 0, 3] = bit
    compact(case.choice)
    before = case.ws.l.clone(), case.ws.o.clone(), case.ws.weights.clone(), case.ws.levels.clone()
    getattr(case, run)()
    assert case.dense.tolist() == [0, 0]
    if bit == CHECKED:
        assert all(map(torch.equal, before, (case.ws.l, case.ws.o, case.ws.weights, case.ws.levels)))
    page = case.cache.pages.pages(0)[3]
    largest = int(case.q[0, 0].abs().argmax())
    case.cache.pool.key_codes[page, 0, 2, largest] ^= 0x80
    case.delta.fill_(0.01)
    getattr(case, run)()
    assert case.dense.tolist() == [int(bit != VALUES), 0]
    case.dense.zero_()
    case.guard = 10.0
    getattr(case, run)()
    assert case.dense.tolist() == [0, 0]


@pytest.mark.parametrize("run", ["twin", pytest.param("kernel", marks=INTERPRETED)])
def test_a_norm_that_is_not_its_tokens_is_noticed(run: str) -> None:
    """Scores of rotated keys are compared with the rotated query, times the norm that is stored."""
    case = Case(torch.float16, "oscar", 24, keys="oscar")
    case.choice.chosen[0, 0, 3] = CHECKED
    compact(case.choice)
    case.delta.fill_(1.0)
    getattr(case, run)()
    assert case.dense.tolist() == [0, 0]
    case.cache.pool.key_norm[case.cache.pages.pages(0)[3], 0, 2] *= 64.0
    getattr(case, run)()
    assert case.dense.tolist() == [1, 0]


def test_too_little_left_is_measured() -> None:
    lost = torch.tensor([4.0, 4.0, 4.0, 4.0, float("nan"), 4.0])
    left = torch.tensor([4096.0, 4095.0, float("nan"), float("inf"), 4096.0, -4096.0])
    assert must_recompute(lost, left).tolist() == [False, True, True, True, True, True]


def test_what_refinement_costs_is_no_less_than_the_first_pass() -> None:
    charge = ScoreCharge(1e-6, 1e-4)
    own: dict[str, Any] = {"share_up": 1.001, "share_lost": 2.0**-50, "mass_down": 0.999, "mass_lost": 2.0**-50}
    own |= {"of_mean": 1e-6, "of_largest": 2e-6, "of_output": 3e-6, "absolute": 2.0**-70}
    charges = Charges(0.0, charge, charge, charge, **own)
    after, losses = refined(charges, block=64, max_blocks=2048, rounds=3, chain=1e-6)
    for name in ("share_up", "share_lost", "mass_lost", "of_largest", "of_output", "absolute"):
        assert getattr(after, name) >= getattr(charges, name), name
    assert after.mass_down < charges.mass_down
    # what is lost is in the sizes
    assert 1.0 <= after.of_mean < 1.002
    # 1/16 of the first denominator may be left, within 2^-10
    assert after.share_lost == pytest.approx(16 * 2.0**-50, rel=2e-3, abs=0.0)
    assert after.mass_lost == pytest.approx(16 * 2.0**-50, rel=2e-3, abs=0.0)
    assert losses.of_size == pytest.approx(1e-6 + 3 * 2.0**-24, rel=2e-3)
    assert losses.of_largest == pytest.approx(2e-6, rel=2e-3)
    # so much of the first denominator that, were it all of what is lost, less than 1/16 of it would be too little
    assert losses.of_sum == pytest.approx(2.0**-14, rel=2e-3)
    assert losses.of_sum >= 2.0**-14
    assert losses.of_moved == pytest.approx(1e-6 + module.roundings(64, 2048, 3) * 2.0**-24, rel=2e-3)
    assert (
        refined(
            Charges(0.0, charge, charge, charge, **own | {"of_output": 1e-3}),
            block=64,
            max_blocks=2048,
            rounds=3,
            chain=1e-6,
        )[1].of_sum
        >= 1e-3
    )
