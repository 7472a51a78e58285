r"""Refine: read originals of chosen blocks and put the softmax state right (identity ``correction``), no second pass.

For a chosen block of a head with executed weights P relative to its reference r, state (m, l, o)::

    r'  =  max(r, max c q.k - 14)       P'  =  fp16( 2^(c q.k - r') )   where keys are chosen, otherwise r and P
    w   =  P 2^(r - m)                  w'  =  P' 2^(r' - m)                          c = scale log2 e
    l  +=  sum (w' - w)
    o  +=  sum (w' - w) V_before  +  sum w' (V_after - V_before)        w' V_after - w V_before where both are chosen

V is the coded value or, once promoted, the original. P' and r' replace P and r in ``weights`` and ``reference``, so
that the certificate is summed anew from what was executed. A reference rises with its block's exact scores, so no
weight leaves the range of binary16, however far these are from the coded ones; a score error is no reason to give up.
Originals that are missing are never replaced by anything: the sequence has no output.

**What it costs** (docs/derivations/correction.md, "Carried along"). Errors are measured, not bounded beforehand. Let
the first pass have left ``||o - sum w V_hat|| <= E_o sum w size`` and ``|l - sum w| <= E_l sum w``, let r be what the
factors that a weight met there differ from ``2^(r - m)`` by, relatively, n the most roundings on a path of a round's
corrections, and j the rounds, each of which joins once. A round takes weights w out and puts w' in, of values with
norms at most N and N'; what it leaves and rounds is at most ``r w`` and ``gamma_n (w + w')``, so that after any number
of rounds, first and last state apart by whatever they are::

    |l - sum w|      <=  e_l  =  (E_l + j u) l_first  +  (gamma_n + r) sum_rounds ( sum w + sum w' )
    ||o - sum w V||  <=  e_o  =  (E_o + j u) sum_first w size  +  (gamma_n + r) sum_rounds ( N sum w + N' sum w' )
    ||o/l - exact||  <=  ( e_o + ||o/l|| e_l ) / sum w  +  division

`State.lost` carries ``e_l`` and ``e_o`` from round to round; in the certificate of a corrected state ``(e_o + ||c||
e_l) / l`` stands where a first pass has ``E_o`` times its mean size (`keep_lost_twin`), with a factor of 1.

**When it is given up** (`must_recompute`): where ``e_l > 2^-10 l``, or something is not a number or infinite; the head
goes to rung 3. So the real denominator is within 2^-10 of l, which covers shares and masses (`refined`). At least
2^-14 of the first l is carried, so that a sixteenth of it is left wherever a state is kept: what a first pass loses
absolutely, in small weights, grows by 16 at most. That is charged to shares beforehand, and to the output as measured.

**Levels.** Where formats have planes, sides of a block change several times, once a round at most: nothing above asks
what a weight was two rounds ago.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from certkv.fast.certify import PARTIAL, distance_ub, not_negative
from certkv.fast.charges import Charges
from certkv.fast.choose import EXACT_HEAD, KEYS, REFINE, VALUES, Choice
from certkv.fast.coded import Coded, by_head, grouped
from certkv.fast.decoded import stored_keys
from certkv.fast.formats import Encoded
from certkv.fast.formats.planar import Planar
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.host import Originals
from certkv.fast.levels import KEY_CHANGE, VALUE_CHANGE, at, planes, raised, used
from certkv.fast.outward_fp32 import above, inflate, known
from certkv.fast.pool import FINER_VALUE_NOTES, VALUE_NOTES
from certkv.fast.workspace import BIAS

if TYPE_CHECKING:
    from certkv.fast.planes import Planes
    from certkv.fast.scratch import Scratch

LEFT = 2.0**-10
"""What a corrected denominator may be off by, relative to itself; beyond that its head is computed anew."""

KEPT = 2.0**-4
"""Share of the first denominator that is left at least: so much of it counts as lost that less is beyond `LEFT`."""

ORIGINAL_NORM, DECODED = (VALUE_NOTES.index(name) for name in ("norm_ub", "decoded_norm_ub"))
FINER_DECODED = FINER_VALUE_NOTES.index("decoded_norm_ub")

CHECKED = 4
"""Bit of a choice: the block is scored both ways, and that is all."""

SIZE, LARGEST = PARTIAL.index("size"), PARTIAL.index("largest")

SPLITS = 32
"""Programs that share a KV head's work list."""

ITEMS_AT_ONCE = 64
"""Blocks that the twin reads at once."""


class Check(NamedTuple):
    """Comparison of every score that is computed both ways: ``|exact - coded| <= Delta + guard + rounding``.

    It holds for what was stored as it was measured; where it fails, codes or annotations are damaged.

    Attributes
    ----------
    guard : float
        In nats.
    relative : float
        Rounding of both scores, relative to ``size``.
    size : float32 [batch, Hq, max_blocks]
        `ScoreErrors.size`.
    dense : uint8 [batch]
        Set to 1 for a sequence where it fails.
    """

    guard: float
    relative: float
    size: torch.Tensor
    dense: torch.Tensor


class FinerRead(NamedTuple):
    """What refinement needs of levels between the base and the originals.

    Attributes
    ----------
    planes : Planes
    delta : float32 [levels of keys above the base, batch, Hq, max_blocks]
        Score errors.
    """

    planes: Planes
    delta: torch.Tensor


class State(NamedTuple):
    """Softmax state of a pass, and the weights it is made of; see `certify.Pass`.

    Attributes
    ----------
    weights : float16 [batch, H, max_blocks, G, B]
        P.
    reference : float32 [batch, H, max_blocks, G]
        r, in bits: ``P = 2^(c q.k - r)``.
    levels : uint8 [batch, Hq, max_blocks]
    m, l : float32 [batch, Hq]
    largest : float32 [batch, Hq]
        The largest size of a value that the first pass used.
    lost : float32 [batch, Hq, 3]
        What l may be off by, once it was corrected; o; and o more, relative to the largest size that was used.
    o, output : float32 [batch, Hq, d]
        Unnormalised, and ``o / l``.
    lse : float32 [batch, Hq]
        ``ln 2 (m + log2 l)``.
    """

    weights: torch.Tensor
    reference: torch.Tensor
    levels: torch.Tensor
    m: torch.Tensor
    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    largest: torch.Tensor
    lost: torch.Tensor
    losses: Losses
    o: torch.Tensor
    output: torch.Tensor
    lse: torch.Tensor


class Losses(NamedTuple):
    """What sums of a corrected state are off by, relative to what went into them; in binary32, rounded up.

    Attributes
    ----------
    of_size, of_largest : float
        Of o: relative to ``sum w size`` of the first pass, and to its l times the largest size.
    of_sum : float
        Of l: relative to that of the first pass.
    of_moved : float
        Of both: relative to what corrections took out and put in.
    """

    of_size: float
    of_largest: float
    of_sum: float
    of_moved: float


class Corrections(NamedTuple):
    """What programs of one round add up, before it is joined to the state.

    Attributes
    ----------
    l : float32 [batch, Hq, SPLITS]
    o : float32 [batch, Hq, SPLITS, d]
    turned : float32 [batch, Hq, SPLITS, d], or empty
        What is to be rotated before it joins, where coded values are in the rotated basis.
    lost : float32 [batch, Hq, SPLITS, 2]
        Weights that were taken out and put in, and their products with norms of values.
    query : float32 [batch, Hq, d], or empty
        The rotated query, where keys are.
    brought : int16 [programs, B d], or empty
        An original block that a program has brought from the host, to read it from there.
    """

    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    o: torch.Tensor
    turned: torch.Tensor
    lost: torch.Tensor
    query: torch.Tensor
    brought: torch.Tensor

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        rotated: tuple[bool, bool] = (False, False),
        brought: tuple[int, int] = (0, 0),
    ) -> Corrections:
        """Allocate, for keys and values that are rotated or not; floats are NaN."""
        shape, keys, values = (batch, heads, SPLITS), *rotated
        return cls(
            torch.full(shape, torch.nan, device=device),
            torch.full((*shape, head_dim), torch.nan, device=device),
            torch.full((*shape, head_dim if values else 0), torch.nan, device=device),
            torch.full((*shape, 2), torch.nan, device=device),
            torch.full((batch, heads, head_dim if keys else 0), torch.nan, device=device),
            torch.zeros(brought, dtype=torch.int16, device=device),
        )


def roundings(block: int, max_blocks: int, rounds: int, turning: int = 0) -> int:
    """Most roundings on a path from a weight to the sum of a round's corrections, and from there to the state.

    Decoding, a difference, a product, sums over the tokens of a block, the factor f; sums over a program's blocks and
    over programs; a rotation of what is in the rotated basis; a join per round.
    """
    return block + 8 + -(-max_blocks // SPLITS) + SPLITS + turning + rounds


def refined(
    charges: Charges, *, block: int, max_blocks: int, rounds: int, chain: float, turning: int = 0
) -> tuple[Charges, Losses]:
    """Return the charges of a state that may have been corrected, and what its sums lose.

    Its ``size`` must be what `keep_lost_twin` puts there, and its ``largest`` at least the largest size that the first
    pass used.

    Parameters
    ----------
    charges : Charges
        Of the first pass; ``of_mean`` covers E_o and ``of_output`` covers E_l.
    block, max_blocks, rounds : int
    chain : float
        r: what the factors that a weight met in the first pass differ from f by, relatively.
    turning : int
        Roundings of a rotation, where values are in the rotated basis.
    """
    n = roundings(block, max_blocks, rounds, turning)
    gamma = n * 2.0**-24 / (1.0 - n * 2.0**-24)
    joins = rounds * 2.0**-24 * (1.0 + 2.0**-20)
    # L within LEFT of l, and in the first pass within E_l; products and quotients of such round, too
    spread = (1.0 + 2.0 * charges.of_output) / (1.0 - LEFT) * (1.0 + 2.0**-20)
    fall = spread / KEPT
    after = replace(
        charges,
        share_up=charges.share_up * spread,
        share_lost=min(fall * charges.share_lost, 1.0),
        mass_down=charges.mass_down / spread,
        mass_lost=fall * charges.mass_lost,
        of_mean=spread,
        of_largest=charges.of_largest * spread,
        of_output=charges.of_output * spread,
        absolute=fall * charges.absolute + 2.0**-60,
    )
    losses = Losses(
        of_size=charges.of_mean + joins,
        of_largest=charges.of_largest,
        of_sum=max(charges.of_output + joins, LEFT * KEPT),
        of_moved=gamma + chain,
    )
    return after, Losses(*(above(x * spread) for x in losses))


def refine_twin(
    q: torch.Tensor,
    scale: float,
    coded: Coded,
    originals: Originals,
    scratch: Scratch,
    delta: torch.Tensor,
    choice: Choice,
    state: State,
    missing: torch.Tensor,
    moved: torch.Tensor,
    check: Check,
    work: Corrections | None,
    before: torch.Tensor | None,
    finer: FinerRead | None = None,
) -> None:
    """Promote what was chosen; the torch twin of ``kernels.refine``, in float64.

    Parameters
    ----------
    q : float16 or bfloat16 [batch, Hq, d]
    scale : float
    coded : Coded
    originals : Originals
    scratch : Scratch
        Read where it holds what is needed; that an original is missing does not depend on it.
    delta : float32 [batch, Hq, max_blocks]
        Score errors of coded keys (`score_error`).
    choice : Choice
        ``action`` becomes `EXACT_HEAD` for heads that must be computed anew.
    state : State
        Everything but the references is written.
    missing : uint8 [batch]
        Set to 1 for a sequence whose originals are not there.
    moved : int64 [batch]
        Bytes moved from the host for each sequence are added.
    check : Check
        What is scored exactly: chosen keys, and blocks with bit `CHECKED`.
    work : Corrections or None
        What kernels sum in; the twin needs none.
    before : float32 [batch, Hq, entries, 8] or None
        In the first round, the terms of the first pass (`certify.PARTIAL`): what `keep_lost_twin` needs is kept.
    finer : FinerRead or None
        Where formats have planes.
    """
    if before is not None:
        active = choice.action == REFINE
        largest, losses = known(before[..., LARGEST].amax(-1)), state.losses
        of_size = losses.of_size * known(before[..., SIZE].sum(-1))
        rates = [losses.of_sum * torch.ones_like(of_size), of_size, losses.of_largest * torch.ones_like(of_size)]
        lost = state.l[..., None] * torch.stack(rates, -1)
        state.lost.copy_(torch.where(active[..., None], lost, state.lost))
        state.largest.copy_(torch.where(active, largest, state.largest))
    kv_heads, counts = coded.anchor.shape[1], coded.finer if finer else (0, 0)
    chosen, levels, m = (grouped(x, kv_heads) for x in (choice.chosen, state.levels, state.m))
    weights, reference = by_head(state.weights), by_head(state.reference)
    queries = grouped(q, kv_heads).to(torch.float64)
    change_l = torch.zeros(m.shape, dtype=torch.float64, device=q.device)
    change_o = torch.zeros((*m.shape, q.shape[-1]), dtype=torch.float64, device=q.device)
    moved_weight, moved_size = (torch.zeros(m.shape, device=q.device) for _ in range(2))
    nearness = _nearness(delta, choice, state, finer, counts[0])
    items = (chosen != 0).any(2).nonzero()
    for start in range(0, len(items), ITEMS_AT_ONCE):
        part = items[start : start + ITEMS_AT_ONCE]
        b, h, block = part.unbind(-1)
        mine, level = chosen[b, h, :, block], levels[b, h, :, block]  # [n, G]
        reads = needed(mine, level)
        fetches = [x.amax(-1) for x in needed_planes(mine, level)]
        there = (originals.present[b, h, block] != 0) | ~(reads[0] | reads[1]).any(-1)
        if finer is not None:
            there &= (finer.planes.present[_page(coded, b, block), h] != 0) | (sum(fetches) == 0)
        missing[b[~there]] = 1
        b, h, block, mine, level = (x[there] for x in (b, h, block, mine, level))
        wanted_originals, fetches = [x[there] for x in reads], [x[there] for x in fetches]
        k, v = (
            scratch.read(store, b, h, block, side).to(torch.float64)
            for side, store in enumerate((originals.keys, originals.values))
        )
        for side, wanted in enumerate(wanted_originals):
            away = wanted.any(-1) & (scratch.slot(b, h, block, side) < 0)
            moved.index_add_(0, b, away * originals.host_block_bytes)
            for plane, size in enumerate(finer.planes.host_block_bytes[side] if finer else ()):
                moved.index_add_(0, b, (fetches[side] > plane) * size)
        old = weights[b, h, :, block]  # [n, G, B]
        ref = reference[b, h, :, block].to(torch.float64)
        after_level = raised(level, mine)
        was_k, now_k, was_v, now_v = (used(x, side, counts[side]) for side in (0, 1) for x in (level, after_level))
        # c as the kernels have it: rounded to binary32
        by_level = [
            (queries[b, h] @ keys.transpose(1, 2)) * bits_per_score(scale)
            for keys in (*_coded_keys(coded, b, h, block, fetches[0], finer), k)
        ]
        scores = at(now_k[..., None], by_level)
        top = torch.maximum(ref, scores.amax(-1).to(torch.float32).to(torch.float64) - BIAS)
        ref_new = torch.where(now_k != was_k, top.to(torch.float32).to(torch.float64), ref)
        scored = torch.exp2(scores - ref_new[..., None]).to(torch.float32).to(torch.float16)
        # a block that is only checked is scored from its original
        checked = torch.where(((mine & CHECKED) != 0)[..., None], by_level[-1], scores)
        apart = (checked - by_level[0]).abs() * math.log(2.0)
        allowed = grouped(nearness, kv_heads)[b, h, :, block] + check.guard
        allowed = allowed + check.relative * grouped(check.size, kv_heads)[b, h, :, block]
        wrong = ~(apart <= allowed[..., None]) & ((now_k != was_k) | (mine & (KEYS | CHECKED) != 0))[..., None]
        check.dense[b[wrong.flatten(1).any(-1)]] = 1
        after = torch.where((now_k != was_k)[..., None], scored, old)
        v_levels = [x[:, None] for x in (*_coded_values(coded, b, h, block, fetches[1], finer), v)]
        v_before, v_after = (at(x[..., None, None], v_levels) for x in (was_v, now_v))
        changed = (mine & (KEY_CHANGE | VALUE_CHANGE)) != 0
        at_m = m[b, h].to(torch.float64)
        w, w_new = (
            torch.where(changed, torch.exp2(r - at_m), 0.0)[..., None] * p.to(torch.float64)
            for r, p in ((ref, old), (ref_new, after))
        )
        both = ((now_k != was_k) & (now_v != was_v))[..., None]
        # where both sides change, w' V_after - w V_before: what cancels otherwise is small, and what does not is not
        shift = (torch.where(both, -w, w_new - w)[..., None] * v_before).sum(-2)
        shift = shift + (w_new[..., None] * (v_after - torch.where(both[..., None], 0.0, v_before))).sum(-2)
        shift = torch.where(changed[..., None], shift, 0.0)  # what heads that stay as they are use was not read
        change_l.index_put_((b, h), (w_new - w).sum(-1), accumulate=True)
        norms = _norms(coded, finer, b, h, block)
        out, in_ = w.sum(-1).to(torch.float32), w_new.sum(-1).to(torch.float32)
        moved_weight.index_put_((b, h), torch.where(now_k != was_k, out + in_, 0.0), accumulate=True)
        of_values = out * at(was_v, norms) + in_ * at(now_v, norms)
        moved_size.index_put_((b, h), of_values, accumulate=True)
        change_o.index_put_((b, h), shift, accumulate=True)
        reference[b, h, :, block] = ref_new.to(torch.float32)
        weights[b, h, :, block] = after
        levels[b, h, :, block] = after_level.to(torch.uint8)
    moved_by = inflate(torch.stack([moved_weight, moved_size, torch.zeros_like(moved_size)], -1))
    moved_by = moved_by * state.losses.of_moved
    settle(change_l.flatten(1, 2), change_o.flatten(1, 2), moved_by.flatten(1, 2), choice, state)


def _norms(
    coded: Coded, finer: FinerRead | None, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor
) -> list[torch.Tensor]:
    """Largest norms of the values of items by level, float32 [n, 1]; infinite where notes are damaged."""
    page = _page(coded, b, block)
    notes = coded.pool.value_notes[page, h].to(torch.float32)
    found = [notes[:, DECODED]]
    if finer is not None:
        found += coded.pool.finer_value_notes[page, h][..., FINER_DECODED].to(torch.float32).unbind(-1)
    return [not_negative(x)[:, None] for x in (*found, notes[:, ORIGINAL_NORM])]


def _nearness(delta: torch.Tensor, choice: Choice, state: State, finer: FinerRead | None, count: int) -> torch.Tensor:
    """Bound by how much scores of a block differ from those of its base, float32 [batch, Hq, max_blocks].

    Those of the level that was chosen, or of the original where keys are only checked.
    """
    by_level = [delta, *(finer.delta if finer is not None else ()), torch.zeros_like(delta)]
    was, now = (used(x, 0, count) for x in (state.levels, raised(state.levels, choice.chosen)))
    return delta + torch.where(was != now, at(now, by_level), 0.0)


def settle(change_l: torch.Tensor, change_o: torch.Tensor, moved: torch.Tensor, choice: Choice, state: State) -> None:
    """Join corrections to the state of the heads that are refined: [batch, Hq], [batch, Hq, d], [batch, Hq, 3]."""
    refined_heads = choice.action == REFINE
    l_new = (state.l.to(torch.float64) + change_l).to(torch.float32)
    o_new = (state.o.to(torch.float64) + change_o).to(torch.float32)
    lost = state.lost + moved
    anew = must_recompute(lost[..., 0], l_new) | ~torch.isfinite(o_new).all(-1)
    state.lost.copy_(torch.where(refined_heads[..., None], lost, state.lost))
    state.lse.copy_(torch.where(refined_heads, math.log(2.0) * (state.m + torch.log2(l_new)), state.lse))
    choice.action.copy_(torch.where(refined_heads & anew, EXACT_HEAD, choice.action))
    state.l.copy_(torch.where(refined_heads, l_new, state.l))
    state.o.copy_(torch.where(refined_heads[..., None], o_new, state.o))
    state.output.copy_(torch.where(refined_heads[..., None], o_new / l_new[..., None], state.output))


def keep_lost_twin(partial: torch.Tensor, state: State, action: torch.Tensor) -> None:
    """Put what o and l of a corrected state may be off by in the place of its sizes; keep the largest that was used.

    Parameters
    ----------
    partial : float32 [batch, Hq, entries, 8]
        See `certify.PARTIAL`; written for heads that are refined: the last entry has it all.
    state : State
    action : uint8 [batch, Hq]
    """
    active = action == REFINE
    of_l, of_o, of_largest = state.lost.unbind(-1)
    norm = distance_ub(state.output, torch.zeros_like(state.output))
    largest = torch.maximum(known(partial[..., LARGEST]).amax(-1), state.largest)
    lost = known(inflate((of_o + of_largest * largest + norm * of_l) / state.l))
    partial[..., SIZE] = torch.where(active[..., None], 0.0, partial[..., SIZE])
    last = partial[..., -1, :]
    last[..., SIZE] = torch.where(active, lost, last[..., SIZE])
    last[..., LARGEST] = torch.where(active, largest, last[..., LARGEST])


def needed(chosen: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a head reads original keys of a block, and original values, bool of the shape of both.

    Values are also read where they are original already and the weights change.
    """
    original = levels & VALUES != 0
    values = ((chosen & VALUES != 0) & ~original) | ((chosen & KEY_CHANGE != 0) & original)
    return chosen & (KEYS | CHECKED) != 0, values


def needed_planes(chosen: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many planes of keys a head reads of a block, and of values, uint8 of the shape of both.

    Those of values also where they are in use and the weights change, or an original replaces them.
    """
    after = raised(levels, chosen)
    keys = torch.where((chosen & KEY_CHANGE != 0) & (after & KEYS == 0), planes(after, 0), 0)
    before = torch.where(levels & VALUES == 0, planes(levels, 1), 0)
    then = torch.where(after & VALUES == 0, planes(after, 1), 0)
    changed = chosen & (KEY_CHANGE | VALUE_CHANGE) != 0
    return keys, torch.where(changed, torch.maximum(before, then), 0)


def must_recompute(lost: torch.Tensor, l_new: torch.Tensor) -> torch.Tensor:
    """Whether too little of a denominator is left beside what it may be off by, or it is not a number."""
    return ~((lost <= LEFT * l_new) & (l_new < torch.inf))


def bits_per_score(scale: float) -> float:
    """Return ``scale log2 e``, formed in float64 and rounded to binary32, as attend has it."""
    return float(torch.tensor(scale * 1.4426950408889634, dtype=torch.float64).to(torch.float32))


def _page(coded: Coded, b: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return coded.page_table[b, block].to(torch.int64)


def _coded_keys(
    coded: Coded, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, count: torch.Tensor, finer: FinerRead | None
) -> list[torch.Tensor]:
    """Decode keys of items at every coded level, float64 [n, B, d]; NaN where that needs more planes than ``count``."""
    pool, page = coded.pool, _page(coded, b, block)
    stored = stored_keys(pool, page, h)
    found = [key_format(coded.keys).decode(stored, coded.block)[0]]
    return found + _finer(coded.planar[0], stored, finer.planes.keys if finer else (), page, h, count, coded.block)


def _coded_values(
    coded: Coded, b: torch.Tensor, h: torch.Tensor, block: torch.Tensor, count: torch.Tensor, finer: FinerRead | None
) -> list[torch.Tensor]:
    """Decode values of items, as `_coded_keys`."""
    pool, page = coded.pool, _page(coded, b, block)
    stored = Encoded(pool.value_codes[page, h], pool.value_step[page, h], pool.value_minimum[page, h])
    found = [value_format(coded.values).decode(stored, coded.block)[0]]
    return found + _finer(coded.planar[1], stored, finer.planes.values if finer else (), page, h, count, coded.block)


def _finer(
    fmt: Planar | None,
    stored: Encoded,
    store: tuple[torch.Tensor, ...],
    page: torch.Tensor,
    h: torch.Tensor,
    count: torch.Tensor,
    block: int,
) -> list[torch.Tensor]:
    """Decode the levels above the base of items whose planes are wanted."""
    if fmt is None:
        return []
    read = tuple(x[page.to(x.device), h.to(x.device)].to(page.device) for x in store)
    decoded = [fmt.decode_level(stored, read[:level], block)[0] for level in range(1, len(read) + 1)]
    return [torch.where((count >= level)[:, None, None], x, torch.nan) for level, x in enumerate(decoded, 1)]
