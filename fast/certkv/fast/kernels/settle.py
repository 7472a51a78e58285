"""Join what refine summed to the state of each head, or give the head up; formulas in `certkv.fast.refine`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.choose import EXACT_HEAD, REFINE, Choice
from certkv.fast.kernels.outward_fp32 import known
from certkv.fast.kernels.rotation import rotate
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.refine import KEPT, LARGEST, SPLITS, Corrections, State

REFINED = tl.constexpr(REFINE)
GIVEN_UP = tl.constexpr(EXACT_HEAD)
LEFT = tl.constexpr(KEPT)
SIZE = tl.constexpr(LARGEST)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["initial"])
def settle_kernel(
    counts,
    change_l,
    change_o,
    change_turned,
    action,
    maxima,
    denominators,
    firsts,
    largest,
    sums,
    output,
    lse,
    partial,
    entries,
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
        l_first = l_old
        if initial != 0:
            entry = tl.arange(0, E)
            sizes = tl.load(partial + (row * entries + entry) * 8 + SIZE, mask=entry < entries, other=0.0)
            tl.store(largest + row, tl.max(known(sizes), 0))
            tl.store(firsts + row, l_old)
        else:
            l_first = tl.load(firsts + row)
        l_new = l_old + tl.sum(tl.load(change_l + row * S + split, mask=some, other=0.0), 0)
        at = (row * S + split)[:, None] * D + channel[None, :]
        mask = some[:, None] & live[None, :]
        change = tl.sum(tl.load(change_o + at, mask=mask, other=0.0), 0)
        if TURNED:
            turned = tl.sum(tl.load(change_turned + at, mask=mask, other=0.0), 0)
            change += tl.reshape(rotate(turned[None, :], D), (DP,))
        o = tl.load(sums + row * D + channel, mask=live, other=0.0) + change
        finite = tl.min((tl.abs(o) < float("inf")).to(tl.int32), 0) != 0
        if finite & (l_new >= LEFT * l_first) & (l_new < float("inf")):
            tl.store(lse + row, LN2 * (tl.load(maxima + row) + tl.log2(l_new)))
        else:
            tl.store(action + row, GIVEN_UP)
        tl.store(denominators + row, l_new)
        tl.store(sums + row * D + channel, o, mask=live)
        tl.store(output + row * D + channel, tl.div_rn(o, l_new + tl.zeros_like(o)), mask=live)


@triton.jit
def keep_largest_kernel(partial, largest, action, entries, program=None):
    """Raise the last entry's largest size, for a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    if tl.load(action + row) == REFINED:
        at = partial + (row * entries + entries - 1) * 8 + SIZE
        tl.store(at, tl.maximum(known(tl.load(at)), tl.load(largest + row)))


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
            choice.action,
            state.m,
            state.l,
            state.first,
            state.largest,
            state.o,
            state.output,
            state.lse,
            partial,
            partial.shape[2] if initial else 1,
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


def work_keep_largest(partial: torch.Tensor, state: State, action: torch.Tensor) -> Work:
    """Return what to launch; arguments as those of `certkv.fast.refine.keep_largest_twin`."""
    arguments = (partial, state.largest, action, partial.shape[2])
    return Work(keep_largest_kernel, (action.numel(), 1, 1), arguments, {}, {})


def launch_keep_largest(partial: torch.Tensor, state: State, action: torch.Tensor) -> None:
    """Launch; arguments as those of `certkv.fast.refine.keep_largest_twin`."""
    work_keep_largest(partial, state, action).launch(1)
