"""Join what refine summed to the state of each head, or give the head up; formulas in `certkv.fast.refine`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.choose import EXACT_HEAD, REFINE, Choice
from certkv.fast.kernels.certify import distance_ub
from certkv.fast.kernels.outward_fp32 import inflate, known
from certkv.fast.kernels.rotation import rotate
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.refine import LARGEST, LEFT, SIZE, SPLITS, Corrections, State

REFINED = tl.constexpr(REFINE)
GIVEN_UP = tl.constexpr(EXACT_HEAD)
MOST_LOST = tl.constexpr(LEFT)
AT_SIZE, AT_LARGEST = tl.constexpr(SIZE), tl.constexpr(LARGEST)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["initial"])
def settle_kernel(
    counts,
    change_l,
    change_o,
    change_turned,
    change_lost,
    action,
    maxima,
    denominators,
    largest,
    lost,
    sums,
    output,
    lse,
    partial,
    entries,
    of_size,
    of_largest,
    of_sum,
    of_moved,
    E: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    S: tl.constexpr,
    TURNED: tl.constexpr,
    initial,
    program=None,
):
    """Join the corrections of a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    count = tl.load(counts + row // G)
    if (tl.load(action + row) == REFINED) & (count > 0):
        split = tl.arange(0, S)
        some = split < count
        channel = tl.arange(0, DP)
        live = channel < D
        l_old = tl.load(denominators + row)
        lost_l, lost_o = l_old * of_sum, tl.zeros_like(l_old)
        if initial != 0:
            entry = tl.arange(0, E)
            at = partial + (row * entries + entry) * 8
            tl.store(largest + row, tl.max(known(tl.load(at + AT_LARGEST, mask=entry < entries, other=0.0)), 0))
            size = known(tl.sum(tl.load(at + AT_SIZE, mask=entry < entries, other=0.0), 0))
            lost_o = l_old * (size * of_size)
            tl.store(lost + row * 3 + 2, l_old * of_largest)
        else:
            lost_l, lost_o = tl.load(lost + row * 3), tl.load(lost + row * 3 + 1)
        moved = change_lost + (row * S + split) * 2
        moved_l = inflate(tl.sum(tl.load(moved, mask=some, other=0.0), 0))
        moved_o = inflate(tl.sum(tl.load(moved + 1, mask=some, other=0.0), 0))
        lost_l += moved_l * of_moved
        lost_o += moved_o * of_moved
        tl.store(lost + row * 3, lost_l)
        tl.store(lost + row * 3 + 1, lost_o)
        l_new = l_old + tl.sum(tl.load(change_l + row * S + split, mask=some, other=0.0), 0)
        at = (row * S + split)[:, None] * D + channel[None, :]
        mask = some[:, None] & live[None, :]
        change = tl.sum(tl.load(change_o + at, mask=mask, other=0.0), 0)
        if TURNED:
            turned = tl.sum(tl.load(change_turned + at, mask=mask, other=0.0), 0)
            change += tl.reshape(rotate(turned[None, :], D), (DP,))
        o = tl.load(sums + row * D + channel, mask=live, other=0.0) + change
        finite = tl.min((tl.abs(o) < float("inf")).to(tl.int32), 0) != 0
        if finite & (lost_l <= MOST_LOST * l_new) & (l_new < float("inf")):
            tl.store(lse + row, LN2 * (tl.load(maxima + row) + tl.log2(l_new)))
        else:
            tl.store(action + row, GIVEN_UP)
        tl.store(denominators + row, l_new)
        tl.store(sums + row * D + channel, o, mask=live)
        tl.store(output + row * D + channel, tl.div_rn(o, l_new + tl.zeros_like(o)), mask=live)


@triton.jit
def keep_lost_kernel(
    partial, output, denominators, largest, lost, action, entries, E: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    program=None,
):  # fmt: skip
    """Put what a corrected state may be off by in the place of its sizes, for a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    if tl.load(action + row) == REFINED:
        channel = tl.arange(0, DP)
        c = tl.load(output + row * D + channel, mask=channel < D, other=0.0)[None, :]
        norm = tl.sum(distance_ub(c, 0.0, D), 0)
        entry = tl.arange(0, E)
        some = entry < entries
        at = partial + (row * entries + entry) * 8
        widest = tl.max(known(tl.load(at + AT_LARGEST, mask=some, other=0.0)), 0)
        widest = tl.maximum(widest, tl.load(largest + row))
        of_l, of_o, of_largest = tl.load(lost + row * 3), tl.load(lost + row * 3 + 1), tl.load(lost + row * 3 + 2)
        off = of_o + of_largest * widest + norm * of_l
        off = known(inflate(tl.div_rn(off, tl.load(denominators + row))))
        last = entry == entries - 1
        tl.store(at + AT_SIZE, tl.where(last, off, 0.0), mask=some)
        tl.store(at + AT_LARGEST, tl.zeros((E,), tl.float32) + widest, mask=last)


def work_settle(choice: Choice, state: State, sums: Corrections, partial: torch.Tensor, initial: bool) -> Work:
    """Return what to launch to join what was summed; ``partial`` is read in the first round only."""
    heads, head_dim = state.o.shape[1:]
    return Work(
        settle_kernel,
        (choice.action.numel(), 1, 1),
        (
            choice.counts,
            sums.l,
            sums.o,
            sums.turned,
            sums.lost,
            choice.action,
            state.m,
            state.l,
            state.largest,
            state.lost,
            state.o,
            state.output,
            state.lse,
            partial,
            partial.shape[2] if initial else 1,
            *state.losses,
        ),
        {
            "E": triton.next_power_of_2(partial.shape[2]) if initial else 1,
            "G": heads // choice.work.shape[1],
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "S": SPLITS,
            "TURNED": sums.turned.numel() > 0,
        },
        {"initial": int(initial)},
    )


def work_keep_lost(partial: torch.Tensor, state: State, action: torch.Tensor) -> Work:
    """Return what to launch; arguments as those of `certkv.fast.refine.keep_lost_twin`."""
    entries, head_dim = partial.shape[2], state.output.shape[-1]
    arguments = (partial, state.output, state.l, state.largest, state.lost, action, entries)
    constants = {"E": triton.next_power_of_2(entries), "D": head_dim, "DP": triton.next_power_of_2(head_dim)}
    return Work(keep_lost_kernel, (action.numel(), 1, 1), arguments, constants, {})


def launch_keep_lost(partial: torch.Tensor, state: State, action: torch.Tensor) -> None:
    """Launch; arguments as those of `certkv.fast.refine.keep_lost_twin`."""
    work_keep_lost(partial, state, action).launch(1)
