"""Merge the states of splits: ``M = max m_s``, ``f_s = 2^(m_s - M)``, ``l = sum f_s l_s``, ``o = sum f_s o_s``.

The output is ``o / l``, correctly rounded; ``lse = ln 2 (M + log2 l)``. All splits are merged at once: a weight meets
one factor. The twin is `certkv.fast.merge.merge_twin`.
"""
# ruff: noqa: E741 (l is the softmax state's name; Triton adds tuples, it does not unpack them)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.kernels.work import Work, place_of
from certkv.fast.workspace import Workspace

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["states"])
def merge_kernel(
    part_m,
    part_l,
    part_o,
    m_out,
    l_out,
    o_out,
    output,
    lse,
    flags,
    states,
    FLAG: tl.constexpr,
    SP: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    program=None,
):
    """Merge one head and C channels; leaves at once where its flag is not FLAG, if there are flags."""
    row, part, _batch = place_of(program)
    head = row.to(tl.int64)
    wanted = True
    if FLAG:
        wanted = tl.load(flags + head) == FLAG
    if wanted:
        s = tl.arange(0, SP)
        channel = part * C + tl.arange(0, C)
        at = head * states + s
        m = tl.load(part_m + at, mask=s < states, other=float("-inf"))
        top = tl.max(m, 0)
        # without any token both are -inf
        factor = tl.where(m > float("-inf"), tl.exp2(m - top), 0.0)
        l = tl.sum(factor * tl.load(part_l + at, mask=s < states, other=0.0), 0)
        inside = (s < states)[:, None] & (channel < D)[None, :]
        o = tl.load(part_o + at[:, None] * D + channel[None, :], mask=inside, other=0.0)
        o = tl.sum(factor[:, None] * o, 0)
        tl.store(o_out + head * D + channel, o, mask=channel < D)
        tl.store(output + head * D + channel, tl.div_rn(o, tl.broadcast_to(l, [C])), mask=channel < D)
        if part == 0:
            tl.store(m_out + head, top)
            tl.store(l_out + head, l)
            tl.store(lse + head, LN2 * (top + tl.log2(l)))


def work(out: Workspace, flags: torch.Tensor | None, flag: int = 1) -> Work:
    """Return what to launch: for heads whose flag is ``flag``, or for all."""
    batch, heads, splits, head_dim = out.part_o.shape
    channels = 16 if head_dim <= 128 else 32
    return Work(
        merge_kernel,
        (batch * heads, triton.cdiv(head_dim, channels), 1),
        (
            out.part_m,
            out.part_l,
            out.part_o,
            out.m,
            out.l,
            out.o,
            out.output,
            out.lse,
            out.flags if flags is None else flags,
            splits,
        ),
        {
            "FLAG": 0 if flags is None else flag,
            "SP": triton.next_power_of_2(splits),
            "D": head_dim,
            "C": channels,
        },
        {},
    )


def launch(out: Workspace, flags: torch.Tensor | None) -> None:
    """Launch the kernel; see `certkv.fast.merge.merge`."""
    work(out, flags).launch(4)
