r"""Refine: read originals of chosen blocks and put the softmax state right (identity ``correction``), no second pass.

For a chosen block of a head with executed weights P relative to its reference r, state (m, l, o), ``f = 2^(r - m)``::

    P'  =  fp16( 2^(c q.k - r) )  where keys are chosen, otherwise P          c = scale log2 e
    l  +=  f sum (P' - P)
    o  +=  f sum (P' - P) V_before  +  f sum P' (V_after - V_before)

V is the coded value or, once promoted, the original. P' replaces P in ``weights``, so that the certificate is summed
anew from what was executed. A head goes to rung 3 instead (`must_recompute`) where a chosen block's score error is
above 1, or less than a quarter of the *first* denominator is left; originals that are missing are never replaced by
anything: the sequence has no output.

**What it costs** (`refined`). Let the first pass have left ``||o - sum w V_hat|| <= E_o sum w size`` and ``|l - sum w|
<= E_l sum w`` over its effective weights w, and let f stand for factors that w was a product of, ``|w - P f| <= r P
f``. New weights are ``w' = P' f``, and ``w <= 3 w'`` where Delta <= 1 (3 > e^1.09: rounding of both scores, of both
weights, and r). So old errors are at most 3 times what they are relative to the new sums, with the sizes of coded
values; what is left of (w - P f) is at most 3 r of them; and the corrections, summed with at most n roundings on a
path, lose at most gamma_n (``sum |w' - w| size + sum max(w, w') ||V - V_hat||``) <= gamma_n (4 + 6) of them, whichever
side was promoted first. The join of a round is one of the n, and what it rounds at most 3 + 10 of them. All is below

    E_o' = 4 E_o + 4 r + 24 gamma_n      E_l' = 4 E_l + 4 r + 24 gamma_n

relative to the mean size of values as they are used now, and once more to the largest size that was ever used: of
promoted values the sizes as coded are no longer known block by block (`keep_largest_twin`).

**Levels.** Where formats have planes, a side of a block changes at most c times: for each plane, and for its original.
With Delta_i + Delta_j <= 1 for the levels i, j that it has had, any two of its weights differ by at most that factor 3,
so the changes of a block are at most c (4 + 6) and what joins round at most 3 + 10 c: 4 + 20 c in place of 24. Sizes
are those of all levels (`certify`), so the largest that was ever used is known as before.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from certkv.fast.certify import PARTIAL
from certkv.fast.charges import Charges
from certkv.fast.choose import EXACT_HEAD, KEYS, REFINE, VALUES, Choice
from certkv.fast.coded import Coded, grouped
from certkv.fast.decoded import stored_keys
from certkv.fast.formats import Encoded
from certkv.fast.formats.planar import Planar
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.host import Originals
from certkv.fast.levels import KEY_CHANGE, VALUE_CHANGE, at, planes, raised, used

if TYPE_CHECKING:
    from certkv.fast.planes import Planes
    from certkv.fast.scratch import Scratch

KEPT = 0.25
"""Share of the first denominator that must be left."""

LARGEST_DELTA = 1.0
"""Score error of a promoted block above which its head is computed anew: weights could leave the range of float16."""

OLD = 4.0
"""What the first pass lost counts so often, relative to what is left."""

CHECKED = 4
"""Bit of a choice: the block is scored both ways, and that is all."""

LARGEST = PARTIAL.index("largest")

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
    weights : float16 [batch, Hq, max_blocks, B]
        P.
    reference : float32 [batch, Hq, max_blocks]
        r, in bits: ``P = 2^(c q.k - r)``.
    levels : uint8 [batch, Hq, max_blocks]
    m, l : float32 [batch, Hq]
    first, largest : float32 [batch, Hq]
        l before any correction, and the largest size of a value that the first pass used.
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
    first: torch.Tensor
    largest: torch.Tensor
    o: torch.Tensor
    output: torch.Tensor
    lse: torch.Tensor


class Corrections(NamedTuple):
    """What programs of one round add up, before it is joined to the state.

    Attributes
    ----------
    l : float32 [batch, Hq, SPLITS]
    o : float32 [batch, Hq, SPLITS, d]
    turned : float32 [batch, Hq, SPLITS, d], or empty
        What is to be rotated before it joins, where coded values are in the rotated basis.
    query : float32 [batch, Hq, d], or empty
        The rotated query, where keys are.
    """

    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    o: torch.Tensor
    turned: torch.Tensor
    query: torch.Tensor

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        rotated: tuple[bool, bool] = (False, False),
    ) -> Corrections:
        """Allocate, for keys and values that are rotated or not; everything is NaN."""
        shape, keys, values = (batch, heads, SPLITS), *rotated
        return cls(
            torch.full(shape, torch.nan, device=device),
            torch.full((*shape, head_dim), torch.nan, device=device),
            torch.full((*shape, head_dim if values else 0), torch.nan, device=device),
            torch.full((batch, heads, head_dim if keys else 0), torch.nan, device=device),
        )


def roundings(block: int, max_blocks: int, rounds: int, turning: int = 0) -> int:
    """Most roundings on a path from a weight to the sum of a round's corrections, and from there to the state.

    Decoding, a difference, a product, sums over the tokens of a block, the factor f; sums over a program's blocks and
    over programs; a rotation of what is in the rotated basis; a join per round.
    """
    return block + 8 + -(-max_blocks // SPLITS) + SPLITS + turning + rounds


def refined(
    charges: Charges, *, block: int, max_blocks: int, rounds: int, chain: float, changes: int = 1, turning: int = 0
) -> Charges:
    """Return the charges of a state that may have been corrected.

    Its ``largest`` must be at least the largest size that the first pass used.

    Parameters
    ----------
    charges : Charges
        Of the first pass; ``of_mean`` covers E_o and ``of_output`` covers E_l.
    block, max_blocks, rounds : int
    chain : float
        r: what the factors that a weight met in the first pass differ from f by, relatively.
    changes : int
        Most changes of one side of a block: one for its original, and one for each plane.
    turning : int
        Roundings of a rotation, where values are in the rotated basis.
    """
    n = roundings(block, max_blocks, rounds, turning)
    gamma = n * 2.0**-24 / (1.0 - n * 2.0**-24)
    more = (4.0 * chain + (4.0 + 20.0 * changes) * gamma) * (1.0 + 2.0**-20)
    share = OLD * charges.of_output + more
    return replace(
        charges,
        share_up=charges.share_up * (1.0 + 2.0 * share) * (1.0 + 2.0**-40),
        share_lost=min(OLD * charges.share_lost, 1.0),
        mass_down=charges.mass_down * (1.0 - 2.0 * share) * (1.0 - 2.0**-40),
        mass_lost=OLD * charges.mass_lost,
        of_mean=OLD * charges.of_mean + more,
        of_largest=OLD * (charges.of_largest + charges.of_mean) + more,
        of_output=OLD * charges.of_output + more,
        absolute=OLD * charges.absolute + 2.0**-60,
    )


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
        In the first round, the terms of the first pass (`certify.PARTIAL`): what `keep_largest_twin` needs is kept.
    finer : FinerRead or None
        Where formats have planes.
    """
    if before is not None:
        active = choice.action == REFINE
        state.first.copy_(torch.where(active, state.l, state.first))
        state.largest.copy_(torch.where(active, before[..., LARGEST].amax(-1), state.largest))
    kv_heads, counts = coded.anchor.shape[1], coded.finer if finer else (0, 0)
    chosen, reference, m = (grouped(x, kv_heads) for x in (choice.chosen, state.reference, state.m))
    weights, levels = grouped(state.weights, kv_heads), grouped(state.levels, kv_heads)
    queries = grouped(q, kv_heads).to(torch.float64)
    change_l = torch.zeros(m.shape, dtype=torch.float64, device=q.device)
    change_o = torch.zeros((*m.shape, q.shape[-1]), dtype=torch.float64, device=q.device)
    reach, nearness = _reach(delta, choice, state, finer, counts[0])
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
        scored = torch.exp2(scores - ref[..., None]).to(torch.float32).to(torch.float16)
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
        p, p_new = old.to(torch.float64), after.to(torch.float64)
        changed = (mine & (KEY_CHANGE | VALUE_CHANGE)) != 0
        factor = torch.where(changed, torch.exp2(ref - m[b, h].to(torch.float64)), 0.0)
        shift = ((p_new - p)[..., None] * v_before + p_new[..., None] * (v_after - v_before)).sum(-2)
        shift = torch.where(changed[..., None], shift, 0.0)  # what heads that stay as they are use was not read
        change_l.index_put_((b, h), factor * (p_new - p).sum(-1), accumulate=True)
        change_o.index_put_((b, h), factor[..., None] * shift, accumulate=True)
        weights[b, h, :, block] = after
        levels[b, h, :, block] = after_level.to(torch.uint8)
    settle(change_l.flatten(1, 2), change_o.flatten(1, 2), reach, choice, state)


def _reach(
    delta: torch.Tensor, choice: Choice, state: State, finer: FinerRead | None, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bound by how much logarithms of weights differ, rounding aside, between levels of a block's keys.

    Returns
    -------
    reach : float32 [batch, Hq, max_blocks]
        Between the level that was chosen and any that the block has had; 0 where keys stay as they are.
    nearness : float32 [batch, Hq, max_blocks]
        Between that level, or the original where keys are only checked, and the base.
    """
    by_level = [delta, *(finer.delta if finer is not None else ()), torch.zeros_like(delta)]
    was, now = (used(x, 0, count) for x in (state.levels, raised(state.levels, choice.chosen)))
    after = at(now, by_level)
    largest = torch.maximum(delta, at(was, by_level)) if count else delta
    return torch.where(was != now, largest + after, 0.0), delta + torch.where(was != now, after, 0.0)


def settle(change_l: torch.Tensor, change_o: torch.Tensor, reach: torch.Tensor, choice: Choice, state: State) -> None:
    """Join the corrections to the state of the heads that are refined, [batch, Hq] and [batch, Hq, d]; see `_reach`."""
    refined_heads = choice.action == REFINE
    l_new = (state.l.to(torch.float64) + change_l).to(torch.float32)
    o_new = (state.o.to(torch.float64) + change_o).to(torch.float32)
    far = (~(reach <= LARGEST_DELTA)).any(-1)
    anew = must_recompute(state.first, l_new) | far | ~torch.isfinite(o_new).all(-1)
    state.lse.copy_(torch.where(refined_heads, math.log(2.0) * (state.m + torch.log2(l_new)), state.lse))
    choice.action.copy_(torch.where(refined_heads & anew, EXACT_HEAD, choice.action))
    state.l.copy_(torch.where(refined_heads, l_new, state.l))
    state.o.copy_(torch.where(refined_heads[..., None], o_new, state.o))
    state.output.copy_(torch.where(refined_heads[..., None], o_new / l_new[..., None], state.output))


def keep_largest_twin(partial: torch.Tensor, state: State, action: torch.Tensor) -> None:
    """Keep the largest size of a value that the first pass used, also where it is an original now.

    Parameters
    ----------
    partial : float32 [batch, Hq, entries, 8]
        See `certify.PARTIAL`; the last entry's largest size is raised, for heads that are refined.
    state : State
    action : uint8 [batch, Hq]
    """
    last = partial[..., -1, LARGEST]
    last.copy_(torch.where(action == REFINE, torch.maximum(last, state.largest), last))


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


def must_recompute(first: torch.Tensor, l_new: torch.Tensor) -> torch.Tensor:
    """Whether too little of a denominator is left, or it is not a number."""
    return ~((l_new >= KEPT * first) & (l_new < torch.inf))


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
