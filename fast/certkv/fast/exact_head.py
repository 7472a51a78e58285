"""Rung 3: attention of the originals for flagged heads; the kernel is `certkv.fast.kernels.exact_head`.

As `certkv.fast.attend`, with keys and values as they were appended: no codes, and no theorem but its arithmetic term.
"""

from __future__ import annotations

import torch

from certkv.fast.arithmetic import signed_constant
from certkv.fast.attend import softmax_tiles, store_split
from certkv.fast.coded import Coded, grouped
from certkv.fast.merge import merge
from certkv.fast.resident import TAIL, Resident
from certkv.fast.workspace import Workspace


def exact_head(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    out: Workspace,
) -> None:
    """Compute the heads that ``out.flags`` names from their originals, and merge their splits.

    Parameters
    ----------
    q : T [batch, Hq, d], finite, contiguous
    coded : Coded
        For lengths and shapes; codes are not read.
    resident : Resident
        For the tail.
    keys, values : T [batch, H, max_blocks, B, d], contiguous
        Originals of full blocks: on q's device, or pinned in host memory.
    scale : float
    out : Workspace
        ``part_*`` and the merged state of flagged heads are written; weights and all of other heads stay.
    """
    if q.is_cuda:
        from certkv.fast.kernels.exact_head import launch

        launch(q, coded, resident, keys, values, scale, out)
    else:
        exact_head_twin(q, coded, resident, keys, values, scale, out)
    merge(out, out.flags)


def exact_head_twin(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    out: Workspace,
) -> None:
    """Twin of the kernel, in binary32; see `exact_head`."""
    sign, constant = signed_constant(scale)
    heads, block = coded.anchor.shape[1], coded.block
    query = grouped(q.to(torch.float32), heads) * sign
    parts = {name: grouped(getattr(out, name), heads) for name in ("part_m", "part_l", "part_o")}
    flags = grouped(out.flags, heads)
    for s, tokens in enumerate(coded.lengths.tolist()):
        flagged = flags[s] != 0
        if not flagged.any():
            continue
        blocks = tokens // block
        for split in range(out.splits + 1):
            first, last = (blocks * i // out.splits for i in (split, split + 1))
            sides = (
                (x[s, :, first:last] for x in (keys, values))
                if split < out.splits
                else (x[s, :, TAIL, None, : tokens % block] for x in (resident.keys, resident.values))
            )
            k, v = (x.to(torch.float32) for x in sides)
            _, m, state = softmax_tiles(query[s], k, v, constant)
            store_split(parts, s, split, m, state, flagged)
