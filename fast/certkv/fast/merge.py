"""Merge the partial states of a pass into the state of every head; the kernel is `certkv.fast.kernels.merge`."""

from __future__ import annotations

import math

import torch

from certkv.fast.workspace import Workspace

LN2 = math.log(2.0)


def merge(out: Workspace, flags: torch.Tensor | None = None) -> None:
    """Write ``m``, ``l``, ``o``, ``output`` and ``lse`` from the partial states.

    Parameters
    ----------
    out : Workspace
    flags : uint8 [batch, Hq] or None
        Heads to merge, where not 0; None for all.
    """
    if out.m.is_cuda:
        from certkv.fast.kernels.merge import launch

        launch(out, flags)
    else:
        merge_twin(out, flags)


def merge_twin(out: Workspace, flags: torch.Tensor | None = None) -> None:
    """Twin of the kernel; see `merge`."""
    chosen = torch.ones_like(out.m, dtype=torch.bool) if flags is None else flags != 0
    top = out.part_m.amax(-1)
    some = out.part_m > -torch.inf
    factor = torch.where(some, torch.exp2(out.part_m - top[..., None]), 0.0)
    total = (factor * out.part_l).sum(-1)
    o = (factor[..., None] * out.part_o).sum(-2)
    merged = {
        "m": top,
        "l": total,
        "o": o,
        "output": o / total[..., None],
        "lse": LN2 * (top + torch.log2(total)),
    }
    for name, value in merged.items():
        target = getattr(out, name)
        here = chosen[..., None] if value.ndim > chosen.ndim else chosen
        target.copy_(torch.where(here, value, target))
